"""Mutants of the C++ engine: its headers and ops.cpp. Each is compiled (without optimisation).

The anchors are short on purpose: the files change for speed, the law does not.
"""

from tests.mutants.mutant import Mutant

WORDS = "tests/test_option_words.py::test_an_unknown_word_is_refused_by_the_operators"
BITS = "tests/test_engines.py::test_same_bits"
GRADIENTS = "tests/test_engines.py::test_same_gradients_to_the_bit_where_arithmetic_is_exact"
DETACHED = "tests/test_gradients.py::test_detached_resets_are_the_reference_s"
OUTSIDE = "tests/test_gradients.py::test_gradcheck_outside_the_domain"
KEPT = "tests/test_memory_options.py::test_kept_to_nearest_and_on_its_side_of_the_threshold"
USUAL = "tests/test_engines.py::test_each_compiled_option_set"
HALVES = "tests/test_engines.py::test_halves_are_float32_rounded_at_the_end"
START = "tests/test_engines.py::test_one_number_under_every_index_is_a_state_like_any_other"
START_ROW = "tests/test_engines.py::test_states_that_are_views"
POOLED = "tests/test_max_pool.py::test_outputs_and_gradients_have_pytorch_s_bits"
HELD = "tests/test_held.py::test_bits_and_gradients"
ITEMS = "tests/test_engines.py::test_work_cut_into_many_items"
ALONE = "tests/test_engines.py::test_a_gradient_does_not_depend_on_what_else_is_asked_for"
SECOND = "tests/test_engines.py::test_second_derivative_is_refused"
DUAL = "tests/test_engines.py::test_forward_mode_is_refused"
KEPT_NOTHING = "tests/test_engines.py::test_an_operator_that_kept_no_membrane_says_so"
UNLIKE = "tests/test_again.py::test_the_operator_takes_nothing_that_does_not_fit"
ODD = "tests/test_prepared.py::test_odd_views_of_the_same_shape_are_looked_at_anew"
LIKE = "tests/test_prepared.py::test_the_second_call_is_the_first"
LIKE_GRADIENTS = "tests/test_prepared.py::test_the_second_call_has_the_first_s_gradients"
WATCHED = "tests/test_prepared.py::test_a_backward_pass_that_is_watched_shows_the_operator"
SECOND_AGAIN = "tests/test_prepared.py::test_a_second_derivative_is_refused_as_ever"
REFUSED = "tests/test_prepared.py::test_a_call_unlike_the_first_is_refused_as_ever"
INFERENCE = "tests/test_prepared.py::test_inference_tensors_and_mode_decide_as_ever_what_is_differentiated"
MANY = "tests/test_again.py::test_old_numbers_are_forgotten"
NUMBERS = "tests/test_again.py::test_equal_calls_have_one_number"
NAN = "tests/test_hard_numbers.py::test_any_input_goes_through_as_the_law_says"
REPEATED = "tests/test_engines.py::test_gradients_do_not_depend_on_threads_or_luck"


def law(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, "snn_lnm/engines/cpp/law.h", "", old, new, tests or (BITS,))


def kernels(why: str, old: str, new: str, *tests: str, file: str = "kernels.h") -> Mutant:
    return Mutant(why, f"snn_lnm/engines/cpp/{file}", "", old, new, tests or (BITS,))


def ops(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, "snn_lnm/engines/cpp/ops.cpp", "", old, new, tests or (BITS,))


def derivative(why: str, old: str, new: str, *tests: str, file: str = "autograd.cpp") -> Mutant:
    return Mutant(f"autograd: {why}", f"snn_lnm/engines/cpp/{file}", "", old, new, tests or (GRADIENTS,))


def again(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"again: {why}", "snn_lnm/engines/cpp/again.cpp", "", old, new, tests or (UNLIKE,))


def pool(why: str, old: str, new: str) -> Mutant:
    return kernels(why, old, new, POOLED, file="max_pool.cpp")


MUTANTS = [
    # ---- autograd.cpp
    derivative("gradients of the state are not asked for", "needs[1] || needs[2]", "needs[1] && needs[2]"),
    derivative(
        "gradients of θ are not asked for",
        "for (size_t i = 3; i < kTensors; ++i) of_parameters.push_back(needs[i]);",
        "for (size_t i = 3; i < kTensors; ++i) of_parameters.push_back(i > 3 && needs[i]);",
        REPEATED,
    ),
    derivative("an absent tensor has an edge", "saved[i].defined() && ctx->needs", "ctx->needs", file="autograd.h"),
    derivative("the input is not kept for the gain", "gain.requires_grad() || ", ""),
    derivative("nor for the synapse", "(alpha && alpha->requires_grad())", "false", ALONE),
    derivative(
        "the gradient of the last membrane is dropped", "last_v_is_membrane ? Tensor() : d_outputs[2]", "Tensor()"
    ),
    derivative(
        "the gradient of the last current is dropped", "saved[2].defined() ? d_outputs[3] : Tensor()", "Tensor()"
    ),
    derivative("the gradient of the membrane is dropped", "{d_outputs[0], d_outputs[1],", "{d_outputs[0], Tensor(),"),
    derivative(
        "gradients nobody asked for come back", "if (!needs[i]) gradients[i] = Tensor();", "", file="autograd.h"
    ),
    derivative("second derivatives are silently zero", "if (differentiated(call)) {", "if (false) {", SECOND),
    derivative("forward mode loses its tangent", "value.isTensor() && is_dual(", "false && is_dual(", DUAL),
    derivative("a call without a membrane goes back", "h.defined(), ", "true, ", KEPT_NOTHING),
    # ---- again.cpp
    again("any dtype fits", "in.x.scalar_type() != type || ", ""),
    again("any step fits", "in.x.sizes().slice(is_sequence) == step && ", ""),
    again("any order of dimensions fits", "in.x.is_contiguous() && ", ""),
    again("any view fits", "(t.key_set() - autograd) == (zero.key_set() - autograd)", "true", ODD),
    again("any start fits", "fits(in.v, arithmetic, step) &&", "true &&"),
    again("a current fits no synapse", "in.alpha.has_value() == in.current.has_value() &&", "true &&", REFUSED),
    again("any coefficients fit", "fits(in.coefficients, arithmetic, parameters[0]) && ", ""),
    again("any threshold fits", "fits(in.threshold, arithmetic, parameters[1]) &&", "true &&"),
    again("a watched backward pass is not seen", "!c10::impl::dispatch_mode_enabled() &&", "true &&", WATCHED),
    again("a second derivative is lost", "return !c10::GradMode::is_enabled() && ", "return ", SECOND_AGAIN),
    again("inference mode is not asked", "(autograd_is_off() || ", "(", INFERENCE),
    again(
        "inference tensors are kept", " || any(in, [](const Tensor& t) { return t.is_inference(); }))", ")", INFERENCE
    ),
    again("all calls are one", "options == other.options && ", "", NUMBERS),
    again("numbers have no end", "if (calls_.size() == kMost) {", "if (false) {", MANY),
    again("the gradient of the membrane is dropped", "d[1] = *next++;", "++next;", LIKE_GRADIENTS),
    again("the gradient of the last state is dropped", "d[2] = *next++;", "++next;", LIKE_GRADIENTS),
    again("the gradient of the current is dropped", "d[3] = *next++;", "++next;", LIKE_GRADIENTS),
    again("gradients of the state are not asked for", "needs[1] || needs[2], {", "needs[2], {", LIKE_GRADIENTS),
    again(
        "the membrane is given unasked", "call.membrane ? out.h : at::empty({0}, call.zero.options())", "out.h", LIKE
    ),
    kernels(
        "the last membrane's gradient passes a reset",
        "d_last_v && dynamics.reset == Reset::hard_next;",
        "false;",
        GRADIENTS,
        file="backward.h",
    ),
    # ---- an input that is held
    kernels("a held input moves on", "return holds ? 0 : t * neurons;", "return t * neurons;", HELD),
    kernels(
        "its gradient is the first step's", "d_c = d_held[j] += d_c;", "d_held[j] += d_c;", HELD, file="backward.h"
    ),
    kernels(
        "each repeat goes on with the last one's sum",
        "d_next[j] = d_held[j] = V{};",
        "d_next[j] = V{};",
        HELD,
        file="backward.h",
    ),
    kernels(
        "the sum of one step is taken for that of all",
        "!plan.holds || t == 0)",
        "!plan.holds || t == plan.steps - 1)",
        "tests/test_held.py::test_the_gradient_of_a_large_input_is_written_once",
        file="backward.h",
    ),
    ops("sizes of one step", "if (plan.holds) all.insert(", "if (false) all.insert(", HELD),
    # ---- law.h, forward
    law("> is >=", "d.fire_at_threshold ? u >= 0 : u > 0", "u >= 0"),
    law(
        "the kept membrane may cross the threshold",
        "== fires, nearest, same_side)",
        "== fires, nearest, nearest)",
        KEPT,
    ),
    kernels(
        "a kept NaN becomes infinity",
        "(value == value ? rounded : Words{} + 0x7fc00000)",
        "rounded",
        KEPT,
        file="bfloat16.h",
    ),
    law("Horner drops θ_0", "k >= 0; --k) p = p * v + n.theta[k]", "k >= 1; --k) p = p * v + n.theta[k]"),
    law("a hard reset goes to zero", "(1 - s) * h + s * n.v_reset", "(1 - s) * h"),
    law("a soft reset adds", "h - s * n.threshold;", "h + s * n.threshold;"),
    law("soft_next resets at once", "d.reset == Reset::soft_next ? h : reset", "false ? h : reset"),
    law(
        "the line's bracket forgets θ_0",
        "below = horner(lo, *this, d.degree) - (slope * lo + theta[0])",
        "below = horner(lo, *this, d.degree) - slope * lo",
    ),
    law("the slope of a drift may expand", "d.gain_divides ? -2 * gain : -2 / gain", "-4 / gain"),
    law("the synaptic state is stale", "state = current - n.alpha * current;", ""),
    law("a residual scales its input", "(v + scale(f, n, d)) + current", "(v + scale(f, n, d)) + scale(current, n, d)"),
    # ---- law.h, backward
    law("the threshold's sum is lost at the end of a row", "threshold += other.threshold;", "", USUAL),
    kernels(
        "gradients in bfloat16 are cut, not rounded",
        "exact        ? upper(value)",
        "true ? upper(value)",
        HALVES,
        file="rows.h",
    ),
    law(
        "the attached hard reset has no gradient",
        "d_s = fma(d_after, n.v_reset - h, d_s)",
        "d_s = fma(d_after, n.v_reset * 0, d_s)",
        GRADIENTS,
    ),
    law("the threshold's gradient has the wrong sign", "sums.threshold -= d_u;", "sums.threshold += d_u;", GRADIENTS),
    law(
        "the soft reset's threshold is forgotten",
        "sums.threshold = fma(-d_subtracted, s, sums.threshold);",
        "",
        GRADIENTS,
    ),
    law("v_reset gets no gradient", "sums.v_reset = fma(d_after, s, sums.v_reset);", "", GRADIENTS),
    law(
        "outside the domain the slope is the polynomial's",
        "d_f * select(outside, line ? n.slope : V{}, slope)",
        "d_f * slope",
        OUTSIDE,
    ),
    law("θ_1 outside its range moves the line", "select(n.slope_is_theta_1, v, w)", "v", OUTSIDE),
    law("the derivative of a power forgets its exponent", "splat<V>(k + 1) * theta[k + 1]", "theta[k + 1]", GRADIENTS),
    law("a clamped NaN is a number", "select(hi < v, hi, v)", "select(v <= hi, v, hi)", NAN),
    law(
        "a NaN membrane has a finite gradient",
        "select(outside, line ? n.slope : V{}, slope)",
        "select(w == v, slope, line ? n.slope : V{})",
        NAN,
    ),
    law("the gain's path through the lowest slope is lost", "d_f * (v - w) * d_lowest", "V{} * d_lowest", OUTSIDE),
    law("the gradient of the gain has the wrong sign", "-d_u * u / n.gain", "d_u * u / n.gain", GRADIENTS),
    law(
        "the gradient of α pairs the wrong steps",
        "sums.alpha += d_current * before;",
        "sums.alpha += d_current * current;",
        GRADIENTS,
    ),
    law("currents do not remember", "d_current += d_state;\n  sums", "sums", GRADIENTS),
    # ---- kernels.h
    kernels("the tail of a row is left out", "if (width % kLanes<V>) f(full", "if (false) f(full", file="vec.h"),
    kernels(
        "a tile is one vector too short",
        "width = std::min(p.width, p.span - within)",
        "width = std::min(p.width, p.span - within) - 1",
    ),
    kernels("every chunk of a batch takes all repeats", "p.repeats * chunk / p.chunks", "0 * chunk", ITEMS),
    kernels(
        "items are taken for chunks",
        "item % p.tiles, chunk = item / p.tiles",
        "item / p.chunks, chunk = item / p.tiles",
        ITEMS,
    ),
    kernels(
        "parameters of the last group are those of the first",
        "return neuron / inner % groups;",
        "return neuron / inner % std::max<int64_t>(1, groups - 1);",
    ),
    kernels("a group has one neuron too many", "if (--left == 0)", "if (left-- == 0)", BITS, GRADIENTS),
    kernels("no group follows the last", "group + 1 : 0;", "group + 1 : group;", BITS, GRADIENTS),
    kernels("states share a place", "d_next = d_state + vectors,", "d_next = d_state,", GRADIENTS, file="backward.h"),
    kernels("the first kernel serves all options", "&& d == specialise<usual.all[I]>(d)\n                ?", "?"),
    kernels("a loss on the membrane takes the spikes' kernel", "!run && pass.takes(usual.all[I]) &&", "!run &&", USUAL),
    kernels(
        "the start is not reset",
        "if (d.state_is_membrane()) state[j] = after_reset",
        "if (false) state[j] = after_reset",
        file="forward.h",
    ),
    kernels(
        "the last membrane is that after the reset",
        "d.state_is_membrane() ? membrane : state[j]",
        "state[j]",
        file="forward.h",
    ),
    # ---- ops.cpp
    ops(
        "the domain is reversed",
        "dynamics.lo = domain[0], dynamics.hi = domain[1]",
        "dynamics.lo = domain[1], dynamics.hi = domain[0]",
    ),
    ops("euler is taken for decay", "kSynapses) == Synapse::euler", "kSynapses) == Synapse::decay"),
    ops(
        "an unknown word is the first",
        "if (known[i] == word) return",
        "if (known[i] == word || i + 1 == N) return",
        WORDS,
    ),
    ops(
        "NaN coefficients are taken",
        "TORCH_CHECK_VALUE(finite,",
        "TORCH_CHECK_VALUE(true || finite,",
        "tests/test_bad_input.py::test_error",
    ),
    kernels(
        "a float64 input has a float32 state",
        "x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }",
        "at::kFloat; }",
        file="call.h",
    ),
    ops("the currents are not recomputed for the gain", "need[3] || need[4];", "need[4];", GRADIENTS),
    ops(
        "v_reset has the gain's gradient",
        "in.v_reset, kMaxDegree + 2, 1)",
        "in.v_reset, kMaxDegree + 3, 1)",
        GRADIENTS,
    ),
    ops(
        "a state's stride is ignored",
        "is_expanded_zero(*t) ? Maybe() : contiguous(t); }",
        "is_expanded_zero(*t) ? Maybe() : t; }",
        "tests/test_properties_module.py::test_gradients_of_any_strides",
    ),
    ops(
        "partial sums of the last tile are lost",
        "item < plan.items() && plan.steps",
        "item + 1 < plan.items() && plan.steps",
        GRADIENTS,
    ),
    ops("any number under every index is a zero", "return value == 0 && !std::signbit(value);", "return true;", START),
    ops(
        "a start that is a row for all the batch is a zero",
        "if (t.size(i) > 1 && t.stride(i) != 0) return false;",
        "",
        START_ROW,
    ),
    # ---- max_pool.cpp
    pool("of equal values the last wins", "(value > best)", "(value >= best)"),
    pool("the first NaN stays", "| (value != value)", "| (best == best && value != value)"),
    pool("a NaN is like any other", " | (value != value)", ""),
    pool(
        "an odd line moves the next one",
        "int64_t line() const { return width * channels; }",
        "int64_t line() const { return width / 2 * 2 * channels; }",
    ),
    pool(
        "planes follow without their odd line",
        "(row / (height / 2) * height +",
        "(row / (height / 2) * (height / 2 * 2) +",
    ),
    pool("a zero's gradient keeps its sign", "T(0) + d[j]", "d[j]"),
    pool("odd edges are not zeroed", "if (planes.height % 2 || planes.width % 2) d_x.zero_();", "d_x.fill_(1);"),
    pool("left and right gradients change places", "place == first ? value", "place == first + 1 ? value"),
    pool("channels last: the right places are read from the left", "f(2 * j + channels, windows", "f(2 * j, windows"),
    Mutant(
        "the start's reset counts for no parameter",
        "snn_lnm/engines/cpp/ops.cpp",
        "",
        "(need[1] || need[2])), need_currents",
        "false), need_currents",
        (ALONE,),
    ),
    Mutant(
        "the start's reset counts for the threshold only",
        "snn_lnm/engines/cpp/ops.cpp",
        "",
        "(need[1] || need[2])), need_currents",
        "need[1]), need_currents",
        (ALONE,),
    ),
]
