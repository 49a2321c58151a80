"""Mutants of the law itself (reference.py), of its numbers (parameters.py) and of the surrogates."""

from tests.mutants.mutant import Mutant

FILE = "snn_lnm/reference.py"
ORACLE = "tests/test_oracle_forward.py::test_every_combination_of_options"
ANYTHING = "tests/test_oracle_forward.py::test_whatever_comes"
GRADIENTS = "tests/test_oracle_gradients.py::test_spiking_gradients_to_the_bit"
SLOPES = "tests/test_oracle_gradients.py::test_smooth_gradients_are_the_slopes_of_the_law"
SAME = "tests/test_equivalences.py::test_"
CALLS = "tests/test_bad_input.py::test_error"


def law(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, FILE, old, new, tests or (ORACLE,))


def numbers(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, "snn_lnm/parameters.py", old, new, tests)


def surrogate(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, "snn_lnm/surrogate.py", old, new, tests)


MUTANTS = [
    # ---- polynomial and domain
    law("Horner drops θ_0", "in reversed(lower):", "in reversed(lower[1:]):"),
    law("Horner in the wrong order", "in reversed(lower):", "in lower:"),
    law("Horner rounds a fused product", "p = p * v + coefficient", "p = torch.addcmul(coefficient, p, v)", ANYTHING),
    law("the polynomial sums its powers instead", "p = p * v + coefficient", "p = coefficient + v * p * 1.0 + 0.0 * v"),
    law(
        "inside the domain f sees the edge",
        "inside = horner(w, coefficients)",
        "inside = horner(v * 0 + dynamics.domain[1], coefficients)",
    ),
    law("the domain is lost", "if dynamics.domain is None:", "if True:"),
    law("the constant extension is a line", 'if dynamics.extension == "constant":', "if False:"),
    law(
        "the line forgets θ_0",
        "return slope * u + coefficients[..., 0]",
        "return slope * u",
        "tests/test_domain.py::test_a_linear_neuron_keeps_its_bits_outside",
    ),
    law(
        "the line jumps at the edge",
        "line(v) + (inside - line(w))",
        "line(v)",
        "tests/test_domain.py::test_continuous_at_the_edges",
    ),
    law(
        "the line's bracket is summed in another order",
        "line(v) + (inside - line(w))",
        "(line(v) - line(w)) + inside",
        "tests/test_domain.py::test_a_linear_neuron_keeps_its_bits_outside",
    ),
    law("the slope of a map is not held", "return clamp(slope, -1.0, 1.0)", "return slope"),
    law(
        "the slope of a drift may expand",
        "-2 * parameters.gain if dynamics.gain_divides else -2 / parameters.gain",
        "-4 / parameters.gain",
    ),
    law("the slope of a drift may grow", "return clamp(slope, lowest, 0.0)", "return clamp(slope, lowest, 1.0)"),
    law(
        "the edges are outside, for gradients",
        "torch.where(v < lo, lo, torch.where(v > hi, hi, v))",
        "torch.where(v <= lo, lo, torch.where(v >= hi, hi, v))",
        GRADIENTS,
    ),
    # ---- charge and gain
    law(
        "a map adds its own v",
        "return f + scale(current, parameters, dynamics)",
        "return v + f + scale(current, parameters, dynamics)",
        SAME + "drift_residual_and_map_are_one_neuron",
    ),
    law(
        "a drift leaves out the current",
        "return v + scale(f + current, parameters, dynamics)",
        "return v + scale(f, parameters, dynamics)",
    ),
    law(
        "a drift scales its sum term by term",
        "return v + scale(f + current, parameters, dynamics)",
        "return v + (scale(f, parameters, dynamics) + scale(current, parameters, dynamics))",
        ANYTHING,
    ),
    law(
        "a residual scales its input",
        "(v + scale(f, parameters, dynamics)) + current",
        "(v + scale(f, parameters, dynamics)) + scale(current, parameters, dynamics)",
    ),
    law(
        "a residual is summed in another order",
        "(v + scale(f, parameters, dynamics)) + current",
        "v + (scale(f, parameters, dynamics) + current)",
        ANYTHING,
    ),
    law(
        "the division is a product with the inverse",
        "u / parameters.gain if",
        "u * (1 / parameters.gain) if",
        "tests/test_oracle_forward.py::test_division_is_not_the_product_with_an_inverse",
    ),
    law(
        "gain_divides is ignored",
        "return u / parameters.gain if dynamics.gain_divides else parameters.gain * u",
        "return parameters.gain * u",
        SAME + "dividing_by_a_power_of_two_is_multiplying_by_its_inverse",
    ),
    # ---- fire and reset
    law(
        "a spike compares h instead of h - ϑ",
        "u = h - parameters.threshold",
        "u = h",
        SAME + "an_infinite_threshold_is_the_neuron_without_a_reset",
    ),
    law("a soft reset subtracts v_reset", "return h - s * parameters.threshold", "return h - s * parameters.v_reset"),
    law("a soft reset adds", "return h - s * parameters.threshold", "return h + s * parameters.threshold"),
    law("a hard reset goes to zero", "(1 - s) * h + s * parameters.v_reset", "(1 - s) * h"),
    law("a hard reset adds v_reset always", "(1 - s) * h + s * parameters.v_reset", "(1 - s) * h + parameters.v_reset"),
    law(
        "a hard reset is written h + s·(v_r - h)",
        "(1 - s) * h + s * parameters.v_reset",
        "h + s * (parameters.v_reset - h)",
        ANYTHING,
    ),
    law("detach is missing", "spikes.detach() if dynamics.detach_reset else spikes", "spikes", GRADIENTS),
    law(
        "detach is there when not asked for",
        "spikes.detach() if dynamics.detach_reset else spikes",
        "spikes.detach()",
        GRADIENTS,
    ),
    law("hard_next resets after the polynomial", 'if dynamics.reset == "hard_next":', "if False:"),
    law(
        "soft_next subtracts before the polynomial",
        "h = reset(h, fire(v, parameters, dynamics), parameters, dynamics)\n",
        "h = charge(reset(v, fire(v, parameters, dynamics), parameters, dynamics), current, parameters, dynamics)\n",
    ),
    law(
        "the delayed reset looks at the new membrane",
        "h = reset(h, fire(v, parameters, dynamics), parameters, dynamics)\n",
        "h = reset(h, fire(h, parameters, dynamics), parameters, dynamics)\n",
    ),
    law(
        "the state is h also after an immediate reset", "v = h if dynamics.state_is_membrane else", "v = h if True else"
    ),
    # ---- synapse and time
    law("the synapse forgets its past", "current = alpha * state + x\n", "current = x + 0 * state\n"),
    law(
        "the euler synapse decays at once",
        "return current, current - alpha * current",
        "return current - alpha * current, current - alpha * current",
    ),
    law(
        "the euler synapse rounds (1-b)·c",
        "return current, current - alpha * current",
        "return current, (1 - alpha) * current",
        ANYTHING,
    ),
    law(
        "the synaptic state is stale",
        "return spikes, h, State(v, synaptic)",
        "return spikes, h, State(v, state.current)",
    ),
    law(
        "the membrane is stale",
        "return spikes, h, State(v, synaptic)",
        "return spikes, h, State(state.v, synaptic)",
        SAME + "a_pure_integrator_is_the_running_sum",
    ),
    law(
        "time runs backwards",
        "x.to(arithmetic).unbind(0)",
        "x.to(arithmetic).flip(0).unbind(0)",
        SAME + "between_spikes_degree_one_is_its_closed_form",
    ),
    law(
        "half inputs are computed in half",
        "x.to(arithmetic).unbind(0)",
        "x.unbind(0)",
        "tests/test_oracle_forward.py::test_half_inputs_compute_in_float32",
    ),
    law(
        "spikes of half inputs are float32",
        "torch.stack(spikes).to(x.dtype)",
        "torch.stack(spikes)",
        "tests/test_oracle_forward.py::test_half_inputs_compute_in_float32",
    ),
    # ---- parameters.py
    numbers(
        "[C] broadcasts from the right",
        "if len(layout) == 1 and len(step) > 2:",
        "if False:",
        SAME + "neurons_move_with_their_numbers",
    ),
    numbers("a stale state is taken", "if value.shape != step:", "if False:", CALLS),
    numbers(
        "NaN coefficients are taken",
        "bool(torch.isfinite(check_not_meta(name, value)).all())",
        "bool((check_not_meta(name, value) is not None))",
        CALLS,
    ),
    numbers("degree 9 is taken", "MAX_DEGREE = 8", "MAX_DEGREE = 9", CALLS),
    numbers("parameters of another dtype are cast", "if value.dtype == dtype:", "if True:", CALLS),
    numbers(
        "hard_next keeps the membrane after reset",
        'return self.reset in ("none", "soft_next", "hard_next")',
        'return self.reset in ("none", "soft_next")',
        ORACLE,
    ),
    numbers(
        "the default domain is half as wide",
        "edge = 1.5 * abs(threshold)",
        "edge = 0.75 * abs(threshold)",
        "tests/test_neuron.py::test_defaults_are_the_leaky_drift",
    ),
    # ---- surrogate.py (its formulas are the C++ engine's too: each needs a build)
    surrogate(
        "> is >=", "(u >= 0) if at_zero else (u > 0)", "(u >= 0)", "tests/test_law.py::test_a_membrane_on_the_threshold"
    ),
    surrogate(
        "fire_at_threshold is ignored",
        "(u >= 0) if at_zero else (u > 0)",
        "(u > 0)",
        "tests/test_law.py::test_a_membrane_on_the_threshold",
    ),
    surrogate(
        "the surrogate's gradient is doubled",
        "derivative = grad_outputs[0] * ctx",
        "derivative = 2 * grad_outputs[0] * ctx",
        GRADIENTS,
    ),
    surrogate(
        "atan has lost its π/2",
        "z = (1.5707963267948966 * alpha) * u",
        "z = alpha * u",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "fast sigmoid is not squared",
        "return 1 / (z * z)",
        "return 1 / z",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "the sigmoid's slope is lost",
        "return slope * p * (1 - p)",
        "return p * (1 - p)",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "the triangle is as wide as two",
        "(z < 1).to(u.dtype) * (area / width)",
        "(z < 2).to(u.dtype) * (area / width)",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "the rectangle has twice its width",
        "(u.abs() < width / 2).to(u.dtype) / width",
        "(u.abs() < width).to(u.dtype) / width",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
]
