"""Programs for elsewhere: ONNX, held to onnxruntime; `torch.jit.trace`; `torch.export` in a fresh process.

Every number is equal to the bit: onnxruntime's operators round as PyTorch's do.
"""

import io
import logging
import subprocess
import sys
from pathlib import Path

import norse.torch as norse
import numpy as np
import onnxruntime
import pytest
import torch
from snn_lnm_norse import LNMParameters, lnm_feed_forward_step
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import snn_lnm
from snn_lnm import LNM, QIF, State, engines
from snn_lnm.engines import plain
from snn_lnm.fuse import blocks

pytestmark = [
    # PyTorch's own, of its exporters and of TorchScript.
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
]
T = 3


class Sequence(nn.Module):
    """Spikes, last state and membrane of a sequence."""

    def __init__(self, *neurons):
        super().__init__()
        self.neurons = nn.ModuleList(neurons)

    def forward(self, x):
        found = []
        for neuron in self.neurons:
            spikes, state, membrane = neuron(x, return_membrane=True)
            found += [spikes, membrane, *(value for value in state if value is not None)]
        return tuple(found)


class Step(nn.Module):
    """A step of every neuron, from a state that is given."""

    def __init__(self, *neurons):
        super().__init__()
        self.neurons = nn.ModuleList(neurons)

    def forward(self, x, v, current):
        found = []
        for neuron in self.neurons:
            spikes, state = neuron.step(x, State(v, None if neuron.alpha is None else current))
            found += [spikes, *(value for value in state if value is not None)]
        return tuple(found)


@pytest.fixture(autouse=True)
def _quiet():
    """PyTorch's compiler describes all that it does to the log, which pytest keeps: most of the time of an export."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def of_onnx(model, arguments, **options):
    """The function that onnxruntime makes of ``model``."""
    program = torch.onnx.export(model, arguments, dynamo=True, verbose=False, **options)
    return of_bytes(program.model_proto.SerializeToString())


def of_bytes(program):
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*arguments):
        found = session.run(None, {name: value.numpy() for name, value in zip(names, arguments, strict=True)})
        return [torch.from_numpy(np.asarray(value)) for value in found]

    return run


def check(run, model, *arguments):
    """The bits of ``model``, and some spikes."""
    found, expected = run(*arguments), model(*arguments)
    assert len(found) == len(expected)
    assert all(identical(mine, true.detach()) for mine, true in zip(found, expected, strict=True))
    assert 0 < expected[0].mean() < 1


def identical(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def random(*shape):
    return 2 * torch.randn(*shape)


def theta(degree, *layout):
    return 0.4 * torch.randn(*layout, degree + 1, generator=torch.Generator().manual_seed(degree))


CHANNELS = torch.tensor([0.5, 0.8, 1.1])
NEURONS = {  # for steps `[B, 3, 2]`: every option of the law, numbers of all three layouts
    "degree 0, soft": lambda: LNM(coefficients=theta(0), reset="soft", threshold=0.5),
    "degree 1, none": lambda: LNM(coefficients=theta(1, 3), charge="map", reset="none", fire_at_threshold=True),
    "degree 2, hard next": lambda: LNM(coefficients=theta(2), reset="hard_next", alpha=0.5, v_reset=CHANNELS),
    "degree 3, soft next": lambda: LNM(
        coefficients=theta(3, 3, 2), reset="soft_next", threshold=CHANNELS, domain=(-0.5, 1.0), backend="cpp"
    ),
    "degree 4, constant": lambda: LNM(
        coefficients=theta(4, 3), extension="constant", alpha=CHANNELS / 2, synapse="euler", domain=(-0.5, 0.5)
    ),
    "degree 8, divides": lambda: LNM(
        coefficients=theta(8), charge="residual", gain=CHANNELS + 1, gain_divides=True, surrogate="sigmoid"
    ),
    "degree 5, no domain": lambda: LNM(coefficients=theta(5) / 16, domain=None, charge="residual", v_reset=0.1),
    "QIF": QIF,
}
IN_ONNX = ("degree 3, soft next", "degree 4, constant")


class Beside(TorchDispatchMode):
    """Holds every call of the forward operator to what stands for it."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.snn_lnm.scan.cpp:
            self.calls += 1
            assert all(map(identical, plain.scan(*args), found))
        return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", NEURONS.values(), ids=NEURONS)
def test_what_stands_for_the_operator(make, dtype):
    """A step, a sequence, one that is held at one input; with the membrane and without; all four outputs."""
    neuron, x = make().to(torch.float32 if dtype == torch.bfloat16 else dtype), random(T, 2, 3, 2).to(dtype)
    with Beside() as seen, torch.no_grad():
        for wanted in (True, False):
            _, state, *_ = neuron(x, return_membrane=wanted)
            neuron(x[:1].expand(x.shape), state, return_membrane=wanted)
            neuron.step(x[0], state, return_membrane=wanted)
    assert seen.calls == 6


@pytest.mark.parametrize("memory", [snn_lnm.Memory(), snn_lnm.Memory(dtype=torch.bfloat16)])
def test_what_stands_for_it_keeps_what_it_keeps(memory):
    """In training, without a wish for the membrane; half of it is of the right shape, and for nobody to read."""
    operator, seen = torch.ops.snn_lnm.scan.cpp, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if func is operator:
                seen.append((found, plain.scan(*args)))
            return found

    with Watch():
        LNM(3, memory=memory)(random(T, 2, 3))
    ((found, mine),) = seen
    assert [(value.shape, value.dtype) for value in found] == [(value.shape, value.dtype) for value in mine]


def test_onnx():
    """Steps from a given state, with other numbers of neurons in the batch than when exported."""
    model, batch = Step(*(NEURONS[name]() for name in IN_ONNX)), torch.export.Dim("batch", min=2, max=64)
    run = of_onnx(model.eval(), tuple(random(2, 3, 2) for _ in range(3)), dynamic_shapes=({0: batch},) * 3)
    for size in (2, 7):
        check(run, model, *(random(size, 3, 2) for _ in range(3)))


def test_a_sequence_in_onnx():
    """Its number of steps is a number of the program, which is the same whether an exported program is between."""
    model, x = Sequence(LNM(channels=3, alpha=0.5)), random(T, 2, 3)
    program = torch.export.export(model, (x,))
    assert names_of(program) == ["snn_lnm.scan.cpp"]
    run = of_onnx(program, ())
    check(run, model, random(T, 2, 3))
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Got: 4 Expected: 3"):
        run(random(T + 1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["hard", "soft", "none", "soft_next", "hard_next"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 5, 8])
def test_every_degree_and_reset_in_onnx(degree, reset):
    options = {"reset": reset, "domain": (-0.5, 1.0), "threshold": 0.5}
    model = Sequence(
        LNM(coefficients=theta(degree), **options), LNM(coefficients=theta(degree, 3), alpha=0.5, **options)
    )
    check(of_onnx(model.eval(), (random(T, 2, 3),)), model, random(T, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("make", NEURONS.values(), ids=NEURONS)
def test_every_neuron_in_onnx(make):
    model, arguments = Step(make()), tuple(random(2, 3, 2) for _ in range(3))
    check(of_onnx(model.eval(), arguments), model, *arguments)


def names_of(program):
    """Our operators in it."""
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return [target for target in targets if "snn_lnm" in target]


def test_an_exported_program_keeps_the_operator_until_asked():
    """Of any batch: the shapes of the operator are asked for, not its steps."""
    batch, model, operator = torch.export.Dim("batch", min=2, max=64), Sequence(LNM(3)), torch.ops.snn_lnm.scan.cpp
    with pytest.MonkeyPatch.context() as change:
        change.setitem(torch._decomp.decomposition_table, operator, lambda *_: pytest.fail("its steps are asked for"))
        program = torch.export.export(model, (random(T, 2, 3),), dynamic_shapes=({1: batch},))
    assert names_of(program) == names_of(program.run_decompositions()) == ["snn_lnm.scan.cpp"]
    table = torch.export.default_decompositions()
    table.update(engines.decompositions())
    plainly = program.run_decompositions(table)
    assert not names_of(plainly)
    check(plainly.module(), model, random(T, 7, 3))


def saved(traced):
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("make", NEURONS.values(), ids=NEURONS)
def test_traced(make):
    """A sequence holds the operator, for any batch and any number of steps, and learns; and so does a step."""
    model, x = Sequence(make()), random(T + 2, 5, 3, 2)
    traced = torch.jit.trace(model, random(T, 2, 3, 2))
    for program in (traced, saved(traced)):
        check(program, model, x)
    learned = [value for value in model.parameters() if value.requires_grad]
    expected, found = (torch.autograd.grad(run(x)[0].sum(), learned) for run in (model, traced))
    # Without a domain a membrane may run to infinity, and its gradient to NaN.
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    step, arguments = Step(make()), [random(5, 3, 2) for _ in range(3)]
    check(saved(torch.jit.trace(step, [value[:2] for value in arguments])), step, *arguments)


def test_traced_at_one_input():
    """What is held in the example may not be so later."""
    model, x = Sequence(LNM(3)), random(T, 2, 3)
    check(torch.jit.trace(model, x[:1].expand(x.shape)), model, x)


def test_tracing_leaves_nothing_behind():
    """Neither a number of the call, nor a start."""
    neuron, x = LNM(3), random(T, 2, 3)
    torch.jit.trace(Sequence(neuron), x, check_trace=False)
    assert not neuron.dynamics.prepared
    check(Sequence(neuron), Sequence(LNM(3, backend="reference")), x)


def test_the_reference_is_traced_without_gradients():
    """As plain operators, of so many steps; its surrogate gradient is Python's, which no program holds."""
    model, x = Sequence(LNM(0, backend="reference"), LNM(3, channels=3, backend="reference")), random(T, 2, 3)
    with pytest.raises(RuntimeError, match=r"trace under torch.no_grad\(\), or use torch.export"):
        torch.jit.trace(model, x)
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
    assert "snn_lnm::" not in str(traced.inlined_graph)
    check(saved(traced), model, random(T, 5, 3))
    with torch.no_grad():
        own = torch.jit.trace(Sequence(LNM(surrogate=lambda u: (u > 0).to(u.dtype))), x)
    check(own, Sequence(LNM()), x)


def test_the_old_onnx_exporter_gets_plain_operators():
    model, x, file = Sequence(LNM(channels=3, alpha=0.5)), random(T, 2, 3), io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=False)
    check(of_bytes(file.getvalue()), model, x)
    with pytest.raises(RuntimeError, match=r"backend='cpp' cannot run here: torch\.onnx\.export .* dynamo=True"):
        torch.onnx.export(Sequence(LNM(backend="cpp")), (x,), file, dynamo=False)


class Fused(nn.Module):
    """A fused Norse network, whose states are arguments of its layers; its spikes."""

    def __init__(self):
        super().__init__()
        net = norse.SequentialState(nn.Linear(3, 4), norse.LIFCell(), nn.Linear(4, 3))
        nn.init.uniform_(net[0].weight, 0, 6)
        snn_lnm.swap(net, degree=3)
        self.net = snn_lnm.fuse_time(net)

    def forward(self, x):
        return (self.net(x)[0],)


def test_fused_and_swapped():
    model, x = Fused().eval(), random(2 * T, 2, 3).abs()
    assert len(model(x)[0].unique()) > 3  # some spike
    assert torch.equal(torch.export.export(model, (x,)).module()(x)[0], model(x)[0])
    traced = torch.jit.trace(model, x)
    for other in (x, random(3 * T, 5, 3).abs()):  # in one block each
        assert torch.equal(traced(other)[0], model(other)[0])


@pytest.mark.parametrize("at_once", ["auto", "all", 2])
@pytest.mark.parametrize("state", [False, True])
def test_tracing_a_fused_network_warns_of_nothing(state, at_once, monkeypatch):
    """In blocks too, and with a recurrent neuron, which runs step by step: then of so many steps."""
    monkeypatch.setattr(blocks, "FIRST_BYTES", 1)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    net = norse.SequentialState(nn.Linear(3, 4), norse.LIFCell(), norse.LIFRecurrentCell(4, 4))
    snn_lnm.swap(net)
    model, x = snn_lnm.fuse_time(net.requires_grad_(False), at_once=at_once), random(blocks.FEWEST + 2, 5, 3).abs()
    start = model(x[:1])[1] if state else None
    traced = torch.jit.trace(lambda x: model(x, start)[0], x)
    assert torch.equal(traced(x), model(x, start)[0])


def test_tracing_a_fused_network_that_pools_warns_of_nothing():
    net = norse.SequentialState(nn.Conv2d(1, 2, 3), norse.LIFCell(), nn.MaxPool2d(2))
    snn_lnm.swap(net)
    model, x = snn_lnm.fuse_time(net.requires_grad_(False)), 20 * random(3, 2, 1, 8, 8).abs()
    expected = model(x)[0]  # with the pooling of the C++ engine, which is loaded by now
    traced = torch.jit.trace(lambda x: model(x)[0], x)
    assert torch.equal(traced(x), expected) and expected.any()


@pytest.mark.filterwarnings("ignore:torch.as_tensor results are registered as constants")  # numbers, as they are
def test_a_traced_step_from_rest_takes_any_batch():
    p = LNMParameters(domain=(-1.5, 1.5))

    def step(x):
        return lnm_feed_forward_step(x, None, p)[1]

    traced, x = torch.jit.trace(step, random(2, 3)), random(5, 3)
    assert all(map(torch.equal, traced(x), step(x)))


def snippets():
    """The Python of docs/export.md, in order."""
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    return [part.split("```")[0] for part in text.split("```python\n")[1:]]


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    """Its programs that hold our operator are loaded in a process of their own, as it says."""
    monkeypatch.chdir(tmp_path)
    here, elsewhere = {}, ""
    for code in snippets():
        code, _, other = code.partition("# in another process\n")
        exec(code, here)
        elsewhere += other
    torch.save(here["x"], "x.pt")
    torch.save([value.detach() for value in here["model"](here["x"])], "expected.pt")
    code = f"""
import torch
x, expected = torch.load("x.pt"), torch.load("expected.pt")
{elsewhere}
assert "snn_lnm_norse" not in __import__("sys").modules
for found in ((spikes, v), torch.jit.load("model.pt")(x)):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
print("the same")
"""
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert found.stdout == "the same\n", found.stderr
