"""The two neurons: snnTorch's constructors and calls, the polynomial inside."""

from __future__ import annotations

from typing import Any, ClassVar

import snntorch
from torch import Tensor

from snn_lnm.adapting import Backend, Domain
from snn_lnm_snntorch.polynomial import PolynomialNeuron

__all__ = ["LNM", "SynapticLNM"]


class LNM(PolynomialNeuron, snntorch.Leaky):
    """A `snntorch.Leaky` whose leak ``β·mem`` is a learned polynomial ``f(mem)``.

    ``mem[t+1] = f(mem[t]) + x[t+1] - R·threshold`` ("subtract"), ``f((1-R)·mem[t]) + x[t+1]`` ("zero"),
    ``f(mem[t]) + x[t+1]`` ("none"); ``spk = H(mem - threshold)``. It starts as ``Leaky(beta)``, to the
    bit.

    Args:
        beta, ..., reset_delay: as for `snntorch.Leaky`, in its order. ``learn_beta`` has no effect: θ_1
            is learned with the other coefficients. ``spike_grad`` also takes `snn_lnm.surrogate`s.
        degree: of f, 1..8; default 3.
        coefficients: θ to start from instead of ``beta`` and ``degree``, `[D+1]` or `[*neuron_shape, D+1]`.
        learn_coefficients: register them as a Parameter (default) or a buffer.
        domain: see `snn_lnm.LNM`.
        backend: "auto", "reference", "cpp" or "triton", for the fused path.

    Shapes and calls are those of `snntorch.Leaky`: `[B, ...]` per step. Spikes come in the input's
    dtype, membranes in the arithmetic one.

    Raises:
        ValueError: degree, coefficients, names; TypeError: types, or `mem` with ``init_hidden``.
    """

    def __init__(
        self,
        beta: Any = None,
        threshold: Any = 1.0,
        spike_grad: Any = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Any = False,
        output: bool = False,
        graded_spikes_factor: Any = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
        *,
        degree: int | None = None,
        coefficients: Tensor | None = None,
        learn_coefficients: bool = True,
        domain: Domain = "auto",
        backend: Backend = "auto",
    ) -> None:
        with self._construction():
            snntorch.Leaky.__init__(
                self,
                beta,
                threshold,
                spike_grad,
                surrogate_disable,
                init_hidden,
                inhibition,
                learn_beta,
                learn_threshold,
                reset_mechanism,
                state_quant,
                output,
                graded_spikes_factor,
                learn_graded_spikes_factor,
                reset_delay,
            )
            self._setup(beta, degree, coefficients, learn_coefficients, domain, backend)

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        input_ = self._check_call(input_, mem=mem)
        mem = self._resume("mem", mem)
        if not self.is_fused():
            self.mem = mem
            return self._in_dtype_of(input_, super().forward(input_))
        out, _ = self._fused(input_, [mem])
        self.mem = out.state.v
        spk = self._graded(out.spikes)
        return spk if self.init_hidden and not self.output else (spk, self.mem)

    def _base_state_function(self, input_: Tensor) -> Tensor:
        return self._leak(self.mem) + input_


class SynapticLNM(PolynomialNeuron, snntorch.Synaptic):
    """A `snntorch.Synaptic` whose membrane leak is a learned polynomial.

    ``syn[t+1] = α·syn[t] + x[t+1]``; ``mem[t+1] = f(mem[t]) + syn[t+1] - R·threshold`` and so on. The
    reset "zero" runs in the host's own code: there it wipes the whole new membrane, input included.

    Args and errors: as :class:`LNM`, with `snntorch.Synaptic`'s constructor.
    """

    STATES: ClassVar[tuple[str, ...]] = ("syn", "mem")
    FUSED_RESETS: ClassVar[tuple[str, ...]] = ("subtract", "none")
    alpha: Tensor
    syn: Tensor

    def __init__(
        self,
        alpha: Any,
        beta: Any = None,
        threshold: Any = 1.0,
        spike_grad: Any = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_alpha: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        state_quant: Any = False,
        output: bool = False,
        reset_delay: bool = True,
        *,
        degree: int | None = None,
        coefficients: Tensor | None = None,
        learn_coefficients: bool = True,
        domain: Domain = "auto",
        backend: Backend = "auto",
    ) -> None:
        with self._construction():
            snntorch.Synaptic.__init__(
                self,
                alpha,
                beta,
                threshold,
                spike_grad,
                surrogate_disable,
                init_hidden,
                inhibition,
                learn_alpha,
                learn_beta,
                learn_threshold,
                reset_mechanism,
                state_quant,
                output,
                reset_delay,
            )
            self._setup(beta, degree, coefficients, learn_coefficients, domain, backend)

    def forward(self, input_: Tensor, syn: Tensor | None = None, mem: Tensor | None = None) -> Any:
        input_ = self._check_call(input_, syn=syn, mem=mem)
        syn, mem = self._resume("syn", syn), self._resume("mem", mem)
        if not self.is_fused():
            self.syn, self.mem = syn, mem
            return self._in_dtype_of(input_, super().forward(input_))
        out, _ = self._fused(input_, [syn, mem], self.alpha.clamp(0, 1))
        assert out.state.current is not None
        self.syn, self.mem = out.state.current, out.state.v
        spk = self._graded(out.spikes)
        return spk if self.init_hidden and not self.output else (spk, self.syn, self.mem)

    def _base_state_function(self, input_: Tensor) -> tuple[Tensor, Tensor]:
        syn = self.alpha.clamp(0, 1) * self.syn + input_
        return syn, self._leak(self.mem) + syn

    def _base_state_reset_zero(self, input_: Tensor) -> Any:
        return 0, self._base_state_function(input_)[1]
