"""When the Triton engine runs, what it says when it cannot, and that PyTorch's own tools see through it."""

import pytest
import torch
from operators import check_operators
from optional import OLDEST_TRITON
from torch.utils._python_dispatch import TorchDispatchMode
from triton_cases import DEVICE

from snn_lnm import LNM, engines, explain_backend, functional
from snn_lnm.engines import form
from snn_lnm.engines import triton as engine
from snn_lnm.parameters import Dynamics, State
from snn_lnm.surrogate import get

GPU = torch.device("cuda", 0)


def obstacle(device, dynamics=None):
    return engines._obstacle("triton", device, form.neuron(dynamics or Dynamics(), 3, False))


@pytest.fixture
def not_interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    engine.missing.cache_clear()
    yield monkeypatch
    engine.missing.cache_clear()


def test_cpu_tensors_need_the_interpreter(not_interpreted):
    assert "runs on GPU tensors, the input is on cpu" in obstacle(torch.device("cpu"))
    with pytest.raises(RuntimeError, match=r"backend='triton' cannot run here: .* the input is on cpu"):
        functional.lnm(torch.zeros(2, 3), torch.tensor([0.0, 0.9]), backend="triton")
    assert "auto -> " in explain_backend(torch.zeros(2, 3)) and "auto -> triton" not in explain_backend(torch.zeros(2))


def test_without_triton(not_interpreted):
    def none(name):
        raise engine.importlib.metadata.PackageNotFoundError(name)

    not_interpreted.setattr(engine.importlib.metadata, "version", none)
    assert "pip install triton" in obstacle(GPU)


def test_an_old_triton(not_interpreted):
    not_interpreted.setattr(engine.importlib.metadata, "version", lambda name: "3.1.0")
    assert "triton 3.1.0 is too old" in obstacle(GPU)


def test_without_a_c_compiler(not_interpreted):
    not_interpreted.setattr(engine.shutil, "which", lambda name: None)
    assert "needs a C compiler" in obstacle(GPU) and "apt install gcc" in obstacle(GPU)


def test_a_surrogate_of_the_user_s(not_interpreted):
    assert "callable of your own" in obstacle(GPU, Dynamics(surrogate=lambda u: torch.sigmoid(u)))


def test_the_arctangent_in_smooth_mode():
    assert "no arctangent" in obstacle(GPU, Dynamics(smooth=True))
    assert obstacle(torch.device(DEVICE), Dynamics(surrogate=get("sigmoid"), smooth=True)) is None


def test_the_oldest_triton_is_the_engine_s():
    assert str(engine.MINIMUM) == OLDEST_TRITON


def test_auto_takes_it_on_gpus_only():
    assert {name: engines._preferred(torch.device(name)) for name in ("cpu", "cuda", "meta")} == {
        "cpu": "cpp",
        "cuda": "triton",
        "meta": "reference",
    }
    assert obstacle(GPU) is None


def test_auto_says_once_that_a_gpu_runs_on_the_reference(not_interpreted):
    not_interpreted.setattr(engine.shutil, "which", lambda name: None)
    not_interpreted.setattr(engines, "_warned", set())
    with pytest.warns(RuntimeWarning, match="reference engine: Triton needs a C compiler") as caught:
        for _ in range(2):
            assert engines.choose(GPU, form.neuron(Dynamics(), 3, False), "auto") == "reference"
    assert len(caught) == 1
    with pytest.raises(RuntimeError, match="needs a C compiler"):
        engines.choose(GPU, form.neuron(Dynamics(), 3, False), "triton")


def test_importing_the_engine_imports_no_triton():
    import subprocess
    import sys

    code = "import sys, snn_lnm.engines.triton; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def neuron_and_input():
    neuron = LNM(degree=3, charge="map", backend="triton").to(DEVICE)
    return neuron, torch.randn(4, 2, 20, device=DEVICE, requires_grad=True)


def test_compiles_without_graph_breaks():
    neuron, x = neuron_and_input()

    def loss(value):
        spikes, state = neuron(value)
        return spikes, state.v

    eager = loss(x)
    (expected,) = torch.autograd.grad(eager[0].sum() + eager[1].sum(), x)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(x)
    (found,) = torch.autograd.grad(compiled[0].sum() + compiled[1].sum(), x)
    assert torch.equal(eager[0], compiled[0]) and torch.equal(eager[1], compiled[1]) and torch.equal(expected, found)


def test_a_mode_sees_the_operators():
    """Without one the dispatcher is left out."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    neuron, x = neuron_and_input()
    with Watch():
        neuron(x)[0].sum().backward()
    assert {"snn_lnm.scan.triton", "snn_lnm.scan_backward.triton"} <= {*seen}


def test_exports():
    neuron, x = neuron_and_input()

    class Spikes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron = neuron

        def forward(self, x):
            return self.neuron(x)[0]

    program = torch.export.export(Spikes(), (x.detach(),))
    assert torch.equal(program.module()(x.detach()), neuron(x)[0])


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck reads .grad of a non-leaf
@pytest.mark.slow
def test_opcheck():
    check_operators("triton", DEVICE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_reaches_it_with_a_float32_state(dtype):
    layer, neuron = torch.nn.Linear(8, 20).to(DEVICE), neuron_and_input()[0]
    with torch.autocast(DEVICE, dtype=dtype):
        spikes, state = neuron(layer(torch.randn(4, 2, 8, device=DEVICE)))
    assert spikes.dtype == dtype and state.v.dtype == torch.float32
    spikes.sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_second_derivative_is_refused():
    neuron, x = neuron_and_input()
    (first,) = torch.autograd.grad(neuron(x)[1].v.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        first.sum().backward()


def test_states_of_another_shape_are_refused_as_everywhere():
    neuron, x = neuron_and_input()
    with pytest.raises(ValueError, match="start a new sequence"):
        neuron(x, State(torch.zeros(1, device=DEVICE)))


def test_an_operator_that_kept_no_membrane_says_so():
    """Empty outputs are tensors at the operator, and its backward pass asks for a membrane."""
    x = torch.ones(2, 3, device=DEVICE, requires_grad=True)
    numbers = [torch.tensor(value, device=DEVICE) for value in ([0.0, 0.9], 1.0, 0.0, 1.0)]
    options = (form.neuron(Dynamics(charge="map", domain=None), 1, False).text, 1, 1, 0, False, None)
    spikes, *others = torch.ops.snn_lnm.scan.triton(x, [torch.zeros(3, device=DEVICE)], numbers, *options)
    assert [value.numel() for value in others] == [0, 3]
    with pytest.raises(ValueError, match="kept no membrane"):
        spikes.sum().backward()
