"""What `functional.run` remembers of a call: the next one like it gives the same, one unlike it is looked at anew."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from hypothesis import given as forall
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snn_lnm import Memory, functional
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import identical, problems

X = torch.linspace(-1, 3, 3 * 2 * 4).reshape(3, 2, 4)
START = State(torch.full((2, 4), 0.25))


def numbers(dtype=torch.float32, *layout):
    theta = torch.tensor([0.0, 0.9, 0.01, -0.02], dtype=dtype).expand(*layout, 4).clone()
    return Parameters(theta, *(torch.tensor(value, dtype=dtype) for value in (1.0, 0.0, 0.5)))


def run(x, state, parameters, dynamics, **options):
    return functional.run(x, state, parameters, dynamics, backend="cpp", **options)


@forall(problems(dtype=torch.float32), st.booleans(), st.sampled_from(["cpp", "auto"]))
def test_the_second_call_is_the_first(problem, membrane, backend):
    """Whatever the layout of the parameters; and no call but one like the first is remembered."""
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            law = functional.run(*problem, backend="reference")
            found = [functional.run(*problem, backend=backend, membrane=membrane) for _ in range(2)]
        assert len(problem.dynamics.prepared) == (1 if grad else 2)
        for out in found:
            assert identical(out.spikes, law.spikes) and identical(out.state.v, law.state.v)
            assert identical(out.membrane, law.membrane) if membrane else out.membrane.shape == (0,)
            assert (out.state.current is None) == (law.state.current is None)
            assert law.state.current is None or identical(out.state.current, law.state.current)


@forall(problems(dtype=torch.float32), st.integers(1, 4))
def test_a_held_input_is_remembered_as_one(problem, steps):
    problem = problem._replace(x=problem.x[:1].expand(steps, *problem.x.shape[1:]))
    law = functional.run(*problem, backend="reference")
    for _ in range(2):
        out = functional.run(*problem, backend="cpp")
        assert identical(out.membrane, law.membrane) and identical(out.state.v, law.state.v)
    shape = (steps + 1, *problem.x.shape[1:])
    longer = problem._replace(x=problem.x[:1].expand(shape))
    assert functional.run(*longer, backend="cpp").spikes.shape == shape


DOUBLE = numbers(torch.float64)
UNLIKE = {
    "the input's dtype": (TypeError, (X.double(), START, numbers()), {}),
    "an integer input": (TypeError, (X.long(), START, numbers()), {}),
    "no input": (TypeError, (None, START, numbers()), {}),
    "a sparse input": (TypeError, (X.to_sparse(), START, numbers()), {}),
    "the input's shape": (ValueError, (X[:, :1], START, numbers()), {}),
    "one step": (ValueError, (X, START, numbers()), {"single_step": True}),
    "the state's shape": (ValueError, (X, State(START.v[:1]), numbers()), {}),
    "the state's dtype": (TypeError, (X, State(START.v.double()), numbers()), {}),
    "the state's device": (ValueError, (X, State(START.v.to("meta")), numbers()), {}),
    "the state's type": (TypeError, (X, (START.v, None), numbers()), {}),
    "a state of no tensor": (TypeError, (X, State(0.25), numbers()), {}),
    "a current": (ValueError, (X, State(START.v, START.v), numbers()), {}),
    "the degree": (ValueError, (X, START, numbers()._replace(coefficients=torch.zeros(10))), {}),
    "the layout": (ValueError, (X, START, numbers(torch.float32, 3)), {}),
    "the coefficients' dtype": (TypeError, (X, START, numbers()._replace(coefficients=DOUBLE.coefficients)), {}),
    "the coefficients' device": (
        ValueError,
        (X, START, numbers()._replace(coefficients=torch.zeros(4, device="meta"))),
        {},
    ),
    "the threshold's dtype": (TypeError, (X, START, numbers()._replace(threshold=DOUBLE.threshold)), {}),
    "the threshold's shape": (ValueError, (X, START, numbers()._replace(threshold=torch.ones(3))), {}),
    "a threshold that is no number": (ValueError, (X, START, numbers()._replace(threshold=float("nan"))), {}),
    "infinite coefficients": (ValueError, (X, START, numbers()._replace(coefficients=numbers()[0] / 0)), {}),
    "the memory's type": (TypeError, (X, START, numbers()), {"memory": ["recompute"]}),
    "the memory": (ValueError, (X, START, numbers()), {"memory": Memory(recompute=0)}),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_a_call_unlike_the_first_is_refused_as_ever(name):
    kind, arguments, options = UNLIKE[name]
    dynamics, options = Dynamics(), {"membrane": False, **options}
    with pytest.raises(kind) as alone:
        run(*arguments, dynamics, **options)
    assert not dynamics.prepared or name == "infinite coefficients"
    for state in (START, None, START):
        run(X, state, numbers(), dynamics, membrane=False)
    with pytest.raises(kind) as after:
        run(*arguments, dynamics, **options)
    assert str(after.value) == str(alone.value)


# PyTorch's own: that it may still change how these lie in memory.
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ["nested", "compressed"])
def test_an_input_that_cannot_be_asked_how_it_lies(kind):
    dynamics = Dynamics()
    run(X, START, numbers(), dynamics)
    x = torch.nested.nested_tensor([*X]) if kind == "nested" else X.to_sparse_csr()
    with pytest.raises(TypeError, match="expected a dense"):
        run(x, START, numbers(), dynamics)


@pytest.mark.parametrize("backend", ["gpu", ["cpp"]])
def test_the_backend_is_looked_at(backend):
    dynamics = Dynamics()
    run(X, START, numbers(), dynamics)
    with pytest.raises(ValueError, match="unknown backend"):
        functional.run(X, START, numbers(), dynamics, backend=backend)


def test_another_backend_is_another_call():
    """Both give the same numbers, but only the reference a second derivative."""
    dynamics, x = Dynamics(), X.clone().requires_grad_()
    run(x, START, numbers(), dynamics)
    spikes = functional.run(x, START, numbers(), dynamics, backend="reference").spikes
    (d_x,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    assert torch.autograd.grad(d_x.sum(), x)[0].any()


def test_gradients_after_a_call_without():
    dynamics, x = Dynamics(), X.clone().requires_grad_()
    with torch.no_grad():
        run(x, None, numbers(), dynamics, membrane=False)
    found = [torch.autograd.grad(run(x, None, numbers(), dynamics, membrane=False).spikes.sum(), x) for _ in range(2)]
    assert found[0][0].any() and torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_membrane_is_given_where_it_is_asked_for(first, grad):
    dynamics = Dynamics()
    for membrane in (first, not first, first, not first):
        with torch.set_grad_enabled(grad):
            out = run(X, None, numbers(), dynamics, membrane=membrane)
        assert out.membrane.numel() == membrane * X.numel()


def test_memory_kept_in_bfloat16_is_remembered_apart():
    """Which a gradient shows, and a recomputed one is none of these."""
    dynamics, x = Dynamics("map", "soft"), X.clone().requires_grad_()

    def gradient(memory):
        out = run(x, None, numbers(), dynamics, membrane=False, memory=memory)
        return torch.autograd.grad(out.spikes.sum(), x)[0]

    full, half = (gradient(memory) for memory in (Memory(), Memory(dtype=torch.bfloat16)))
    assert not torch.equal(full, half)
    assert torch.equal(gradient(Memory(dtype=torch.bfloat16)), half) and torch.equal(gradient(Memory()), full)
    assert len(dynamics.prepared) == 2
    assert torch.equal(gradient(Memory(recompute=2)), full) and len(dynamics.prepared) == 2


def test_parameters_that_are_converted_are_converted_again():
    dynamics, given = Dynamics(), numbers(torch.bfloat16)
    for value in (0.5, 0.25):
        given.coefficients.fill_(value)
        expected = functional.run(X, None, Parameters(*(p.float() for p in given[:4])), Dynamics(), backend="reference")
        assert identical(run(X, None, given, dynamics).state.v, expected.state.v)


def test_states_that_are_converted_are_converted_again():
    dynamics, start = Dynamics(), torch.empty(2, 4, dtype=torch.bfloat16)
    for value in (0.5, 0.25):
        start.fill_(value)
        expected = functional.run(X, State(start.float()), numbers(), Dynamics(), backend="reference")
        assert identical(run(X, State(start), numbers(), dynamics).state.v, expected.state.v)


def test_parameters_changed_in_place_count():
    dynamics, given = Dynamics(), numbers(torch.float32, 4)
    for value in (0.5, 0.25):
        given.coefficients.fill_(value)
        expected = functional.run(X, None, given, Dynamics(), backend="reference")
        assert identical(run(X, None, given, dynamics).membrane, expected.membrane)


def test_a_mode_sees_shapes_only():
    dynamics = Dynamics()
    run(X, None, numbers(), dynamics)
    with FakeTensorMode(allow_non_fake_inputs=True):
        out = run(torch.zeros(3, 2, 4), None, numbers(), dynamics)
    assert type(out.spikes).__name__ == "FakeTensor" and out.spikes.shape == (3, 2, 4)


def test_an_engine_asked_for_is_refused_in_a_transform_that_does_not_see_it():
    dynamics, parameters = Dynamics(), numbers()

    def scaled(weight):
        return weight * functional.run(X, None, parameters, dynamics, backend="cpp").spikes.sum()

    assert scaled(torch.tensor(1.0)) > 0
    with pytest.raises(RuntimeError, match="transforms"):
        torch.vmap(scaled)(torch.ones(2))


def test_a_transform_runs_on_the_reference():
    dynamics = Dynamics()
    functional.run(X, None, numbers(), dynamics)
    gradient = torch.func.grad(lambda x: functional.run(x, None, numbers(), dynamics).spikes.sum())(X)
    assert gradient.any()


def test_copies_of_options_remember_nothing():
    dynamics = Dynamics()
    run(X, None, numbers(), dynamics)
    assert dynamics.prepared and dynamics == Dynamics() and hash(dynamics) == hash(Dynamics())
    for other in (copy.copy(dynamics), copy.deepcopy(dynamics), pickle.loads(pickle.dumps(dynamics))):
        assert other == dynamics and not other.prepared


def test_options_made_for_one_call_are_not_remembered(monkeypatch):
    """`functional.lnm` makes new ones at each call."""
    monkeypatch.setattr(functional, "_remember", None)
    assert functional.lnm(X, numbers().coefficients, backend="cpp").spikes.any()


def test_few_calls_are_remembered():
    dynamics = Dynamics()
    for batch in range(1, 2 * functional.MOST_PREPARED):
        run(torch.zeros(1, batch, 1), None, numbers(), dynamics)
        assert 0 < len(dynamics.prepared) <= functional.MOST_PREPARED


def leaves(values):
    return [None if value is None else value.detach().clone().requires_grad_() for value in values]


@forall(problems(dtype=torch.float32), st.tuples(*[st.booleans()] * 4), st.tuples(*[st.booleans()] * 8), st.booleans())
def test_the_second_call_has_the_first_s_gradients(problem, asked, needed, membrane):
    """Of spikes, membranes and last states, in whatever tensors ask for one."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        x, v, current, *parameters = given = leaves((problem.x, *problem.state, *problem.parameters))
        for value, need in zip(given, needed, strict=True):
            if value is not None:
                value.requires_grad_(need)
        out = run(x, State(v, current), Parameters(*parameters), problem.dynamics, membrane=membrane)
        outputs = [out.spikes, out.membrane, *out.state]
        chosen = [y for y, ask in zip(outputs, asked, strict=True) if ask and y is not None and y.requires_grad]
        wanted = [value for value in given if value is not None and value.requires_grad]
        weights = [torch.rand(y.shape, generator=generator.manual_seed(y.dim())) for y in chosen]
        found.append(torch.autograd.grad(chosen, wanted, weights, allow_unused=True) if chosen and wanted else ())
    for first, second in zip(*found, strict=True):
        assert (first is None) == (second is None)
        assert first is None or identical(first, second)


def test_a_second_derivative_is_refused_as_ever():
    dynamics, x = Dynamics(), X.clone().requires_grad_()
    words = []
    for _ in range(2):
        (gradient,) = torch.autograd.grad(run(x, None, numbers(), dynamics).membrane.sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivative") as refusal:
            gradient.sum().backward()
        words.append(str(refusal.value).splitlines()[0])
    assert words[0] == words[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_tracing_is_no_call_like_the_first():
    """`torch.jit.trace` writes the operator."""
    dynamics, x = Dynamics(), X[:, 0, 0].contiguous()
    for _ in range(2):
        graph = str(torch.jit.trace(lambda x: run(x, None, numbers(), dynamics).spikes, x).graph)
        assert "snn_lnm::scan(" in graph
        run(x, None, numbers(), dynamics)


def test_a_function_mode_sees_the_operator():
    dynamics, seen = Dynamics(), []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    for _ in range(2):
        run(X, None, numbers(), dynamics)
    with Watch():
        run(X, None, numbers(), dynamics)
    assert torch.ops.snn_lnm.scan.cpp in seen


def test_inference_tensors_and_mode_decide_as_ever_what_is_differentiated():
    with torch.inference_mode():
        x, kept, start = X.clone(), numbers(), State(START.v.clone())
        kept.coefficients.requires_grad_()
    learned = numbers()._replace(coefficients=numbers().coefficients.requires_grad_())
    dynamics = Dynamics()
    for _ in range(2):
        assert run(X, START, learned, dynamics).spikes.requires_grad
        assert not run(x, start, kept, dynamics).spikes.requires_grad
        with torch.inference_mode(), torch.enable_grad():
            assert not run(X, START, learned, dynamics).spikes.requires_grad


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, for its first dual number
def test_a_tangent_is_refused_as_ever():
    dynamics = Dynamics()
    run(X, None, numbers(), dynamics)
    with fwAD.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        run(fwAD.make_dual(X, X), None, numbers(), dynamics)


def test_a_backward_pass_that_is_watched_shows_the_operator():
    dynamics, seen = Dynamics(), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = X.clone().requires_grad_()
    gradients = []
    for _ in range(2):
        spikes = run(x, None, numbers(), dynamics).spikes.sum()
        with Watch():
            gradients.append(torch.autograd.grad(spikes, x)[0])
    assert seen.count(torch.ops.snn_lnm.scan_backward.cpp) == 2 and torch.equal(*gradients)


def test_odd_views_of_the_same_shape_are_looked_at_anew():
    """A negative view, which only its key tells apart, and an input in another order."""
    dynamics = Dynamics()
    run(X, START, numbers(), dynamics)
    for x in (torch._neg_view(-X), X.transpose(0, 2).contiguous().transpose(0, 2)):
        expected = functional.run(X, START, numbers(), Dynamics(), backend="reference")
        for _ in range(2):
            assert identical(run(x, START, numbers(), dynamics).membrane, expected.membrane)
    v = torch._neg_view(-START.v)
    assert identical(run(X, State(v), numbers(), dynamics).membrane, expected.membrane)


def test_threads_remember_together():
    def work(seed):
        dynamics = Dynamics("map", "soft", domain=(-2.0, 2.0))
        x = X + 0.125 * seed
        law = functional.run(x, None, numbers(), dynamics, backend="reference")
        return all(identical(run(x, None, numbers(), dynamics).membrane, law.membrane) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
