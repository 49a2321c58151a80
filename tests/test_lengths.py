"""Sequences of different lengths in one batch: each gets what it gets alone, whatever the padding holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import snn_lnm
from snn_lnm import functional
from snn_lnm.parameters import Dynamics, State
from snn_lnm.surrogate import Rectangle

T, B = 4, 3
RESETS = ["hard", "soft", "none", "soft_next", "hard_next"]
REST = {"none": 0.0, "nan": float("nan"), "inf": float("inf")}
LAYOUTS = {"layer": (), "channel": (2,), "neuron": (2, 2), "batch": (B, 2, 2)}


def eighths(generator, *shape, low=-8, high=9):
    return torch.randint(low, high, shape, generator=generator).double() / 8


@st.composite
def cases(draw):
    """Numbers of few binary digits, so that no sum rounds and its order changes no bit."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    smooth = draw(st.booleans())
    options = {
        "reset": draw(st.sampled_from(RESETS)),
        "charge": draw(st.sampled_from(["map", "drift", "residual"])),
        "detach_reset": draw(st.booleans()),
        "smooth": smooth,
        "surrogate": Rectangle(2.0),
        "domain": draw(st.sampled_from([None, (-1.0, 1.0)])),
        "synapse": draw(st.sampled_from(["decay", "euler"])),
    }
    numbers = {
        "coefficients": eighths(generator, *layout, 3),
        "threshold": eighths(generator, *layout, low=2),
        "alpha": eighths(generator, *layout, low=0) if draw(st.booleans()) else None,
    }
    if smooth and options["charge"] == "map":
        numbers["coefficients"] = numbers["coefficients"] / 8  # bounded
    x = 2 * eighths(generator, T, B, 2, 2)
    state = None
    if draw(st.booleans()):
        current = None if numbers["alpha"] is None else eighths(generator, B, 2, 2)
        state = State(eighths(generator, B, 2, 2), current)
    lengths = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    return x, numbers, state, lengths, options, eighths(generator, 2, T, B, 2, 2), eighths(generator, 2, B, 2, 2)


def leaf(value):
    return None if value is None else value.clone().requires_grad_()


def rows(value, b):
    return value[b : b + 1] if value is not None and value.shape[:1] == (B,) and value.dim() >= 3 else value


def outcome(x, numbers, state, options, weights, ends, lengths=None):
    leaves = [x, *numbers.values(), *(state or ())]
    out = functional.lnm(x, **numbers, state=state, backend="reference", lengths=lengths, **options)
    loss = (out.spikes * weights[0]).sum() + (out.membrane * weights[1]).sum()
    for value, weight in zip(out.state, ends, strict=True):
        loss = loss if value is None else loss + (value * weight).sum()
    known = [value for value in leaves if value is not None]
    grads = torch.autograd.grad(loss, known, allow_unused=True) if loss.requires_grad else [None] * len(known)
    grads = [torch.zeros_like(v) if g is None else g for g, v in zip(grads, known, strict=True)]
    return out, grads


@pytest.mark.parametrize("rest", REST)
@given(case=cases())
def test_each_sequence_gets_what_it_gets_alone(rest, case):
    x, numbers, state, lengths, options, weights, ends = case
    padded = x.clone()
    for b, length in enumerate(lengths):
        padded[length:, b] = REST[rest]
    x, padded = leaf(x), leaf(padded)
    numbers = {name: leaf(value) for name, value in numbers.items()}
    state = None if state is None else State(*map(leaf, state))
    got, grads = outcome(padded, numbers, state, options, weights, ends, torch.tensor(lengths))
    total = [torch.zeros_like(value) for value in (padded, *numbers.values(), *(state or ())) if value is not None]
    for b, length in enumerate(lengths):
        alone_state = None if state is None else State(*[rows(value, b) for value in state])
        alone_numbers = {name: rows(value, b) for name, value in numbers.items()}
        words = {"backend": "reference", **options}
        alone = functional.lnm(x[:length, b : b + 1], **alone_numbers, state=alone_state, **words)
        assert torch.equal(got.spikes[:length, b : b + 1], alone.spikes) and not got.spikes[length:, b].any()
        assert torch.equal(got.membrane[:length, b : b + 1], alone.membrane) and not got.membrane[length:, b].any()
        for ours, theirs in zip(got.state, alone.state, strict=True):
            assert theirs is None or torch.equal(ours[b : b + 1], theirs)
        loss = (alone.spikes * weights[0, :length, b : b + 1]).sum()
        loss = loss + (alone.membrane * weights[1, :length, b : b + 1]).sum()
        for value, weight in zip(alone.state, ends, strict=True):
            loss = loss if value is None else loss + (value * weight[b : b + 1]).sum()
        known = [value for value in (x, *numbers.values(), *(state or ())) if value is not None]
        if loss.requires_grad:
            found = torch.autograd.grad(loss, known, allow_unused=True)
            total = [a if g is None else a + g for a, g in zip(total, found, strict=True)]
    for ours, theirs in zip(grads, total, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max().clamp(1)))
    for b, length in enumerate(lengths):
        assert not grads[0][length:, b].any()


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize(
    "memory", [snn_lnm.Memory(), snn_lnm.Memory(recompute=2), snn_lnm.Memory(dtype=torch.bfloat16)]
)
@pytest.mark.parametrize("kind", [snn_lnm.LNM, snn_lnm.QIF])
def test_modules_engines_and_memories(kind, memory, backend):
    neuron = kind(memory=memory, backend=backend)
    x, lengths = 3 * torch.rand(T, B, 5), [4, 0, 2]
    x[2:, 2] = float("nan")
    x.requires_grad_()
    spikes, state = neuron(x, lengths=lengths)
    (spikes.sum() + state.v.sum()).backward()
    for b, length in enumerate(lengths):
        alone, last = neuron(x[:length, b : b + 1])
        assert torch.equal(spikes[:length, b : b + 1], alone) and torch.equal(state.v[b : b + 1], last.v)
    assert spikes.any() and not x.grad[2:, 2].any() and not x.grad[:, 1].any() and x.grad[:, 0].all()


def test_what_diverges_after_the_end_does_not_count():
    """A bare polynomial runs to infinity on the padding, where its slope is infinite, too."""
    neuron = snn_lnm.LNM(coefficients=torch.tensor([1.0, 2.0, 3.0]), domain=None, reset="none", charge="map")
    x = torch.ones(60, 2, 1, requires_grad=True)
    state = neuron(x, lengths=[2, 3])[1]
    state.v.sum().backward()
    got, neuron.coefficients.grad, x.grad = neuron.coefficients.grad, None, None
    for b, length in enumerate((2, 3)):
        neuron(x[:length, b : b + 1])[1].v.sum().backward()
    assert torch.equal(got, neuron.coefficients.grad) and torch.isfinite(got).all()


def test_an_input_that_is_held_stays_so(monkeypatch):
    image = torch.rand(B, 5, requires_grad=True)
    neuron, lengths, seen = snn_lnm.LNM(), [4, 2, 3], []
    run = functional.run
    monkeypatch.setattr(functional, "run", lambda x, *a, **k: seen.append(x.stride(0)) or run(x, *a, **k))
    got, state = neuron(snn_lnm.hold(3 * image, T), lengths=lengths)
    state.v.sum().backward()
    held, image.grad = image.grad, None
    wanted, last = neuron((3 * image).unsqueeze(0).repeat(T, 1, 1), lengths=lengths)
    last.v.sum().backward()
    assert torch.equal(got, wanted) and torch.equal(state.v, last.v)
    torch.testing.assert_close(held, image.grad)
    assert seen[:4] == [0] * 4  # the call, and one for each length


def test_full_lengths_are_the_plain_call():
    neuron, x = snn_lnm.LNM(), 3 * torch.rand(T, B, 5)
    assert torch.equal(neuron(x, lengths=[T] * B)[0], neuron(x)[0])
    assert neuron(x[:, :0], lengths=[])[0].shape == (T, 0, 5)
    assert neuron(x[:0], lengths=[0] * B)[0].shape == (0, B, 5)


X = torch.ones(T, B, 5)
CALLS = [
    (ValueError, r"lengths must be \[B\] = \[3\].*of the input \[4, 3, 5\], got \[2\]", X, [1, 2]),
    (ValueError, r"lengths must be \[B\] = \[3\].*got \[3, 1\]", X, torch.ones(3, 1).long()),
    (ValueError, r"between 0 and T = 4, got 5 for sequence 1", X, [1, 5, 6]),
    (ValueError, r"between 0 and T = 4, got -1 for sequence 0", X, torch.tensor([-1, 1, 1])),
    (TypeError, r"lengths must be integers, got torch\.float32: lengths\.long\(\)", X, torch.ones(3)),
    (TypeError, r"lengths must be integers, got torch\.bool", X, torch.ones(3).bool()),
    (TypeError, r"lengths must be integers, got \[1\.5, 1, 1\]", X, [1.5, 1, 1]),
    (TypeError, r"lengths must be integers, got \[True, 1, 1\]", X, [True, 1, 1]),
    (TypeError, r"an integer tensor or a sequence of ints, got int", X, 3),
    (ValueError, r"lengths are on meta and the input on cpu", X, torch.ones(3, device="meta").long()),
    (ValueError, r"meta device and hold no numbers", X.to("meta"), torch.ones(3, device="meta").long()),
    (ValueError, r"with lengths the input must be \[T, B, \.\.\.\], got \[4\]", torch.ones(4), [1]),
]


@pytest.mark.parametrize("kind, message, x, lengths", CALLS)
def test_wrong_lengths(kind, message, x, lengths):
    with pytest.raises(kind, match=message):
        snn_lnm.LNM()(x, lengths=lengths)
    with pytest.raises(kind, match=message):
        functional.lnm(x, torch.tensor([0.0, 1.0]), lengths=lengths)


def test_a_wrong_state_is_said_of_the_whole_batch():
    with pytest.raises(ValueError, match=r"state\.v has shape \[3, 4\] and one step of the input \[3, 5\]"):
        snn_lnm.LNM()(X, State(torch.zeros(3, 4)), lengths=[1, 2, 3])


def test_dynamics_are_not_filled_with_lengths():
    neuron = snn_lnm.LNM()
    assert isinstance(neuron.dynamics, Dynamics)
    neuron(X, lengths=[1, 2, 3])
    assert not neuron.dynamics.prepared
