"""Mutants of the law itself (reference.py), of its numbers (checks.py, parameters.py) and of the surrogates."""

from tests.mutants.mutant import Mutant

FILE = "snn_lnm/reference.py"
ORACLE = "tests/test_oracle_forward.py::test_every_combination_of_options"
ANYTHING = "tests/test_oracle_forward.py::test_whatever_comes"
GRADIENTS = "tests/test_oracle_gradients.py::test_spiking_gradients_to_the_bit"
SLOPES = "tests/test_oracle_gradients.py::test_smooth_gradients_are_the_slopes_of_the_law"
SAME = "tests/test_equivalences.py::test_"
CALLS = "tests/test_bad_input.py::test_error"


def law(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, FILE, inside, old, new, tests or (ORACLE,))


def numbers(why: str, inside: str, old: str, new: str, *tests: str, file: str = "checks.py") -> Mutant:
    return Mutant(why, f"snn_lnm/{file}", inside, old, new, tests)


def surrogate(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, "snn_lnm/surrogate.py", inside, old, new, tests)


MUTANTS = [
    # ---- polynomial and domain
    law("Horner drops θ_0", "horner", "in reversed(lower)", "in reversed(lower[1:])"),
    law("Horner in the wrong order", "horner", "in reversed(lower)", "in lower"),
    law(
        "Horner rounds a fused product",
        "horner",
        "p = p * v + coefficient",
        "p = torch.addcmul(coefficient, p, v)",
        ANYTHING,
    ),
    law(
        "the polynomial sums its powers instead",
        "horner",
        "p = p * v + coefficient",
        "p = coefficient + v * p * 1.0 + 0.0 * v",
    ),
    law(
        "inside the domain f sees the edge",
        "polynomial",
        "inside = horner(w, coefficients)",
        "inside = horner(v * 0 + dynamics.domain[1], coefficients)",
    ),
    law("the domain is lost", "polynomial", "dynamics.domain is None", "True"),
    law("the constant extension is a line", "polynomial", 'dynamics.extension == "constant"', "False"),
    law(
        "the line forgets θ_0",
        "polynomial.line",
        "slope * u + coefficients[0]",
        "slope * u",
        "tests/test_domain.py::test_a_linear_neuron_keeps_its_bits_outside",
    ),
    law(
        "the line jumps at the edge",
        "polynomial",
        "line(v) + (inside - line(w))",
        "line(v)",
        "tests/test_domain.py::test_continuous_at_the_edges",
    ),
    law(
        "the line's bracket is summed in another order",
        "polynomial",
        "line(v) + (inside - line(w))",
        "(line(v) - line(w)) + inside",
        "tests/test_domain.py::test_a_linear_neuron_keeps_its_bits_outside",
    ),
    law("the slope of a map is not held", "line_slope", "clamp(slope, -1.0, 1.0)", "slope"),
    law(
        "a line has an inside",
        "polynomial",
        'dynamics.extension == "line" and len(coefficients) <= 2',
        "False",
        "tests/test_domain.py::test_a_line_that_expands_grows_no_faster_than_linearly",
    ),
    law(
        "the slope of a drift may expand",
        "line_slope",
        "-2 * parameters.gain if dynamics.gain_divides else -2 / parameters.gain",
        "-4 / parameters.gain",
    ),
    law(
        "the slope of a drift may grow",
        "line_slope",
        "clamp(slope, lowest, 0.0)",
        "clamp(slope, lowest, 1.0)",
    ),
    law(
        "the edges are outside, for gradients",
        "clamp",
        "torch.where(v < lo, lo, torch.where(v > hi, hi, v))",
        "torch.where(v <= lo, lo, torch.where(v >= hi, hi, v))",
        GRADIENTS,
    ),
    # ---- charge and gain
    law(
        "a map adds its own v",
        "charge",
        "f + scale(current, parameters, dynamics)",
        "v + f + scale(current, parameters, dynamics)",
        SAME + "drift_residual_and_map_are_one_neuron",
    ),
    law(
        "a drift leaves out the current",
        "charge",
        "v + scale(f + current, parameters, dynamics)",
        "v + scale(f, parameters, dynamics)",
    ),
    law(
        "a drift scales its sum term by term",
        "charge",
        "v + scale(f + current, parameters, dynamics)",
        "v + (scale(f, parameters, dynamics) + scale(current, parameters, dynamics))",
        ANYTHING,
    ),
    law(
        "a residual scales its input",
        "charge",
        "(v + scale(f, parameters, dynamics)) + current",
        "(v + scale(f, parameters, dynamics)) + scale(current, parameters, dynamics)",
    ),
    law(
        "a residual is summed in another order",
        "charge",
        "(v + scale(f, parameters, dynamics)) + current",
        "v + (scale(f, parameters, dynamics) + current)",
        ANYTHING,
    ),
    law(
        "the division is a product with the inverse",
        "scale",
        "u / parameters.gain if",
        "u * (1 / parameters.gain) if",
        "tests/test_oracle_forward.py::test_division_is_not_the_product_with_an_inverse",
    ),
    law(
        "gain_divides is ignored",
        "scale",
        "u / parameters.gain if dynamics.gain_divides else parameters.gain * u",
        "parameters.gain * u",
        SAME + "dividing_by_a_power_of_two_is_multiplying_by_its_inverse",
    ),
    # ---- fire and reset
    law(
        "a spike compares h instead of h - ϑ",
        "fire",
        "u = h - parameters.threshold",
        "u = h",
        SAME + "an_infinite_threshold_is_the_neuron_without_a_reset",
    ),
    law(
        "a soft reset subtracts v_reset",
        "reset",
        "h - s * parameters.threshold",
        "h - s * parameters.v_reset",
    ),
    law("a soft reset adds", "reset", "h - s * parameters.threshold", "h + s * parameters.threshold"),
    law("a hard reset goes to zero", "reset", "(1 - s) * h + s * parameters.v_reset", "(1 - s) * h"),
    law(
        "a hard reset adds v_reset always",
        "reset",
        "(1 - s) * h + s * parameters.v_reset",
        "(1 - s) * h + parameters.v_reset",
    ),
    law(
        "a hard reset is written h + s·(v_r - h)",
        "reset",
        "(1 - s) * h + s * parameters.v_reset",
        "h + s * (parameters.v_reset - h)",
        ANYTHING,
    ),
    law("detach is missing", "reset", "spikes.detach() if dynamics.detach_reset else spikes", "spikes", GRADIENTS),
    law(
        "detach is there when not asked for",
        "reset",
        "spikes.detach() if dynamics.detach_reset else spikes",
        "spikes.detach()",
        GRADIENTS,
    ),
    law("hard_next resets after the polynomial", "step", 'dynamics.reset == "hard_next"', "False"),
    law(
        "soft_next subtracts before the polynomial",
        "step",
        "h = reset(h, fire(v, parameters, dynamics), parameters, dynamics)",
        "h = charge(reset(v, fire(v, parameters, dynamics), parameters, dynamics), current, parameters, dynamics)",
    ),
    law(
        "the delayed reset looks at the new membrane",
        "step",
        "h = reset(h, fire(v, parameters, dynamics), parameters, dynamics)",
        "h = reset(h, fire(h, parameters, dynamics), parameters, dynamics)",
    ),
    law(
        "the state is h also after an immediate reset",
        "step",
        "h if dynamics.state_is_membrane",
        "h if True",
    ),
    # ---- synapse and time
    law("the synapse forgets its past", "synapse", "current = alpha * state + x", "current = x + 0 * state"),
    law(
        "the euler synapse decays at once",
        "synapse",
        "current, current - alpha * current",
        "current - alpha * current, current - alpha * current",
    ),
    law(
        "the euler synapse rounds (1-b)·c",
        "synapse",
        "current, current - alpha * current",
        "current, (1 - alpha) * current",
        ANYTHING,
    ),
    law(
        "the synaptic state is stale",
        "step",
        "spikes, h, State(v, synaptic)",
        "spikes, h, State(v, state.current)",
    ),
    law(
        "the membrane is stale",
        "step",
        "spikes, h, State(v, synaptic)",
        "spikes, h, State(state.v, synaptic)",
        SAME + "a_pure_integrator_is_the_running_sum",
    ),
    law(
        "time runs backwards",
        "scan",
        "x.to(arithmetic).unbind(0)",
        "x.to(arithmetic).flip(0).unbind(0)",
        SAME + "between_spikes_degree_one_is_its_closed_form",
    ),
    law(
        "half inputs are computed in half",
        "scan",
        "x.to(arithmetic).unbind(0)",
        "x.unbind(0)",
        "tests/test_law.py::test_a_half_input_is_not_multiplied_in_half",
    ),
    law(
        "spikes of half inputs are float32",
        "scan",
        "torch.stack(spikes).to(x.dtype)",
        "torch.stack(spikes)",
        "tests/test_oracle_forward.py::test_half_inputs_compute_in_float32",
    ),
    # ---- checks.py, parameters.py
    numbers(
        "[C] broadcasts from the right",
        "align",
        "len(layout) == 1 and len(step) > 2",
        "False",
        SAME + "neurons_move_with_their_numbers",
    ),
    numbers("a stale state is taken", "check_state", "(shape := sizes(value)) != step", "False", CALLS),
    numbers(
        "NaN coefficients are taken",
        "check_finite",
        "bool(torch.isfinite(check_not_meta(name, value)).all())",
        "bool((check_not_meta(name, value) is not None))",
        CALLS,
    ),
    numbers("degree 9 is taken", "MAX_DEGREE", "MAX_DEGREE = 8", "MAX_DEGREE = 9", CALLS),
    numbers("parameters of another dtype are cast", "as_parameter", "value.dtype == dtype", "True", CALLS),
    numbers(
        "hard_next keeps the membrane after reset",
        "Dynamics.state_is_membrane",
        'self.reset in ("none", "soft_next", "hard_next")',
        'self.reset in ("none", "soft_next")',
        ORACLE,
        file="parameters.py",
    ),
    numbers(
        "the default domain is half as wide",
        "default_domain",
        "edge = 1.5 * abs(threshold)",
        "edge = 0.75 * abs(threshold)",
        "tests/test_neuron.py::test_defaults_are_the_leaky_drift",
        file="parameters.py",
    ),
    # ---- surrogate.py (its formulas are the C++ engine's too: each needs a build)
    surrogate(
        "> is >=",
        "_Step.forward",
        "(u >= 0) if at_zero else (u > 0)",
        "(u >= 0)",
        "tests/test_law.py::test_a_membrane_on_the_threshold",
    ),
    surrogate(
        "fire_at_threshold is ignored",
        "_Step.forward",
        "(u >= 0) if at_zero else (u > 0)",
        "(u > 0)",
        "tests/test_law.py::test_a_membrane_on_the_threshold",
    ),
    surrogate(
        "the surrogate's gradient is doubled",
        "_Step.backward",
        "derivative = grad_outputs[0] * ctx",
        "derivative = 2 * grad_outputs[0] * ctx",
        GRADIENTS,
    ),
    surrogate(
        "atan has lost its π/2",
        "ATan.derivative",
        "z = (1.5707963267948966 * alpha) * u",
        "z = alpha * u",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "fast sigmoid is not squared",
        "FastSigmoid.derivative",
        "1 / (z * z)",
        "1 / z",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "the sigmoid's slope is lost",
        "Sigmoid.derivative",
        "slope * p * (1 - p)",
        "p * (1 - p)",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "the triangle is as wide as two",
        "Triangle.derivative",
        "(z < 1).to(u.dtype) * (area / width)",
        "(z < 2).to(u.dtype) * (area / width)",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
    surrogate(
        "the rectangle has twice its width",
        "Rectangle.derivative",
        "(u.abs() < width / 2).to(u.dtype) / width",
        "(u.abs() < width).to(u.dtype) / width",
        "tests/test_oracle_surrogates.py::test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive",
    ),
]
