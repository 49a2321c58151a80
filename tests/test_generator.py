"""A step traced on symbols is the step, its adjoint is autograd's, and a new law needs no change to the engine."""

import pytest
import torch
from graphs import CONDITIONS, OPERATIONS, apply, interpret, nodes, of_numbers, of_states, piece, way_back
from hypothesis import given, reject
from hypothesis import strategies as st

from snn_lnm import reference
from snn_lnm.engines import form
from snn_lnm.engines.generator import cpp as emitter
from snn_lnm.engines.generator import program, symbols
from snn_lnm.engines.generator.adjoint import RULES, adjoint
from snn_lnm.engines.generator.symbols import FUNCTIONS, Graph, Symbol
from snn_lnm.law import Law, Stepped
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.surrogate import ATan, Sigmoid
from snn_lnm.testing import identical, problems, strategies

# ---- the rules -----------------------------------------------------------------------------------------

CASES = {
    "add": lambda a, b, c: a + b,
    "sub": lambda a, b, c: a - b,
    "mul": lambda a, b, c: a * b,
    "div": lambda a, b, c: a / b,
    "neg": lambda a, b, c: -a,
    "where": lambda a, b, c: torch.where(a < b, b * c, c),
    "clamp": lambda a, b, c: torch.clamp(a, -1.0, 1.0) * b,
    "detach": lambda a, b, c: a.detach() * b,
    "spike": lambda a, b, c: a.spike(ATan(), False) - b.spike(Sigmoid(), True),
    **{name: lambda a, b, c, name=name: getattr(torch, name)(a) for name in FUNCTIONS if name not in ("log", "sqrt")},
    **{name: lambda a, b, c, name=name: getattr(torch, name)(a * a) for name in ("log", "sqrt")},
}


def test_every_operation_has_a_rule_and_a_case():
    """What C++ is printed for is what there is."""
    printed = {*emitter._INFIX, *emitter._OTHER, "spike", "detach"}
    assert {*RULES} == {*CASES} and {*RULES, *CONDITIONS} == {*OPERATIONS, "spike"} == printed
    assert {*CONDITIONS} == symbols._CONDITIONS and {*FUNCTIONS} <= {*RULES}


@pytest.mark.parametrize("operation", RULES)
def test_a_rule_is_the_derivative(operation):
    """By finite differences in float64. What is detached stays as it is; a spike is its surrogate's primitive."""
    graph, step = Graph(), 1e-5
    leaves = [graph.input(name) for name in "abc"]
    y = CASES[operation](*leaves)
    assert operation in {node.operation for node in graph.nodes}
    gradients = adjoint(graph, [(y, graph.input("d"))], leaves)
    grid = torch.tensor([-1.5, -0.625, 0.75, 1.25], dtype=torch.float64)
    point = dict(zip("abc", torch.cartesian_prod(grid, grid + 0.0625, grid).unbind(1), strict=True))
    numbers = {"d": 0.7, "surrogate_alpha": 2.0, "surrogate_slope": 4.0}
    inputs = point | {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
    detached = [node for node in graph.nodes if node.operation == "detach"]
    held = dict(zip((node.index for node in detached), interpret(detached, inputs), strict=True))

    def smooth(node, arguments):
        return node.value[0].primitive(*arguments) if node.operation == "spike" else apply(node, arguments)

    for leaf in leaves:
        above, below = (
            interpret([y], inputs | {leaf.value: point[leaf.value] + move}, held, smooth)[0] for move in (step, -step)
        )
        expected = inputs["d"] * (above - below) / (2 * step)
        found = interpret([gradients.get(leaf.index, graph.literal(0.0))], inputs)[0]
        torch.testing.assert_close(found.expand_as(expected), expected, rtol=1e-7, atol=1e-7)


# ---- the step and the way back -------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _every_form():
    """Nothing is compiled for these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies, "FORMS", [])
        yield


PROBLEMS = problems(smooth=st.booleans(), layouts=("layer", "neuron"))


def law_of(problem):
    return reference.law(problem.dynamics, problem.parameters.degree, problem.parameters.alpha is not None)


def present(values):
    return {name: value for name, value in values._asdict().items() if value is not None}


@given(PROBLEMS)
def test_the_traced_step_is_the_step(problem):
    """To the bit."""
    law = law_of(problem)
    found = program.forward(law.form)
    inputs = of_numbers(law, present(problem.parameters)) | of_states(law, present(problem.state))
    ours = piece(found, "step", inputs | {"x": problem.x[0]})
    spikes, h, state = reference.step(problem.x[0], problem.state, problem.parameters, problem.dynamics)
    states = {f"after.{k}": getattr(state, name) for k, name in enumerate(law.states)}
    assert ours.keys() == {"spike", "membrane", *states}
    for name, value in {"spike": spikes, "membrane": h, **states}.items():
        assert identical(ours[name].expand_as(value), value)
    for membrane in (h, problem.parameters.threshold.expand_as(h)):
        above = piece(found, "above", inputs | {"h": membrane})["above"]
        fires = reference.fire(membrane, problem.parameters, problem.dynamics)
        assert problem.dynamics.smooth or torch.equal(above.to(h), fires)


def compare_with_autograd(law, needs, x, start, numbers, scan, operations):
    """Of a random loss on all outputs. ``operations`` of a step: each rounds once on a term's way, in either.

    Terms of a neuron may cancel over time; the largest of all gradients stands for them, as in test_engines.py.
    """
    leaves = [value.detach().clone().requires_grad_() for value in (x, *start.values(), *numbers.values())]
    of_start, of_numbers = leaves[1 : 1 + len(start)], leaves[1 + len(start) :]
    outputs = scan(leaves[0], dict(zip(start, of_start, strict=True)), dict(zip(numbers, of_numbers, strict=True)))
    weights = [torch.randn(value.shape, dtype=value.dtype) for value in outputs]
    loss = sum((value * weight).sum() for value, weight in zip(outputs, weights, strict=True))
    wanted = leaves[: 1 + len(start)] + [leaf for leaf, need in zip(of_numbers, needs, strict=True) if need]
    expected = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    largest = max(float(value.abs().max()) for value in expected)
    if not largest < 1e6:
        reject()
    d_spikes, d_membranes, *d_last = weights
    ours = way_back(law, needs, x, start, numbers, outputs[1].detach(), d_spikes, d_membranes, d_last)
    for mine, true in zip(ours, expected, strict=True):
        assert (mine - true).abs().max() <= 2 * len(x) * operations * torch.finfo(x.dtype).eps * largest


@given(PROBLEMS, st.data())
def test_the_way_back_is_autograd(problem, data):
    """Whatever is asked for; every neuron has numbers of its own."""
    law, step = law_of(problem), problem.x.shape[1:]
    needs = data.draw(st.tuples(*[st.booleans()] * len(law.numbers)))
    numbers = present(problem.parameters)
    numbers = {name: numbers[name].expand(*step, *[width] * bool(width)) for name, width in law.numbers}

    def scan(x, start, numbers):
        spikes, h, last = reference.scan(x, State(**start), Parameters(**numbers), problem.dynamics)
        return [spikes, h, *present(last).values()]

    operations = 4 * problem.parameters.degree + 30
    compare_with_autograd(law, needs, problem.x, present(problem.state), numbers, scan, operations)


def test_the_way_back_selects_once_between_line_and_polynomial():
    law = reference.law(Dynamics(domain=(-1.5, 1.5)), 3, False)
    found = program.backward(law.form, (False,) * len(law.numbers))
    of_time = [n for n in nodes(node for _, node in found.pieces["back"]) if found.inputs([n]) & {"h", "state.v"}]
    assert sum(node.operation == "where" for node in of_time) == 1


# ---- what cannot be traced -----------------------------------------------------------------------------

REFUSED = {
    "if": (lambda x: x if x > 0 else -x, "write torch.where"),
    "and": (lambda x: torch.where(x > 0 and x < 1, x, 0.0), "cannot ask for a value"),
    "max": (lambda x: max(x, 0), "cannot ask for a value"),
    "function": (torch.erf, "cannot use torch.erf: it knows arithmetic, comparisons and abs, atan, "),
    "power": (lambda x: x**4, "knows the powers 2 and 3, got 4"),
    "root": (lambda x: x**0.5, "knows the powers 2 and 3, got 0.5"),
    "tensor": (lambda x: x * torch.ones(3), "got Tensor"),
    "tensor first": (lambda x: torch.ones(3) - x, "got Tensor"),
    "chosen tensor": (lambda x: torch.where(x > 0, torch.ones(3), x), "got Tensor"),
    "no condition": (lambda x: torch.where(x, 1.0, 0.0), "needs a condition"),
    "text": (lambda x: x * "2", "got str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_traced_is_refused(case):
    wrong, message = REFUSED[case]
    with pytest.raises(TypeError, match=message):
        program.forward(Law(("v",), (), (), lambda x, states, *_: Stepped(x, wrong(x + states["v"]), {"v": x})))


def test_equal_operations_are_one_node():
    """But 0.0 is not -0.0, nor is a difference turned round."""
    graph = Graph()
    x, y = graph.input("x"), graph.input("y")
    assert (x + y) * 2 is (x + y) * 2.0 and x - y is not y - x and graph.input("x") is x
    assert x * 0.0 is not x * -0.0 and isinstance(x * 0.0, Symbol)


# ---- another law ---------------------------------------------------------------------------------------


def recovering(x, states, numbers, constants):
    """An adaptive neuron: a current, a membrane, and a recovery that follows both and the spikes."""
    rho, (a, b) = torch.sigmoid(numbers["rate"]), numbers["coupling"].unbind(-1)
    v, w = states["v"], states["w"]
    current = torch.exp(-constants["decay"]) * states["current"] + x
    h = numbers["leak"] * v + (current - w)
    s = ATan()(h - numbers["threshold"])
    w = rho * w + (1 - rho) * (a * v + b * s) + 0.125 * current
    return Stepped(s, h, {"v": h - s * numbers["threshold"], "w": w, "current": current})


def resonating(x, states, numbers, constants):
    """A resonate-and-fire neuron: a damped rotation of two states, of which a spike resets one."""
    size, turn = torch.exp(-(numbers["damping"] ** 2)), numbers["frequency"]
    u, v = states["u"], states["v"]
    h = size * (torch.cos(turn) * v + torch.sin(turn) * u) + x
    s = ATan()(h - constants["threshold"])
    return Stepped(s, h, {"u": size * (torch.cos(turn) * u - torch.sin(turn) * v), "v": (1 - s) * h})


def everything(x, states, numbers, constants):
    """Every function and comparison."""
    u, y = states["u"], numbers["scale"] * x
    chosen = (y >= 1) & ~(u < 0) | (u <= -1) & (y != u) | (y == 0) | (u > 1)
    h = torch.where(chosen, -y / (1 + u * u), y**3) + torch.relu(u) - torch.clamp(u, -1.0, 0.5)
    for name in FUNCTIONS:
        h = h + getattr(torch, name)(u.abs() + 0.5 if name in ("log", "sqrt") else 0.5 * u)
    s = ATan()(h - 1.0, at_zero=True)
    return Stepped(s, h, {"u": torch.tanh(h) - s.detach()})


SHARP = ("surrogate_alpha", 2.0)
LAWS = {
    "recovering": Law(
        ("v", "w", "current"),
        (("rate", None), ("coupling", 2), ("leak", None), ("threshold", None)),
        (("decay", 0.7), SHARP),
        recovering,
    ),
    "everything": Law(("u",), (("scale", None),), (SHARP,), everything),
    "resonating": Law(("u", "v"), (("damping", None), ("frequency", None)), (("threshold", 0.8), SHARP), resonating),
}


def random_case(law, step=(3, 37), steps=7, same=False):
    """Input, states, and numbers for each neuron, or the ``same`` for all."""

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64)

    numbers = {n: 0.6 + 0.1 * random(*(() if same else step[1:]), *[width] * bool(width)) for n, width in law.numbers}
    return 2 * random(steps, *step), {name: random(*step) for name in law.states}, numbers


def scan_of(law):
    def scan(x, states, numbers):
        spikes, membranes, constants = (
            [],
            [],
            {name: torch.tensor(value, dtype=x.dtype) for name, value in law.constants},
        )
        for x_t in x:
            s, h, states = law.step(x_t, states, numbers, constants)
            spikes.append(s)
            membranes.append(h)
        return [torch.stack(spikes), torch.stack(membranes), *states.values()]

    return scan


@pytest.mark.parametrize("name", LAWS)
def test_another_law_goes_back(name):
    law = LAWS[name]
    x, start, numbers = random_case(law)
    numbers = {n: numbers[n].expand(3, 37, *[width] * bool(width)) for n, width in law.numbers}
    for needs in ((False,) * len(numbers), (True,) * len(numbers), (True, *(False,) * (len(numbers) - 1))):
        compare_with_autograd(law, needs, x, start, numbers, scan_of(law), 60)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("name, fixed", [(name, fixed) for name in LAWS for fixed in (0, 1)])
def test_another_law_runs_in_the_engine(name, same, fixed, monkeypatch):
    """Without any change to it, with its first number learned or ``fixed``.

    (Functions are libm's there: a few roundings apart.)
    """
    law = LAWS[name]
    said = form.Form(law, scan_of(law))
    monkeypatch.setattr(form, "parse", lambda text: said)
    x, start, numbers = random_case(law, same=same)
    learned = [*numbers.values()][fixed:]
    leaves = [value.requires_grad_() for value in (x, *start.values(), *learned)]
    groups = 1 if same else 37
    options = (f"{name} of test_generator.py", 1, groups, 0, False, torch.float64)
    ours = torch.ops.snn_lnm.scan.cpp(x, [*start.values()], [*numbers.values()], *options)
    expected = scan_of(law)(x, start, numbers)
    weights = [torch.randn_like(value) for value in expected]
    found = [torch.autograd.grad(outputs, leaves, weights) for outputs in (ours, expected)]
    for mine, true in zip([*ours, *found[0]], [*expected, *found[1]], strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-11)
    assert torch.equal(ours[0], expected[0]) and 0 < float(ours[0].detach().mean()) < 1
