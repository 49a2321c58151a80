"""What checkpoints of one degree mean in neurons of another, for any of our neurons."""

import itertools

import pytest
import rotation
import torch
from hypothesis import strategies as st

STEPS = {(): (2, 3), (3,): (2, 3), (3, 4): (2, 3, 4)}
"""Layout of the coefficients -> shape of a step."""


@st.composite
def cases(draw):
    """Coefficients of a low degree, how many more a higher one has, an input that leaves the domain, two domains."""
    layout = draw(st.sampled_from([*STEPS]))
    low, high = draw(st.sampled_from(rotation.some(itertools.combinations(range(9), 2), 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    theta = torch.randn(*layout, low + 1, generator=generator) * 0.5
    if low == 1:  # a line's slope is held to its range everywhere, that of a polynomial only outside the domain
        theta[..., 1] = -theta[..., 1].abs().clamp(max=1)
    x = torch.randn(6, *STEPS[layout], generator=generator) * 2
    # Without a domain a polynomial runs to infinity, where zero times it is no zero.
    domain = draw(st.sampled_from([(-0.75, 1.0), *([None] if low <= 1 else [])]))
    return theta, high - low, x, (domain, (-2.0, 1.5))


def check(build, run, case):
    """``build(coefficients, domain)``; ``run(neuron, x)`` gives tensors."""
    theta, more, x, (domain, other) = case
    wide = torch.cat([torch.ones_like(theta), theta.new_ones(*theta.shape[:-1], more)], -1)
    low, high = build(theta, domain), build(wide, other)
    high.load_state_dict(low.state_dict())
    assert high.domain == low.domain and high.degree == low.degree + more
    expected = run(low, x)
    assert all(torch.equal(a, b) for a, b in zip(run(high, x), expected, strict=True))
    again = build(torch.ones_like(theta), other)
    again.load_state_dict(high.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(again, x), expected, strict=True))
    with torch.no_grad():
        high.coefficients[..., -1] += 0.5
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=f"degree {high.degree} and the neuron of degree {low.degree}") as error:
            again.load_state_dict(build(high.coefficients, other).state_dict(), strict=strict)
        assert "size mismatch" not in str(error.value) and "Missing" not in str(error.value)
        assert torch.equal(again.coefficients, theta) and again.domain == domain
