"""Mutants of the adapters: each a way in which a swapped neuron would not be the host's."""

from tests.mutants.mutant import Mutant

LEAKY = "tests/snntorch/test_host.py::test_swapped_leaky_is_leaky"
STATES = "tests/snntorch/test_leaky.py::test_a_state_may_be_a_buffer_or_a_parameter"
SYNAPTIC = "tests/snntorch/test_host.py::test_swapped_synaptic_is_synaptic"
SNNTORCH_SUITE = "tests/test_conformance.py::TestSnnTorch"
NORSE = "tests/norse/test_exact.py::test_swapped_is_native[LIFCell-torch.float32]"
MODULES = "tests/norse/test_modules.py"
BOX = "tests/norse/test_exact.py::test_swapped_is_native[LIFBoxCell-torch.float32]"
IAF = "tests/norse/test_exact.py::test_swapped_is_native[IAFCell-torch.float32]"
RECURRENT = "tests/norse/test_exact.py::test_swapped_is_native[LIFRecurrentCell-torch.float32]"
JELLY = "tests/jelly/test_jelly_bits.py::test_every_option_of_every_linear_node"
JELLY_BACK = "tests/jelly/test_jelly_swap.py::test_there_and_back"


def snntorch(file: str, why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant("snnTorch: " + why, f"adapters/snn_lnm_snntorch/{file}.py", inside, old, new, tests)


def norse(file: str, why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant("Norse: " + why, f"adapters/snn_lnm_norse/{file}.py", inside, old, new, tests or (NORSE,))


def jelly(file: str, why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(
        "SpikingJelly: " + why, f"adapters/snn_lnm_spikingjelly/{file}.py", inside, old, new, tests or (JELLY,)
    )


MUTANTS = [
    # ---- snnTorch
    snntorch(
        "polynomial",
        "β is not held to [0, 1]",
        "leaky_coefficients",
        "beta.float()).clamp(0, 1)",
        "beta.float())",
        LEAKY,
    ),
    snntorch(
        "polynomial", "subtract happens at once", "RESETS", '"subtract": "soft_next"', '"subtract": "soft"', LEAKY
    ),
    snntorch(
        "polynomial",
        "zero wipes nothing",
        "RESETS",
        '"zero": "hard_next"',
        '"zero": "none"',
        "tests/snntorch/test_leaky.py::test_every_layout_of_every_parameter",
    ),
    snntorch(
        "polynomial",
        "the graded factor is lost",
        "PolynomialNeuron._graded",
        "spikes if self._is_one(factor) else",
        "spikes if True else",
        LEAKY,
    ),
    snntorch(
        "polynomial",
        "inhibition is ignored",
        "PolynomialNeuron.is_fused",
        "and not self.inhibition",
        "",
        "tests/snntorch/test_host.py::test_inhibition_lets_one_neuron_fire",
    ),
    snntorch(
        "polynomial", "quantised states are not", "PolynomialNeuron.is_fused", "and not self.state_quant", "", LEAKY
    ),
    snntorch(
        "polynomial",
        "the immediate reset is delayed",
        "PolynomialNeuron.is_fused",
        "self.reset_delay and not",
        "True and not",
        LEAKY,
    ),
    snntorch(
        "polynomial",
        "[N] is read as channels",
        "PolynomialNeuron._numbers.right",
        "from_the_right(value.to(dtype), dims, trailing)",
        "value.to(dtype)",
        "tests/snntorch/test_leaky.py::test_every_layout_of_every_parameter",
    ),
    snntorch(
        "polynomial",
        "a step of the usual dtype is not looked at for its dimensions",
        "PolynomialNeuron._numbers",
        "dims <= 2 and not is_converted and",
        "not is_converted and",
        "tests/snntorch/test_leaky.py::test_every_layout_of_every_parameter",
    ),
    snntorch(
        "polynomial",
        "a step of two dimensions is not looked at for its dtype",
        "PolynomialNeuron._numbers",
        "is_converted = not (dtype is theta.dtype",
        "is_converted = False and not (dtype is theta.dtype",
        "tests/snntorch/test_leaky.py::test_numbers_follow_the_input_s_dtype_as_in_the_host",
    ),
    snntorch(
        "polynomial",
        "a copy carries its graph",
        "PolynomialNeuron.__getstate__",
        "state[name] = state[name].detach()",
        "pass",
        "tests/snntorch/test_host.py::test_copies_go_on_without_the_graph_and_are_reset",
    ),
    snntorch(
        "polynomial",
        "membranes are buffers, which DDP broadcasts",
        "PolynomialNeuron._init_mem",
        "setattr(self, name, torch.zeros(0))",
        "self.register_buffer(name, torch.zeros(0), False)",
        "tests/snntorch/test_host.py::test_membranes_are_not_broadcast_by_ddp",
    ),
    snntorch(
        "polynomial",
        "β of a polynomial is θ_1",
        "PolynomialNeuron.beta",
        "not self.is_leak()",
        "False",
        "tests/snntorch/test_attributes.py::test_nir_export_is_the_native_one_or_says_why_not",
    ),
    snntorch(
        "neurons",
        "the membrane of a step is not kept",
        "LNM.forward",
        "self.mem = out.state.v",
        "pass",
        "tests/test_swap.py::test_hidden_state_survives",
    ),
    snntorch(
        "neurons",
        "α is not held to [0, 1]",
        "SynapticLNM.forward",
        "[syn, mem], self.alpha.clamp(0, 1))",
        "[syn, mem], self.alpha)",
        "tests/snntorch/test_synaptic.py::test_every_layout_of_every_parameter",
    ),
    snntorch(
        "neurons",
        "zero of Synaptic keeps the input",
        "SynapticLNM._base_state_reset_zero",
        "0, self._base_state_function(input_)[1]",
        "0, self._base_state_function(input_)[1] - input_",
        "tests/snntorch/test_synaptic.py::test_zero_wipes_the_input_too",
    ),
    snntorch(
        "adapter",
        "the live state is lost at the swap",
        "_keep",
        'for name in ("syn", "mem")',
        'for name in ("syn",)',
        "tests/test_swap.py::test_hidden_state_survives",
    ),
    snntorch(
        "adapter",
        "the way back forgets θ_2",
        "native",
        "theta[..., 0].any() or theta[..., 2:].any()",
        "theta[..., 0].any()",
        "tests/test_swap.py::test_swap_back_says_what_it_cannot",
    ),
    snntorch(
        "surrogates",
        "atan is a fast sigmoid",
        "_BY_CODE",
        "host.atan().__code__: surrogates.ATan",
        "host.atan().__code__: surrogates.FastSigmoid",
        LEAKY,
    ),
    # ---- Norse
    norse(
        "adapter",
        "v_leak is lost",
        "lif",
        "theta = _coefficients(options, p.v_leak,",
        "theta = _coefficients(options, 0 * torch.as_tensor(p.v_leak),",
    ),
    norse("adapter", "the box adds v_leak as θ_0", "lif_box", '"bias": bias,', '"bias": None,', BOX),
    norse(
        "adapter",
        "the box always resets to a value",
        "lif_box",
        '"reset": RESETS[p.reset_method]',
        '"reset": "hard"',
        BOX,
    ),
    norse("adapter", "IAF is a drift", "iaf", '"charge": "map"', '"charge": "drift"', IAF),
    norse("adapter", "the swap forgets dt", "_build", "kind(p=p, dt=old.dt, **options)", "kind(p=p, **options)"),
    norse(
        "functional",
        "the feed-forward reset is detached",
        "lnm_feed_forward_step",
        "dynamics_of(p, detach_reset=False), single_step=True)",
        "dynamics_of(p, detach_reset=True), single_step=True)",
        "tests/norse/test_reset_graph.py::test_the_reset_is_in_the_graph_as_in_the_host",
    ),
    norse("functional", "the synapse decays as in snnTorch", "dynamics_of", 'synapse="euler"', 'synapse="decay"'),
    norse("functional", "the gain forgets dt", "_numbers", "dt * p.tau_mem_inv)", "0.001 * p.tau_mem_inv)"),
    norse(
        "functional",
        "recurrent input is added in another order",
        "advance_recurrent",
        "start = State(start.v, start.current + driven.to(start.current.dtype))",
        "fed_back = driven + fed_back",
        RECURRENT,
    ),
    norse(
        "functional",
        "recorded membranes are those before the reset",
        "advance",
        "v = reference.reset(out.membrane, out.spikes.to(out.membrane.dtype), numbers, dynamics)",
        "v = out.membrane",
        "tests/norse/test_modules.py::test_recorded_states_are_those_of_the_steps",
    ),
    norse(
        "functional",
        "a number of another dtype fits",
        "_fits",
        "value.dtype == dtype and value",
        "value",
        MODULES,
    ),
    norse("functional", "a sparse state fits", "_fits", "and value.layout == torch.strided", "", MODULES),
    norse(
        "functional",
        "one member of the state speaks for all",
        "_common_shape",
        "all([isinstance(value, Tensor) and sizes(value) == step for value in state])",
        "any([isinstance(value, Tensor) and sizes(value) == step for value in state])",
        MODULES,
    ),
    norse(
        "modules",
        "a recurrent reset is attached",
        "RecurrentNeuron.DETACH_RESET",
        "DETACH_RESET = True",
        "DETACH_RESET = False",
        RECURRENT,
    ),
    norse(
        "surrogates",
        "super has an alpha in 1.1.0",
        "recover",
        "surrogates.SuperSpike(1.0)",
        "surrogates.SuperSpike(float(alpha))",
    ),
    snntorch(
        "polynomial",
        "options set later are not seen",
        "PolynomialNeuron._dynamics",
        "cached is None or cached[0] is not self.spike_grad or cached[1] != given",
        "cached is None",
        "tests/snntorch/test_leaky.py::test_options_set_after_a_call_count",
    ),
    snntorch(
        "polynomial", "a state is no buffer", "PolynomialNeuron.__setattr__", "and name in self.__dict__", "", STATES
    ),
    snntorch(
        "polynomial",
        "a state is no parameter",
        "PolynomialNeuron.__setattr__",
        "and type(value) is Tensor and",
        "and",
        STATES,
    ),
    snntorch(
        "polynomial",
        "a callable is the same if it says so",
        "PolynomialNeuron._dynamics",
        "cached[0] is not self.spike_grad",
        "cached[0] != self.spike_grad",
        "tests/snntorch/test_leaky.py::test_options_set_after_a_call_count",
    ),
    # ---- SpikingJelly
    jelly(
        "node",
        "a callable is the same if it says so",
        "LNMNode._dynamics",
        "not isinstance(spike, Surrogate)",
        "False",
        "tests/jelly/test_jelly_gradients.py::test_a_callable_is_that_very_one",
    ),
    jelly(
        "node",
        "options set later are not seen",
        "LNMNode._dynamics",
        "cached is None or cached[0] != words",
        "cached is None",
        "tests/jelly/test_jelly_gradients.py::test_an_option_set_after_a_call_counts",
    ),
    jelly(
        "node",
        "a spike needs more than the threshold",
        "LNMNode._dynamics",
        '"fire_at_threshold": isinstance(spike, Surrogate)',
        '"fire_at_threshold": False',
        "tests/jelly/test_jelly_bits.py::test_a_membrane_at_the_threshold_spikes",
    ),
    jelly(
        "node",
        "1/τ multiplies",
        "LNMNode._inverse",
        "free = mantissa == 0.5 or (self.native_words and mantissa != 0)",
        "free = mantissa != 0",
    ),
    jelly(
        "node",
        "an inverse may be infinite",
        "LARGEST_EXPONENT",
        "LARGEST_EXPONENT = 125",
        "LARGEST_EXPONENT = 1000",
        "tests/jelly/test_jelly_bits.py::test_a_tau_set_later_to_what_no_constructor_takes",
    ),
    jelly(
        "node",
        "quadratic nodes divide",
        "LNMNode._inverse",
        "mantissa == 0.5 or (self.native_words and mantissa != 0)",
        "mantissa == 0.5",
        "tests/jelly/test_jelly_bits.py::test_a_product_with_the_inverse_where_the_host_s_bits_allow_it",
    ),
    jelly("node", "decay_input is ignored", "LNMNode.charge", '"drift" if self.decay_input else "residual"', '"drift"'),
    jelly(
        "node",
        "a soft reset is a hard one to zero",
        "LNMNode._dynamics",
        '"soft" if self.v_reset is None else "hard"',
        '"hard"',
    ),
    jelly(
        "node",
        "detach_reset is ignored",
        "LNMNode._dynamics",
        '"detach_reset": self.detach_reset,',
        '"detach_reset": False,',
        "tests/jelly/test_jelly_gradients.py::test_to_the_bit_where_arithmetic_is_exact",
    ),
    jelly("node", "the leak is towards zero", "leak", "[v_reset or 0.0, -1.0]", "[0.0, -1.0]"),
    jelly(
        "node",
        "the membrane of a sequence is not kept",
        "LNMNode.multi_step_functional_forward",
        "(v, *states[1:])",
        "states",
    ),
    jelly(
        "adapter",
        "the swap forgets live memories",
        "_keep",
        "new._memories, new._memories_rv = dict(old._memories), dict(old._memories_rv)",
        "pass",
        "tests/jelly/test_jelly_swap.py::test_a_model_goes_on_with_its_live_state",
    ),
    jelly(
        "adapter",
        "the product of a QIF has the wrong sign",
        "from_qif",
        "theta = [old.a0 * product, -old.a0 * sum_",
        "theta = [old.a0 * product, old.a0 * sum_",
        "tests/jelly/test_jelly_bits.py::test_quadratic_nodes_where_arithmetic_is_exact",
    ),
    jelly(
        "adapter",
        "the way back loses decay_input",
        "native",
        '{"decay_input": new.decay_input, "tau": new.tau}',
        '{"tau": new.tau}',
        JELLY_BACK,
    ),
    jelly(
        "surrogates",
        "the triangle has the inverse width",
        "_BY_CLASS",
        "lambda alpha: surrogates.Triangle(1 / alpha)",
        "lambda alpha: surrogates.Triangle(alpha)",
        "tests/jelly/test_jelly_gradients.py::test_recovered_surrogates_have_the_host_s_derivative",
    ),
]
