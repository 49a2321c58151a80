"""Norse's two-by-two scheme: with and without recurrence, one step (a cell) or a whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor, nn

from snn_lnm.adapting import STATE_DTYPE, Backend, HasDynamics, check_backend, check_coefficients, check_finite, sizes
from snn_lnm_norse.functional import (
    DEFAULT,
    LNMParameters,
    advance,
    advance_recurrent,
    dynamics_of,
    feed_forward_state,
    lnm_feed_forward_step,
    lnm_step,
    recurrent_state,
)

__all__ = ["LNM", "LNMCell", "LNMRecurrent", "LNMRecurrentCell"]

# The host declares parameters to be modules, and passes tuples itself.
FEED_FORWARD: Any = lnm_feed_forward_step
RECURRENT: Any = lnm_step
NUMBERS = ("coefficients", "tau_syn_inv", "tau_mem_inv", "v_th", "v_reset", "v_start", "bias")


class RegisteredNeuron(HasDynamics):
    """Mixin: the parameters live in the module, so that they are trained, moved, saved and pickled.

    ``coefficients`` become an ``nn.Parameter`` (or a buffer, ``learn_coefficients=False``); the other
    numbers of ``p`` become buffers, or parameters where they were given as such. ``.to(dtype)`` moves the
    parameters; buffers keep their dtype, as Norse's own numbers do.

    Checkpoints of Norse's own neurons hold none of these numbers: they load into a swapped neuron, which stays as it
    is, while its coefficients are those of the last ``p`` that was set (the swap's, as a rule).
    """

    DETACH_RESET = False
    coefficients: Tensor
    tau_syn_inv: Tensor | None
    v_start: Tensor
    dt: float
    state_fallback: Callable[[Tensor], Any]
    native: type[nn.Module] | None = None
    """The class of Norse's neuron that this one was swapped from."""
    _start: Tensor | None = None
    """The coefficients as they were given."""

    def _register(self, p: LNMParameters, learn_coefficients: bool, backend: Backend) -> None:
        if not isinstance(cast(object, p), LNMParameters):
            raise TypeError(
                f"p must be snn_lnm_norse.LNMParameters, got {type(p).__name__}: "
                "neuron.p._replace(v_th=...), for example, gives new ones."
            )
        check_backend(backend)
        self.backend: Backend = backend
        numbers = {name: _number(name, getattr(p, name)) for name in NUMBERS}
        theta = numbers["coefficients"]
        if theta is None:
            raise ValueError("coefficients are needed, got None.")
        check_coefficients(theta)
        dynamics = dynamics_of(p, self.DETACH_RESET)
        if theta is not self._parameters.get("coefficients"):
            self._start = theta.detach().clone()
        if learn_coefficients and not isinstance(theta, nn.Parameter):
            numbers["coefficients"] = nn.Parameter(theta)
        self._words = {name: value for name, value in p._asdict().items() if name not in (*NUMBERS, "domain")}
        self.dynamics = dynamics
        for name, value in numbers.items():
            self._parameters.pop(name, None)
            self._buffers.pop(name, None)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # The host's dt·τ⁻¹ is rounded in the dtype of τ⁻¹, which .double() does not change there.
        before = {name: buffer for name, buffer in self.named_buffers(recurse=False) if name in NUMBERS}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self.get_buffer(name)
            if new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    @property
    def p(self) -> LNMParameters:
        """The parameters as they are now, for Norse's functional interface.

        Setting it makes new parameters of the module: build the optimizer after that.
        """
        return LNMParameters(domain=self.domain, **self._words, **{name: getattr(self, name) for name in NUMBERS})

    @p.setter
    def p(self, value: LNMParameters) -> None:
        if "_words" in self.__dict__:  # the host's constructor assigns before anything is registered
            self._register(value, isinstance(self.coefficients, nn.Parameter), self.backend)

    def native_coefficients(self) -> Tensor | None:
        return None if self.native is None else self._start

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **named: Any) -> None:
        if self.native is not None and prefix + "coefficients" not in state_dict:
            own = {prefix + name: getattr(self, name) for name in NUMBERS if name != "coefficients"}
            present = {name: value.detach() for name, value in own.items() if value is not None and not value.is_meta}
            state_dict |= present | state_dict
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    @property
    def degree(self) -> int:
        return self.coefficients.shape[-1] - 1

    def _at_rest(self, shape: tuple[int, ...], x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Membrane and synaptic current of a neuron without a past."""
        dtype = STATE_DTYPE.get(x.dtype, torch.float32)  # integers are inputs too
        v = self.v_start.detach().to(x.device, dtype).expand(shape).clone()
        return v, None if self.tau_syn_inv is None else torch.zeros_like(v)

    def start_state(self, input_tensor: Tensor, state: Any) -> Any:
        if not isinstance(cast(object, input_tensor), Tensor):
            raise TypeError(f"the input must be a torch.Tensor, got {type(input_tensor).__name__}.")
        return self.state_fallback(input_tensor) if state is None else state

    def extra_repr(self) -> str:
        """As Norse's own modules have it."""
        return f"p={self._p_as_numbers()}, dt={self.dt}"

    def _p_as_numbers(self) -> LNMParameters:
        return LNMParameters._make(value.detach() if isinstance(value, Tensor) else value for value in self.p)


def _number(name: str, value: Any) -> Tensor | None:
    if value is None or isinstance(value, nn.Parameter):
        return value
    try:
        found = torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number or a tensor, got {value!r}.") from None
    found = check_finite(name, found if found.is_floating_point() else found.float())
    return nn.Parameter(found) if isinstance(value, Tensor) and value.requires_grad else found


class LNMCell(RegisteredNeuron, SNNCell):
    """One step of the neuron, without recurrence: the learnable `norse.torch.LIFCell`.

    ``h = v + dt·tau_mem_inv·(f(v) + i)``; see :class:`LNMParameters`. ``forward(input_tensor, state=None)``
    takes `[B, ...]` and returns ``(spikes, state)``.

    Args:
        p: parameters to start from; the default is Norse's LIF with degree 3.
        dt: time step in s.
        learn_coefficients, backend: as for :class:`snn_lnm.LNM`.

    Raises:
        ValueError, TypeError: coefficients, names, shapes; before anything is built.
    """

    def __init__(
        self,
        p: LNMParameters = DEFAULT,
        dt: float = 0.001,
        *,
        learn_coefficients: bool = True,
        backend: Backend = "auto",
    ) -> None:
        SNNCell.__init__(self, FEED_FORWARD, self.initial_state, p, dt)
        self._register(p, learn_coefficients, backend)

    def initial_state(self, input_tensor: Tensor) -> Any:
        return feed_forward_state(*self._at_rest(input_tensor.shape, input_tensor))

    def forward(self, input_tensor: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        state = self.start_state(input_tensor, state)
        words: dict[str, Any] = {"single_step": True, "path": self.path}
        return advance(input_tensor, state, self.p, self.dt, self.dynamics, self.backend, **words)


class LNM(RegisteredNeuron, SNN):
    """A whole sequence `[T, B, ...]` in one fused call, without recurrence: the learnable `norse.torch.LIF`.

    Args: as for :class:`LNMCell`, and ``record_states``: the state returned holds every step's, `[T, B, ...]`,
    instead of the last one's.
    """

    def __init__(
        self,
        p: LNMParameters = DEFAULT,
        dt: float = 0.001,
        *,
        record_states: bool = False,
        learn_coefficients: bool = True,
        backend: Backend = "auto",
    ) -> None:
        SNN.__init__(self, FEED_FORWARD, self.initial_state, p, dt, record_states=record_states)
        self._register(p, learn_coefficients, backend)

    def initial_state(self, input_tensor: Tensor) -> Any:
        return feed_forward_state(*self._at_rest(input_tensor.shape[1:], input_tensor))

    def forward(self, input_tensor: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        state = self.start_state(input_tensor, state)
        options: dict[str, Any] = {"backend": self.backend, "record_states": self.record_states}
        options |= {"memory": self.memory, "path": self.path}
        return advance(input_tensor, state, self.p, self.dt, self.dynamics, **options)


class RecurrentNeuron(RegisteredNeuron):
    """Mixin of the recurrent two: their constructor, weights and state."""

    DETACH_RESET = True
    HOST: ClassVar[type[SNNRecurrentCell] | type[SNNRecurrent]]
    autapses: bool
    input_size: Tensor
    hidden_size: Tensor
    input_weights: Tensor
    recurrent_weights: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: LNMParameters = DEFAULT,
        dt: float = 0.001,
        *,
        input_weights: Tensor | None = None,
        recurrent_weights: Tensor | None = None,
        autapses: bool = False,
        learn_coefficients: bool = True,
        backend: Backend = "auto",
    ) -> None:
        weights: dict[str, Any] = {"input_weights": input_weights, "recurrent_weights": recurrent_weights}
        # autapses=True keeps the host from hooking the weights: see _without_autapses.
        words: dict[str, Any] = {"p": p, "dt": dt, "autapses": True, **weights}
        self.HOST.__init__(cast(Any, self), RECURRENT, self.initial_state, input_size, hidden_size, **words)
        self._register(p, learn_coefficients, backend)
        self.autapses = autapses
        if not autapses:
            with torch.no_grad():
                self.recurrent_weights.fill_diagonal_(0.0)

    def initial_state(self, input_tensor: Tensor) -> Any:
        raise NotImplementedError

    def _without_autapses(self) -> Tensor:
        """The recurrent weights, whose diagonal gets no gradient unless ``autapses``.

        The host does this with a hook on the parameter, which copies and pickles lose.
        """
        weights = self.recurrent_weights
        if self.autapses:
            return weights
        return weights * (1 - torch.eye(sizes(weights)[0], dtype=weights.dtype, device=weights.device))

    def extra_repr(self) -> str:
        shape = f"input_size={int(self.input_size)}, hidden_size={int(self.hidden_size)}"
        return f"{shape}, p={self._p_as_numbers()}, autapses={self.autapses}, dt={self.dt}"

    def _state(self, dims: tuple[int, ...], x: Tensor) -> Any:
        dims = (*dims, sizes(self.recurrent_weights)[0])
        return recurrent_state(torch.zeros(dims, dtype=x.dtype, device=x.device), *self._at_rest(dims, x))

    def _step(self, x: Tensor, state: Any, weights: Tensor) -> tuple[Tensor, Any]:
        words = (self.p, self.dt, self.dynamics, self.backend, self.path)
        return advance_recurrent(x, state, self.input_weights, weights, *words)


class LNMRecurrentCell(RecurrentNeuron, SNNRecurrentCell):
    """One step with recurrence: the learnable `norse.torch.LIFRecurrentCell`.

    ``forward(input_tensor, state=None)`` takes `[B, input_size]`; spikes are `[B, hidden_size]`.

    Args: ``input_size, hidden_size`` and ``input_weights, recurrent_weights, autapses`` as in Norse, the
    rest, and the errors, as for :class:`LNMCell`.
    """

    HOST = SNNRecurrentCell

    def initial_state(self, input_tensor: Tensor) -> Any:
        return self._state(input_tensor.shape[:-1], input_tensor)

    def forward(self, input_tensor: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self._step(input_tensor, self.start_state(input_tensor, state), self._without_autapses())


class LNMRecurrent(RecurrentNeuron, SNNRecurrent):
    """A whole sequence with recurrence: the learnable `norse.torch.LIFRecurrent`. Time is stepped through.

    ``forward(input_tensor, state=None)`` takes `[T, B, input_size]`; spikes are `[T, B, hidden_size]`.

    Args: as for :class:`LNMRecurrentCell`, and ``record_states``.
    """

    HOST = SNNRecurrent

    def __init__(self, *arguments: Any, record_states: bool = False, **words: Any) -> None:
        super().__init__(*arguments, **words)
        self.record_states = record_states

    def initial_state(self, input_tensor: Tensor) -> Any:
        return self._state(input_tensor.shape[1:-1], input_tensor)

    def forward(self, input_tensor: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        state, weights = self.start_state(input_tensor, state), self._without_autapses()
        spikes: list[Tensor] = []
        states: list[Any] = []
        for x in input_tensor.to_dense().unbind(0):
            z, state = self._step(x, state, weights)
            spikes.append(z)
            states.append(state)
        if self.record_states:
            state = type(state)(*(torch.stack(values) for values in zip(*states, strict=True)))
        out = torch.stack(spikes)
        return out.to_sparse() if input_tensor.is_sparse else out, state
