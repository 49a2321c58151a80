"""Mutants of the C++ engine: its loops and its operator; and of autograd, in op.py, which Triton has, too.

Those of C++ are compiled (without optimisation).
The anchors are short on purpose: the files change for speed, the law does not.
"""

from tests.mutants.mutant import Mutant

ENGINES = "tests/test_engines.py::test_"
BITS = f"{ENGINES}same_bits"
GRADIENTS = f"{ENGINES}same_gradients_to_the_bit_where_arithmetic_is_exact"
LONG = f"{ENGINES}same_gradients"
SMOOTH = f"{ENGINES}smooth_spikes_in_half_precision"
STREAMED = f"{ENGINES}rows_that_pass_the_caches"
HALVES = f"{ENGINES}halves_are_float32_rounded_at_the_end"
START = "tests/test_starts.py::test_one_number_under_every_index_is_a_state_like_any_other"
START_ROW = "tests/test_starts.py::test_states_that_are_views"
ITEMS = f"{ENGINES}work_cut_into_many_items"
ALONE = f"{ENGINES}a_gradient_does_not_depend_on_what_else_is_asked_for"
SECOND = f"{ENGINES}second_derivative_is_refused"
DUAL = f"{ENGINES}a_backward_pass_in_forward_mode_is_refused"
KEPT_NOTHING = f"{ENGINES}an_operator_that_kept_no_membrane_says_so"
ONE_FLOAT = f"{ENGINES}one_float_per_element_is_kept"
OPCHECK = f"{ENGINES}opcheck"
KEPT = "tests/test_memory_options.py::test_kept_to_nearest_and_on_its_side_of_the_threshold"
KEPT_GRADIENTS = "tests/test_memory_options.py::test_gradients_are_those_at_the_kept_membrane"
POOLED = "tests/test_max_pool.py::test_outputs_and_gradients_have_pytorch_s_bits"
HELD = "tests/test_held.py::test_bits_and_gradients"
LARGE = "tests/test_held.py::test_the_gradient_of_a_large_input_is_written_once"
SENSELESS = "tests/test_held.py::test_the_operator_refuses_what_makes_no_sense"
STRIDES = "tests/test_properties_module.py::test_gradients_of_any_strides"
STEPS = "tests/test_prepared.py::test_the_second_call_has_the_first_s_gradients"
OTHER = "tests/test_generator.py::test_another_law_runs_in_the_engine"


def loops(file: str, why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, f"snn_lnm/engines/cpp/{file}", "", old, new, tests or (BITS,))


def forward(why: str, old: str, new: str, *tests: str) -> Mutant:
    return loops("forward.h", why, old, new, *tests)


def backward(why: str, old: str, new: str, *tests: str) -> Mutant:
    return loops("backward.h", why, old, new, *(tests or (GRADIENTS,)))


def ops(why: str, old: str, new: str, *tests: str) -> Mutant:
    return loops("ops.cpp", why, old, new, *tests)


def pool(why: str, old: str, new: str) -> Mutant:
    return loops("max_pool.cpp", why, old, new, POOLED)


def derivative(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"autograd: {why}", "snn_lnm/engines/op.py", inside, old, new, tests or (GRADIENTS,))


MUTANTS = [
    # ---- op.py's autograd
    derivative(
        "only the membrane's gradient asks for that of states",
        "_Scan.backward",
        "True in needs[:count]",
        "needs[0]",
        ALONE,
    ),
    derivative(
        "gradients of θ are not asked for", "_Scan.backward", "[*needs[count:]]", "[False, *needs[count + 1 :]]"
    ),
    derivative(
        "the input is not kept for the gain",
        "_Scan.forward",
        "not call.uses_input(ctx.needs_input_grad[2 + count :])",
        "True",
        GRADIENTS,
    ),
    derivative(
        "the input is always kept",
        "_Scan.forward",
        "not call.uses_input(ctx.needs_input_grad[2 + count :])",
        "False",
        ONE_FLOAT,
    ),
    derivative(
        "gradients of the last states are dropped",
        "_Scan.backward",
        "given = [*d_outputs]",
        "given = [*d_outputs[:2], *[None] * count]",
    ),
    derivative(
        "the gradient of the membrane is dropped",
        "_Scan.backward",
        "given = [*d_outputs]",
        "given = [d_outputs[0], None, *d_outputs[2:]]",
    ),
    derivative(
        "second derivatives are silently zero", "_backward_autograd", "if _differentiated():", "if False:", SECOND
    ),
    derivative(
        "forward mode loses its tangent",
        "_differentiated",
        "torch.is_grad_enabled() or is_forward_mode()",
        "torch.is_grad_enabled()",
        DUAL,
    ),
    derivative(
        "a call without a membrane goes back", "_Scan.backward", "call.options[-1] is None", "False", KEPT_NOTHING
    ),
    Mutant(
        "no gradient follows from the input",
        "snn_lnm/engines/form.py",
        "Form.uses_input",
        "program.backward(self.law.form, needs).uses_input",
        "False",
        (ALONE,),
    ),
    Mutant(
        "the first state is the membrane",
        "snn_lnm/engines/form.py",
        "Form.membrane_state",
        "if node is found.h",
        "",
        (STEPS, "tests/test_law.py"),
    ),
    Mutant(
        "products and sums are fused",
        "snn_lnm/engines/cpp/kernels.py",
        "_CONTRACTION",
        '"forward": "-ffp-contract=off"',
        '"forward": "-ffp-contract=fast"',
        (BITS,),
    ),
    # ---- forward.h
    forward("only the first state is carried on", "state[k][j] = after[k];", "state[0][j] = after[0];", OTHER),
    forward("all last states are the first", "j * L, state[k][j], n)", "j * L, state[0][j], n)", OTHER),
    forward(
        "all samples start like the first",
        "states_from<T>(pass.states[k], base)",
        "states_from<T>(pass.states[k], tile.start)",
    ),
    forward("a large row is not written", "spikes.finish(row, width, spikes_buffer);", "", STREAMED),
    forward("a smooth spike is stored as if it were 0 or 1", " || !Neuron::kSpikesAreExact", "", SMOOTH),
    loops("vec.h", "the tail of a row is left out", "if (width % kLanes<V>) f(full", "if (false) f(full"),
    loops("vec.h", "another choice", "return mask ? yes : no;", "return mask ? no : yes;"),
    # ---- backward.h
    backward("a held input's gradient is the first step's", "d_now = d_held[j] += d_now;", "d_held[j] += d_now;", HELD),
    backward(
        "each repeat goes on with the last one's sum",
        "d_held[j] = V{};",
        "if (r == tile.first_repeat) d_held[j] = V{};",
        HELD,
    ),
    backward(
        "the sum of one step is taken for that of all",
        "!plan.holds || t == 0)",
        "!plan.holds || t == plan.steps - 1)",
        LARGE,
    ),
    backward("the gradient of the last states is dropped", "d ? load<V>(d + base + j * L, n) : V{}", "V{}"),
    backward("the last membrane is the first", "kept.from((plan.steps - 1) * plan.neurons + base)", "kept.from(base)"),
    backward(
        "the start is recovered from the first membrane", "if (t > 0) return Neuron::recover", "return Neuron::recover"
    ),
    backward("states computed again have no start", "else Neuron::pack(before, vectors, place);", "", OTHER),
    backward(
        "states computed again see no input",
        "x ? x.from(plan.input_row(t) + base).load(j * L, n) : V{}",
        "V{}",
        GRADIENTS,
    ),
    backward("states computed again are a step late", "place + Neuron::kRerun * vectors)", "place)", OTHER),
    backward("lanes are summed twice", "      sums[j] = Sums{};\n", "", LONG),
    backward(
        "every row's sums replace the last one's", "sums[0][k] += row_sums[k];", "sums[0][k] = row_sums[k];", OTHER
    ),
    backward("all groups add to the first", "groups.next() - first)", "0)"),
    backward(
        "all states have the first one's gradient", "j * L, d_state[k * most + j], n)", "j * L, d_state[j], n)", OTHER
    ),
    backward("the gradient of the membrane is dropped", "d_h_row ? load<V>(d_h_row + j * L, n) : V{}", "V{}"),
    backward(
        "what was kept is no distance",
        "row.load(j * L, n) + Neuron::center(values, shared)",
        "row.load(j * L, n)",
        KEPT_GRADIENTS,
    ),
    backward("states and what is held share a place", "d_state = memory + 2 * most", "d_state = memory + most", HELD),
    # ---- neuron.h, pass.h, plan.h, rows.h
    loops("neuron.h", "a group has one neuron too many", "if (--left == 0)", "if (left-- == 0)"),
    loops("neuron.h", "no group follows the last", "group + 1 : 0;", "group + 1 : group;"),
    loops(
        "neuron.h",
        "all groups have the first one's numbers",
        "values[(pass.many[tensor] ? group[i] : 0) * width + column]",
        "values[column]",
    ),
    loops("neuron.h", "all constants are the first", "splat<V>(pass.constants[k])", "splat<V>(pass.constants[0])"),
    loops(
        "neuron.h",
        "the last neurons of a tile have no numbers",
        "(tile.width + kLanes<V> - 1) / kLanes<V>;",
        "tile.width / kLanes<V>;",
    ),
    loops("pass.h", "a held input moves on", "return holds ? 0 : t * neurons;", "return t * neurons;", HELD),
    loops(
        "pass.h",
        "a tile is a neuron too short",
        "smaller(p.width, p.span - within);",
        "smaller(p.width, p.span - within) - 1;",
    ),
    loops("pass.h", "every chunk of a batch takes all repeats", "p.repeats * chunk / p.chunks;", "0 * chunk;", ITEMS),
    loops("pass.h", "items are taken for chunks", "item % p.tiles, chunk", "item % p.chunks, chunk", ITEMS),
    loops(
        "pass.h", "the last group is the first", "neuron / inner % groups;", "neuron / inner % larger(1, groups - 1);"
    ),
    loops(
        "plan.h",
        "a shorter last repeat is left out",
        "p.repeats = cut(neurons, p.period);",
        "p.repeats = neurons / std::max<int64_t>(1, p.period);",
    ),
    loops(
        "plan.h",
        "the last tile of a span is left out",
        "p.per_span = cut(p.span, p.width);",
        "p.per_span = std::max<int64_t>(1, p.span / std::max<int64_t>(1, p.width));",
    ),
    loops("rows.h", "a large row is written in part", "n * int64_t(sizeof(S));", "n;", LARGE),
    loops(
        "rows.h",
        "every tile starts like the first",
        "static_cast<const T*>(values) + at : zeros;",
        "static_cast<const T*>(values) : zeros;",
    ),
    # ---- halves.h
    loops(
        "halves.h", "a kept NaN becomes infinity", "value == value ? rounded : Words{} + 0x7fc00000", "rounded", KEPT
    ),
    loops(
        "halves.h",
        "bfloat16 is cut, not rounded",
        "store_exact(target, nearest(value), n); }",
        "store_exact(target, value, n); }",
        HALVES,
    ),
    loops("halves.h", "ties go up", "bits + 0x7fff + ((bits >> 16) & 1)", "bits + 0x8000", KEPT),
    loops(
        "halves.h",
        "the kept membrane may cross the threshold",
        "== fires, near, same_side)",
        "== fires, near, near)",
        KEPT,
    ),
    loops("halves.h", "it goes the wrong way", "fires == (distance > 0)", "fires != (distance > 0)", KEPT),
    # ---- ops.cpp
    ops("sizes of one step", "if (held) sizes.insert(", "if (false) sizes.insert(", HELD),
    ops(
        "NaN coefficients are taken",
        "TORCH_CHECK_VALUE(finite,",
        "TORCH_CHECK_VALUE(true || finite,",
        "tests/test_bad_input.py::test_error",
    ),
    ops(
        "a float64 input has a float32 state",
        "x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }",
        "at::kFloat; }",
    ),
    ops("a state's stride is ignored", "zero ? Tensor() : state.contiguous()", "zero ? Tensor() : state", STRIDES),
    ops("any number under every index is a zero", "return value == 0 && !std::signbit(value);", "return true;", START),
    ops(
        "a start that is a row for all the batch is a zero",
        "if (t.size(i) > 1 && t.stride(i) != 0) return false;",
        "",
        START_ROW,
    ),
    ops(
        "partial sums of the last tile are lost",
        "item < plan.items() && plan.steps",
        "item + 1 < plan.items() && plan.steps",
        GRADIENTS,
    ),
    ops("numbers of groups are one for the layer", "many[i] = size != width;", "many[i] = false;"),
    ops("groups share a gradient", "values[(many ? group : 0) * width + k]", "values[k]", GRADIENTS),
    ops(
        "gradients that no kernel gives have a place",
        "if (needs[i]) column += width;",
        "column += width;",
        OTHER,
    ),
    ops("all kernels of a neuron are one", "key = std::string(law) + variant;", "key = std::string(law);"),
    ops(
        "the last state of a sequence is taken for the kept membrane",
        "single_step && kept == arithmetic(x) ? kernel.membrane_state : -1",
        "kernel.membrane_state",
    ),
    ops("a held step may be single", "held >= 0 && !(held && single_step)", "held >= 0", SENSELESS),
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
]
