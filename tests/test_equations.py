"""Neurons of a user's own, those of docs/equations.md among them, on every engine."""

import copy
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operators import device_of
from optional import HAS_TRITON, NO_TRITON
from packaging.version import Version

import snn_lnm
from snn_lnm import Memory, neuron_from_equations
from snn_lnm.engines import form

PAGE = (Path(__file__).parents[1] / "docs" / "equations.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FOUND = {"__name__": __name__}
for snippet in SNIPPETS:
    exec(compile(snippet, "docs/equations.md", "exec"), FOUND)
EIF, Resonator, TwoCompartments = FOUND["EIF"], FOUND["Resonator"], FOUND["TwoCompartments"]


def leaky(states, x, beta=0.75):
    return {"mem": beta * states["mem"] + 0.9 * x}


Leaky = neuron_from_equations("Leaky", ["mem"], leaky)
# Where nobody is, in the rest of a vector or block, this is no number. And a lambda has no name to be pickled by.
Inverse = neuron_from_equations("Inverse", ["v"], lambda s, x, a=0.5: {"v": a * s["v"] + a / x})
ALL = {"EIF": EIF, "Resonator": Resonator, "TwoCompartments": TwoCompartments, "Leaky": Leaky, "Inverse": Inverse}
PLAIN = ("TwoCompartments", "Leaky", "Inverse")  # without elementary functions
OPTIONS = {"EIF": {"threshold": 2.0}}
BACKENDS = ["cpp", pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON))]
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")


def test_the_page_s_neurons_are_short():
    assert len(SNIPPETS) == 4 and all(snippet.count("\n") <= 20 for snippet in SNIPPETS)


def made(name, layout=(), **options):
    """With numbers of that layout, away from their defaults."""
    kind, generator = ALL[name], torch.Generator().manual_seed(3)
    numbers = {n: start * (1 + 0.25 * torch.rand(layout, generator=generator)) for n, start in kind.defaults.items()}
    return kind(**OPTIONS.get(name, {}), learn_threshold=True, **numbers, **options)


def results(neuron, x, state, backend):
    """Outputs, and the gradients of a loss on all of them."""
    neuron.backend = backend
    x = x.clone().requires_grad_()
    spikes, last, h = neuron(x, state, return_membrane=True)
    outputs = [spikes, h, *last]
    weights = [torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value) for value in outputs]
    loss = sum((value * weight.to(value.device)).sum() for value, weight in zip(outputs, weights, strict=True))
    return [value.detach() for value in outputs], torch.autograd.grad(loss, (x, *neuron.parameters()))


def drawn(name, layout, dtype, device, steps=6):
    """A neuron, an input that lets it fire, and a state."""
    neuron = made(name, {"layer": (), "channel": (3,), "neuron": (3, 5)}[layout]).to(device, dtype)
    x = (6 if name == "EIF" else 1.5) * torch.randn(steps, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    state = [0.25 * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2)) for _ in neuron.equations.states]
    return neuron, x.to(device, dtype), [value.to(device, dtype) for value in state]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["layer", "channel", "neuron"])
@pytest.mark.parametrize("name", ALL)
def test_engines_agree(name, layout, backend):
    """To the bit where there is arithmetic alone; else a step's roundings of the largest value apart.

    Gradients: each of the terms, which are as many as neurons, is rounded by no more than 40 operations a step on its
    way, there and back; the largest gradient stands for them, as in test_engines.py.
    """
    dtype = torch.float64 if layout == "neuron" else torch.float32
    neuron, x, state = drawn(name, layout, dtype, device_of(backend))
    (ours, gradients), (law, expected) = (results(neuron, x, state, b) for b in (backend, "reference"))
    assert 0.02 < float(law[0].mean()) < 0.98
    for mine, true in zip(ours, law, strict=True):
        if name in PLAIN:
            assert torch.equal(mine, true)
        else:
            torch.testing.assert_close(mine, true, rtol=64 * torch.finfo(dtype).eps, atol=64 * torch.finfo(dtype).eps)
    roundings = 2 * len(x) * 40 * x[0].numel()
    bound = roundings * torch.finfo(dtype).eps * max(float(value.abs().max()) for value in expected)
    for mine, true in zip(gradients, expected, strict=True):
        assert (mine - true).abs().max() <= bound


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_true(name, backend):
    """Of the numbers, too, in smooth mode."""
    neuron = made(name, (2,), smooth=True, detach_reset=False, surrogate="sigmoid", backend=backend).double()
    neuron = neuron.to(device_of(backend))
    names = [name for name, _ in neuron.named_parameters()]
    x = torch.randn(3, 1, 2, dtype=torch.float64, device=device_of(backend), requires_grad=True)
    state = [torch.randn_like(x[0]).requires_grad_() for _ in neuron.equations.states]

    def run(x, *rest):
        given = dict(zip(names, rest[len(state) :], strict=True))
        spikes, last, h = torch.func.functional_call(
            neuron, given, (x, [*rest[: len(state)]]), {"return_membrane": True}
        )
        return (spikes, h, *last)

    numbers = [value.detach().clone().requires_grad_() for value in neuron.parameters()]
    assert torch.autograd.gradcheck(run, (x, *state, *numbers))


@pytest.mark.parametrize("name", ALL)
@given(cut=st.integers(0, 6))
def test_time_can_be_split_anywhere(name, cut):
    neuron, x, state = drawn(name, "channel", torch.float32, "cpu")
    spikes, last = neuron(x, state)
    first, between = neuron(x[:cut], state)
    second, after = neuron(x[cut:], between)
    assert torch.equal(torch.cat([first, second]), spikes) and all(map(torch.equal, after, last))


@pytest.mark.parametrize("name", ALL)
def test_steps_are_the_sequence(name):
    neuron, x, state = drawn(name, "channel", torch.float32, "cpu")
    spikes, last, h = neuron(x, state, return_membrane=True)
    for x_t, s_t, h_t in zip(x, spikes, h, strict=True):
        s, state, membrane = neuron.step(x_t, state, return_membrane=True)
        assert torch.equal(s, s_t) and torch.equal(membrane, h_t)
    assert all(map(torch.equal, state, last))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_half_inputs_are_computed_in_float32(name, dtype):
    neuron, x, _ = drawn(name, "layer", torch.float32, "cpu")
    half, state = neuron(x.to(dtype))
    full, law = neuron(x.to(dtype).float())
    assert half.dtype == dtype and torch.equal(half.float(), full) and all(map(torch.equal, state, law))


@pytest.mark.parametrize("memory", [Memory(recompute=2), Memory(dtype=torch.bfloat16)], ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_memory_is_kept_as_asked(name, memory):
    neuron, x, state = drawn(name, "channel", torch.float32, "cpu")
    found = []
    for neuron.memory in (Memory(), memory):
        spikes, last = neuron(x, state)
        found.append((spikes, *last, *torch.autograd.grad((spikes.sum() + last[0].sum()), [*neuron.parameters()])))
    count = 1 + len(state)
    assert all(map(torch.equal, found[0][:count], found[1][:count]))
    for plain, less in zip(*(values[count:] for values in found), strict=True):
        torch.testing.assert_close(less, plain, rtol=0.05, atol=0.05 * float(plain.abs().max()))


def test_a_step_that_starts_elsewhere():
    _, state = TwoCompartments()(torch.zeros(0, 2, 3))
    assert torch.equal(state.d, torch.full((2, 3), 0.5)) and not state.s.any() and state._fields == ("d", "s")
    x = torch.randn(4, 2, 3)
    found = TwoCompartments()(x, state)[0], TwoCompartments()(x)[0]
    assert torch.equal(*found)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_state_that_does_not_change_is_not_the_start_itself(backend):
    """Zeros are shared by all calls."""
    kind = neuron_from_equations("Still", ["v", "w"], lambda s, x: {"v": s["v"] + x, "w": s["w"]})
    for _ in range(2):
        _, state = kind(backend=backend)(torch.zeros(2, 2, 3))
        assert not state.w.any()
        state.w.add_(1)


@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
def test_reset_mechanisms(mechanism):
    x, mem, neuron = torch.rand(15, 1, 1), torch.zeros(1, 1), Leaky(reset_mechanism=mechanism)
    spikes, state = neuron(x)
    for x_t, spike in zip(x, spikes, strict=True):
        mem = 0.75 * mem + 0.9 * x_t
        assert torch.equal(spike, (mem > 1.0).float())
        mem = {"subtract": mem - spike, "zero": (1 - spike) * mem, "none": mem}[mechanism]
    assert spikes.any() and torch.equal(state.mem, mem)


def test_equations_of_snntorch_run_as_they_are():
    """The example of its pull request 455."""

    def update(states, current):
        v, u = states["v"], states["u"]
        dv = 0.04 * v**2 + 5 * v + 140 - u + current
        du = 0.02 * (0.2 * v - u)
        return {"v": v + dv, "u": u + du}

    def reset(states, spk, threshold):
        v, u = states["v"], states["u"]
        fired = spk.detach().bool()
        return {"v": torch.where(fired, torch.full_like(v, -65.0), v), "u": torch.where(fired, u + 8.0, u)}

    starts = {"v": -65.0, "u": -13.0}
    kind = neuron_from_equations("Izhikevich", ("v", "u"), update, spike_state="v", reset_fn=reset, init_values=starts)
    x = torch.full((300, 1, 1), 10.0)
    found = [kind(threshold=30.0, backend=backend)(x) for backend in ("cpp", "reference")]
    assert 1 <= found[0][0].sum() <= 60 and torch.equal(found[0][0], found[1][0])


@pytest.mark.skipif(
    Version(torch.__version__).release < (2, 14), reason="compiling equations is promised from PyTorch 2.14 on"
)
def test_compiled_and_exported():
    neuron, x, _ = drawn("TwoCompartments", "channel", torch.float32, "cpu")
    spikes, last = neuron(x)
    compiled = torch.compile(neuron, fullgraph=True)(x)
    exported = torch.export.export(neuron, (x,)).module()(x)
    for out, state in (compiled, exported):
        assert torch.equal(out, spikes) and all(map(torch.equal, state, last))


def test_copies_and_pickles(tmp_path):
    neuron, x, _ = drawn("Inverse", "channel", torch.float32, "cpu")
    for again in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert torch.equal(again(x)[0], neuron(x)[0]) and type(again) is Inverse
    other = Inverse(a=torch.ones(3))
    other.load_state_dict(neuron.state_dict())
    assert torch.equal(other(x)[0], neuron(x)[0])
    assert pickle.loads(pickle.dumps(neuron(x)[1])).v.shape == x.shape[1:]


def test_two_surrogates_are_two_neurons():
    """The text that operators know a neuron by says it all."""
    x = torch.randn(4, 1, 3, requires_grad=True)
    found = []
    for surrogate in (snn_lnm.surrogate.ATan(2.0), snn_lnm.surrogate.ATan(3.0), "sigmoid"):
        ours, law = (
            torch.autograd.grad(Leaky(surrogate=surrogate, backend=backend)(x)[0].sum(), x)[0]
            for backend in ("cpp", "reference")
        )
        torch.testing.assert_close(ours, law)
        found.append(ours)
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[0], found[2])


def test_a_reset_is_detached_unless_asked():
    x = torch.full((2, 1, 1), 2.0, dtype=torch.float64)
    for backend in ("reference", "cpp"):
        found = []
        for detach in (True, False):
            leaf, neuron = x.clone().requires_grad_(), Leaky(detach_reset=detach, backend=backend).double()
            found.append(torch.autograd.grad(neuron(leaf)[1].mem.sum(), leaf)[0])
        assert float(found[0][1]) == 0.9 and not torch.equal(*found)


def test_what_learns_is_asked_for():
    assert {name for name, _ in Leaky().named_parameters()} == {"beta"}
    assert {name for name, _ in Leaky(learn=False, learn_threshold=True).named_parameters()} == {"threshold"}
    for learn in ("jump", ["jump"]):
        assert {name for name, _ in TwoCompartments(learn=learn).named_parameters()} == {"jump"}


def test_a_network_of_them_is_over_time():
    with pytest.raises(ValueError, match=r"Leaky, takes \[T, B, ...\]"):
        snn_lnm.fuse_time(torch.nn.Sequential(torch.nn.Linear(3, 3), Leaky()))


def test_a_text_that_nobody_registered_says_what_to_do():
    with pytest.raises(ValueError, match="neuron_from_equations that makes it"):
        form.parse("equations=Nobody-0")


def branching(states, x):
    if x > 0:
        x = 2 * x
    return {"mem": states["mem"] + x}


def made_of(states, *functions):
    return neuron_from_equations("A", states, *functions)


def in_place(states, x):
    v = states["mem"]
    v += x
    return {"mem": v}


WRONG = {
    "a branch": (
        lambda: made_of(["mem"], branching)(),
        TypeError,
        r'test_equations.py:\d+, "if x > 0',
    ),
    "a function": (
        lambda: made_of(["v"], lambda s, x: {"v": torch.erf(x)})(),
        TypeError,
        "torch.erf",
    ),
    "in place": (lambda: made_of(["mem"], in_place)(), TypeError, r'"v \+= x": a step cannot change a value in place'),
    "a method": (
        lambda: made_of(["v"], lambda s, x: {"v": x.float()})(),
        TypeError,
        "cannot use .float",
    ),
    "a state is lost": (
        lambda: made_of(["v", "w"], lambda s, x: {"v": x})(),
        ValueError,
        "all states",
    ),
    "no dict": (lambda: made_of(["v"], lambda s, x: x)(), ValueError, "got Symbol"),
    "twice": (lambda: made_of(["v", "v"], leaky), ValueError, "different names"),
    "no name": (lambda: made_of(["v 1"], leaky), ValueError, "different names"),
    "spikes": (lambda: made_of(["mem"], leaky, "v"), ValueError, "spike_state names v"),
    "starts": (
        lambda: made_of(["mem"], leaky, None, None, {"v": 1.0}),
        ValueError,
        "init_values names v",
    ),
    "no default": (lambda: made_of(["v"], lambda s, x, tau: s), TypeError, "tau needs one default"),
    "two defaults": (
        lambda: made_of(["v"], lambda s, x, a=1.0: s, None, lambda s, k, t, a=2.0: s),
        TypeError,
        "a needs one default",
    ),
    "any numbers": (lambda: made_of(["v"], lambda s, x, **a: s), TypeError, "a name of its own"),
    "taken": (
        lambda: made_of(["v"], lambda s, x, backend=1.0: s),
        ValueError,
        "cannot be called backend",
    ),
    "unknown number": (lambda: Leaky(tau=1.0), TypeError, "has no number tau: it has beta"),
    "unknown learned": (lambda: Leaky(learn=["tau"]), TypeError, "has no number tau"),
    "mechanism": (lambda: Leaky(reset_mechanism="hard"), ValueError, "unknown reset_mechanism 'hard'"),
    "surrogate": (lambda: Leaky(surrogate=torch.sigmoid), TypeError, "surrogate must be one of"),
    "backend": (lambda: Leaky(backend="gpu"), ValueError, "unknown backend"),
    "nan": (lambda: Leaky(beta=math.nan), ValueError, "beta must be finite"),
    "shape": (lambda: Leaky(beta=torch.ones(4))(torch.zeros(2, 1, 3)), ValueError, "beta has shape"),
    "state": (lambda: Leaky()(torch.zeros(2, 1, 3), (None, None)), TypeError, "a tuple of mem"),
    "state's shape": (lambda: Leaky()(torch.zeros(2, 1, 3), [torch.zeros(3)]), ValueError, "state.mem has shape"),
    "input": (lambda: Leaky()(torch.zeros(2, 1, 3).int()), TypeError, "the input is torch.int32"),
    "no time": (lambda: Leaky()(torch.tensor(1.0)), ValueError, r"must be \[T, B, ...\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()
