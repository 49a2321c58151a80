"""The compiled engine gives the reference's bits, its gradients, and keeps one float per element."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from operators import check_operators

from snn_lnm import LNM, engines, explain_backend, functional, surrogate
from snn_lnm.engines import cpp, form
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import Problem, identical, problems

EDGES = st.sampled_from([(1, 15), (1, 16), (2, 17), (1, 511), (3, 512), (1, 513), (2, 3, 7, 7), (5, 1025), (40, 10)])


def outputs(problem, backend):
    out = functional.run(*problem, backend=backend)
    return [out.spikes, out.membrane, *(value for value in out.state if value is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@given(st.data())
def test_same_bits(dtype, data):
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    problem = data.draw(problems(dtype=arithmetic, shapes=EDGES))
    problem = problem._replace(x=problem.x.to(dtype))
    for ours, law in zip(outputs(problem, "cpp"), outputs(problem, "reference"), strict=True):
        assert ours.dtype == law.dtype and torch.equal(ours.nan_to_num(nan=7), law.nan_to_num(nan=7))


def gradients(problem, backend, spread=False, training=False):
    """Gradients of a random dyadic loss on every output, with respect to everything.

    As usual in ``training`` the loss is of the spikes alone, and gain and alpha are fixed.

    With ``spread`` every neuron of every sample has parameters of its own, `[B, C, ...]`: their gradients
    are the terms of which those of shared parameters are sums.
    """
    step = problem.x.shape[1:]

    def own(value, trailing):
        if value is None or not spread:
            return value
        layout, tail = value.shape[: value.dim() - trailing], value.shape[value.dim() - trailing :]
        if len(layout) == 1:
            value = value.reshape(*layout, *[1] * (len(step) - 2), *tail)
        return value.expand(*step, *tail)

    def leaf(value):
        return None if value is None else value.detach().clone().requires_grad_()

    x, state = leaf(problem.x), State(*map(leaf, problem.state))
    parameters = Parameters(*(leaf(own(value, k == 0)) for k, value in enumerate(problem.parameters)))
    if training:
        for fixed in (parameters.gain, parameters.alpha):
            _ = None if fixed is None else fixed.requires_grad_(False)
    out = functional.run(x, state, parameters, problem.dynamics, backend=backend)
    generator = torch.Generator().manual_seed(1)
    outputs = (out.spikes,) if training else (out.spikes, out.membrane, *out.state)
    values = [value for value in outputs if value is not None]
    weights = [torch.randint(-4, 5, value.shape, generator=generator).to(value) / 4 for value in values]
    loss = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
    leaves = [value for value in (x, *state, *parameters) if value is not None and value.requires_grad]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


EXACT = {
    "surrogate": surrogate.Rectangle(2.0),  # whose derivative is 0 or 1/2
    "domain": st.sampled_from([None, (-1.5, 1.5), (-0.5, 0.75)]),
}


@pytest.mark.parametrize("steps, degree", [(1, 3), (2, 1)])
@given(st.data())
def test_same_gradients_to_the_bit_where_arithmetic_is_exact(steps, degree, data):
    """On few small dyadic numbers no operation rounds, so the order of sums and products is free.

    (Each step multiplies the bits of a number by the degree: two steps of degree 2 need more than 53.)
    """
    problem = data.draw(problems(shapes=EDGES, max_steps=steps, max_degree=degree, dyadic=True, **EXACT))
    for ours, law in zip(gradients(problem, "cpp"), gradients(problem, "reference"), strict=True):
        assert torch.equal(ours, law)


@given(problems(shapes=EDGES, max_steps=40, dyadic=False))
def test_same_gradients(problem):
    """Elsewhere rounding moves each gradient by at most about the bound below.

    A step of the backward pass is at most 4D + 30 operations, so a term that crossed T steps carries
    T(4D + 30) relative errors of eps, in each engine; adding n terms in any order adds n·eps of Σ|terms|.
    The terms come from neurons with parameters of their own. Within one neuron terms may cancel over
    time; the largest of all gradients stands for them. That last step is an estimate, not a bound: the
    exact comparison above is the proof, this one covers what it cannot draw.
    """
    terms = gradients(problem, "reference", spread=True)
    assume(all(math.isfinite(term.abs().max()) and term.abs().max() < 1e6 for term in terms))
    compare_gradients(problem, terms)


def compare_gradients(problem, terms, **kind):
    eps = torch.finfo(problem.x.dtype).eps
    path = 2 * len(problem.x) * (4 * problem.parameters.degree + 30)
    ours, law = gradients(problem, "cpp", **kind), gradients(problem, "reference", **kind)
    largest = max(float(value.abs().max()) for value in terms)
    for mine, true, term in zip(ours, law, terms, strict=True):
        n = max(1, term.numel() // max(1, true.numel()))
        assert (mine - true).abs().max() <= (path + n) * eps * n * largest


USUAL = [
    dict(charge=charge, reset=reset, detach_reset=detach)
    for charge in ("drift", "map")
    for reset in ("hard", "soft", "none", "hard_next", "soft_next")
    for detach in (True, False)
]
USUAL += [
    dict(charge=charge, reset=reset, detach_reset=detach, synapse=synapse)
    for charge, reset, synapse in (("drift", "hard", "euler"), ("map", "soft_next", "decay"))
    for detach in (True, False)
]


def usual(options, layout, spike, domain=(-1.5, 1.5), degree=3):
    torch.manual_seed(0)
    step = (3, 5, 133)
    shape = {"layer": (), "channel": (5, 1), "neuron": (5, 133)}[layout]
    theta = torch.tensor([0.05, -0.4 if options["charge"] == "drift" else 0.9, 0.1, -0.1])
    size = 1.0 if domain else 0.3  # of membranes, which nothing bounds there
    numbers = Parameters(
        (theta + 0.1 * size * torch.randn(*shape, 4))[..., : degree + 1],
        size * (1 + 0.1 * torch.randn(shape)),
        0.1 * torch.randn(shape),
        0.5 + 0.1 * torch.rand(shape),
        0.5 + 0.1 * torch.rand(shape) if "synapse" in options else None,
    )
    dynamics = Dynamics(domain=domain, surrogate=spike, **options)
    start = State(size * torch.randn(step), size * torch.randn(step) if "synapse" in options else None)
    return Problem(size * torch.randn(9, *step), start, numbers, dynamics)


def name(options):
    return "-".join(map(str, options.values()))


@pytest.mark.turns(80)
@pytest.mark.parametrize("layout", ["layer", "channel", "neuron"])
@pytest.mark.parametrize("options", USUAL, ids=name)
@pytest.mark.parametrize("spike", [surrogate.ATan(), surrogate.FastSigmoid()], ids=["atan", "fast_sigmoid"])
@pytest.mark.parametrize(
    "degree, domain", [(3, (-1.5, 1.5)), (3, None), (2, (-1.5, 1.5)), (2, None), (1, (-1.5, 1.5)), (1, None)], ids=str
)
def test_usual_neurons(options, layout, spike, degree, domain):
    """Degree 1 to 3 in float32: with shared and mixed numbers, with a loss on the spikes alone and on everything."""
    problem = usual(options, layout, spike, domain, degree)
    for ours, law in zip(outputs(problem, "cpp"), outputs(problem, "reference"), strict=True):
        assert torch.equal(ours, law)
    for training in (False, True):
        terms = gradients(problem, "reference", spread=True, training=training)
        compare_gradients(problem, terms, training=training)


@pytest.mark.parametrize("shape", [(40, 333, 10), (40, 9, 300), (70, 5, 3, 130), (70, 2, 70, 8)], ids=str)
def test_work_cut_into_many_items(shape):
    """Turns of few groups side by side, a last turn that is shorter, groups that tiles straddle, chunks of a batch."""
    torch.manual_seed(0)
    step = shape[1:]
    layout = (step[1], *[1] * (len(step) - 2))
    numbers = Parameters(
        torch.tensor([0.05, 0.9, 0.1, -0.1], dtype=torch.float64) + 0.1 * torch.randn(*layout, 4, dtype=torch.float64),
        *(value + 0.1 * torch.rand(layout, dtype=torch.float64) for value in (0.8, 0.1, 0.5)),
    )
    dynamics, start = Dynamics("map", "soft", domain=(-1.5, 1.5)), State(torch.zeros(step, dtype=torch.float64))
    problem = Problem(torch.randn(shape, dtype=torch.float64), start, numbers, dynamics)
    for ours, law in zip(outputs(problem, "cpp"), outputs(problem, "reference"), strict=True):
        assert torch.equal(ours, law)
    compare_gradients(problem, gradients(problem, "reference", spread=True))


@pytest.mark.turns(12)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", USUAL, ids=name)
def test_halves_are_float32_rounded_at_the_end(options, training):
    """To the bit, whatever is stored."""
    for dtype in (torch.bfloat16, torch.float16):
        half = usual(options, "layer", surrogate.ATan())
        half = half._replace(x=half.x.to(dtype))
        single = half._replace(x=half.x.float())
        for narrow, wide in zip(outputs(half, "cpp"), outputs(single, "cpp"), strict=True):
            assert torch.equal(narrow, wide.to(narrow.dtype))
        mine, wide = (gradients(problem, "cpp", training=training) for problem in (half, single))
        assert mine[0].dtype == dtype
        assert all(torch.equal(ours, true.to(ours.dtype)) for ours, true in zip(mine, wide, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_smooth_spikes_in_half_precision(dtype):
    """Which are neither 0 nor 1: rounded, too. (Its primitive has no function that engines round in their own way.)"""
    problem = usual(USUAL[0], "layer", surrogate.FastSigmoid(), degree=1)
    problem = problem._replace(x=problem.x.to(dtype), dynamics=replace(problem.dynamics, smooth=True))
    assert all(map(identical, outputs(problem, "cpp"), outputs(problem, "reference")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_that_pass_the_caches(dtype):
    problem = problem_of((4, 3, 2**19))
    problem = (problem[0].to(dtype), *problem[1:])
    assert all(map(identical, outputs(problem, "cpp"), outputs(problem, "reference")))


def problem_of(shape):
    theta = torch.tensor([0.01, 0.9, 0.02, -0.03])
    numbers = Parameters(theta, torch.tensor(0.8), torch.tensor(0.0), torch.tensor(1.0))
    dynamics = Dynamics(charge="map", reset="soft", domain=(-1.5, 1.5))
    return torch.randn(shape), State(torch.zeros(shape[1:])), numbers, dynamics


@pytest.mark.parametrize("reset", ["soft", "soft_next", "hard_next"])
@pytest.mark.parametrize("place", range(8))
def test_a_gradient_does_not_depend_on_what_else_is_asked_for(place, reset):
    x, _, numbers, dynamics = problem_of((5, 3, 4))
    dynamics = replace(dynamics, reset=reset)
    values = (x, torch.randn(3, 4), torch.randn(3, 4), *numbers._replace(alpha=torch.tensor(0.5)))

    def gradients(asked):
        leaves = [value.clone().requires_grad_(i in asked) for i, value in enumerate(values)]
        out = functional.run(leaves[0], State(*leaves[1:3]), Parameters(*leaves[3:]), dynamics, backend="cpp")
        out.membrane.square().sum().backward()
        return [leaf.grad for leaf in leaves]

    alone = gradients([place])
    assert [value is None for value in alone] == [i != place for i in range(8)]
    assert torch.equal(alone[place], gradients(range(8))[place])


def test_gradients_do_not_depend_on_threads_or_luck():
    x, state, numbers, dynamics = problem_of((16, 33, 129))
    results = []
    for threads in (1, 2, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        leaves = [x.clone().requires_grad_(), numbers.coefficients.clone().requires_grad_()]
        out = functional.run(leaves[0], state, numbers._replace(coefficients=leaves[1]), dynamics, backend="cpp")
        results.append(torch.autograd.grad(out.membrane.square().sum() + out.spikes.sum(), leaves))
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("reset", ["hard", "soft", "none", "hard_next", "soft_next"])
def test_one_float_per_element_is_kept(reset):
    shape = (20, 8, 64)
    x, state, numbers, _ = problem_of(shape)
    x.requires_grad_()
    theta = numbers.coefficients.clone().requires_grad_()
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.setdefault(t.data_ptr(), t), lambda t: t):
        run = functional.run(
            x,
            state,
            numbers._replace(coefficients=theta),
            Dynamics(charge="map", reset=reset, domain=(-1, 1)),
            backend="cpp",
            membrane=False,
        )
    assert x.data_ptr() not in saved  # only the gradients of gain and α need the input itself
    kept = sum(t.untyped_storage().nbytes() for t in saved.values())
    small = sum(t.untyped_storage().nbytes() for t in (theta, state.v, *numbers) if t is not None)
    assert x.numel() * 4 <= kept <= x.numel() * 4 + small + 4 and run.spikes.requires_grad


# PyTorch's own warnings: 2.6 describes its configuration to the log that pytest captures, and 2.13's
# inductor still uses the deprecated TorchScript when it is imported.
@pytest.mark.filterwarnings("ignore:Skipping serialization of:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend):
    neuron, x = LNM(degree=3, charge="map"), torch.randn(5, 2, 3, requires_grad=True)

    def loss(value):
        spikes, state = neuron(value)
        return spikes, state.v

    eager = loss(x)
    (expected,) = torch.autograd.grad(eager[0].sum() + eager[1].sum(), x)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)(x)
    (found,) = torch.autograd.grad(compiled[0].sum() + compiled[1].sum(), x)
    assert torch.equal(eager[0], compiled[0]) and torch.equal(eager[1], compiled[1])
    assert torch.equal(expected, found)


def test_exports():
    neuron, x = LNM(degree=2), torch.randn(4, 2, 3)

    class Spikes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron = neuron

        def forward(self, x):
            return self.neuron(x)[0]

    program = torch.export.export(Spikes(), (x,))
    assert torch.equal(program.module()(x), neuron(x)[0])


# opcheck itself reads .grad of a non-leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_opcheck():
    check_operators("cpp", "cpu")


# PyTorch's own: its first dual number compiles something with the deprecated TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("grad", [True, False])
def test_forward_mode_is_refused(grad):
    """Never a tangent that is silently lost."""
    x, neuron = torch.randn(4, 2, 3), LNM(backend="cpp")
    with torch.set_grad_enabled(grad), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            neuron(dual)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_backward_pass_in_forward_mode_is_refused():
    x, numbers = torch.randn(4, 2, 3), [torch.tensor(value) for value in ([0.0, 0.9], 1.0, 0.0, 1.0)]
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        d_spikes = torch.autograd.forward_ad.make_dual(x, x)
        options = (LEAKY, 1, 1, 0, False, False, [False] * 4)
        with pytest.raises(NotImplementedError):
            torch.ops.snn_lnm.scan_backward.cpp([d_spikes, None, None], x, [x[0]], numbers, x, *options)


LEAKY = form.neuron(Dynamics(charge="map", domain=None), 1, False).text


def test_the_operator_gives_shapes_on_the_meta_device():
    x, v, *numbers = (torch.zeros(shape, device="meta") for shape in ((2, 3, 4), (3, 4), (2,), (), (), ()))
    outputs = torch.ops.snn_lnm.scan.cpp(x, [v], numbers, LEAKY, 1, 1, 0, False, torch.float32)
    assert [value.shape for value in outputs] == [(2, 3, 4), (2, 3, 4), (3, 4)]


def test_an_operator_that_kept_no_membrane_says_so():
    x, *numbers = (torch.tensor(n) for n in ([[[0.5]]], [0.0, 0.9], 1.0, 0.0, 1.0))
    states, options = [torch.zeros(1, 1)], (LEAKY, 1, 1, 0, False, None)
    spikes, *_ = torch.ops.snn_lnm.scan.cpp(x.requires_grad_(), states, numbers, *options)
    with pytest.raises(ValueError, match="kept no membrane to go back through"):
        spikes.sum().backward()


def test_second_derivative_is_refused():
    x, state, numbers, dynamics = problem_of((3, 2, 5))
    out = functional.run(x.requires_grad_(), state, numbers, dynamics, backend="cpp")
    (first,) = torch.autograd.grad(out.membrane.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        first.sum().backward()


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(cpp, "obstacle", lambda: "no compiler in this test.")
    monkeypatch.setattr(engines, "_warned", set())
    problem = problem_of((3, 2, 5))
    with pytest.raises(RuntimeError, match="no compiler in this test"):
        functional.run(*problem, backend="cpp")
    with pytest.warns(RuntimeWarning, match="reference engine") as caught:
        functional.run(*problem)
        functional.run(*problem)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional.run(*problem, backend="reference")
    assert "no compiler in this test" in explain_backend(problem[0])


def test_a_user_s_surrogate_runs_on_the_reference():
    dynamics = Dynamics(surrogate=lambda u: torch.sigmoid(4 * u))
    problem = problem_of((3, 2, 5))[:3]
    assert functional.run(*problem, dynamics).spikes.unique().numel() > 2
    with pytest.raises(RuntimeError, match="callable of your own"):
        functional.run(*problem, dynamics, backend="cpp")
