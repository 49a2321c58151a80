"""`swap`: a model's own neurons become learnable ones, in place, with the same outputs; `swap_back`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar, cast, get_args

from torch import Tensor, nn

from snn_lnm import engines
from snn_lnm.memory import FULL, Memory, check_memory
from snn_lnm.neuron import Domain, LearnableNeuron
from snn_lnm.parameters import NoDefaultDomain, check_degree
from snn_lnm.plugins import Adapter, CannotSwap, SwapOptions, loaded_adapters
from snn_lnm.table import table

__all__ = ["SwapReport", "SwapRow", "swap", "swap_back"]

Neuron = Literal["lnm", "qif"]
HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


class SwapRow(NamedTuple):
    """One neuron of the model: where it is, what it was, what it is now, and why if nothing changed."""

    path: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class SwapReport:
    """What :func:`swap` or :func:`swap_back` did. Prints as a table."""

    rows: tuple[SwapRow, ...]
    nothing: str = "no known spiking neuron in this model; nothing was changed."

    @property
    def swapped(self) -> list[SwapRow]:
        return [row for row in self.rows if row.after]

    @property
    def skipped(self) -> list[SwapRow]:
        return [row for row in self.rows if not row.after]

    def __str__(self) -> str:
        if not self.rows:
            return self.nothing
        lines = table(
            ("layer", "before", "after", "note"),
            [(row.path, row.before, row.after or "unchanged", row.reason) for row in self.rows],
        )
        if self.swapped:
            lines.append("Build the optimizer after this: the neurons' parameters are new.")
        return "\n".join(lines)


def swap(
    model: nn.Module,
    degree: int | None = None,
    *,
    neuron: Neuron = "lnm",
    strict: bool = False,
    learn_coefficients: bool = True,
    domain: Domain = "auto",
    backend: engines.Backend = "auto",
    memory: Memory = FULL,
) -> SwapReport:
    """Replace every known neuron of ``model`` by its learnable counterpart, in place.

    Each new neuron starts at the one it replaces (same parameters, surrogate, reset, live state), so
    the model's spikes are the same, to the bit, until training moves the coefficients. Instances used
    in several places stay shared. Nothing is changed if anything goes wrong.

    Args:
        model: any module that holds neurons; not a bare neuron.
        degree: of the polynomials, 1..8; default 3.
        neuron: ``"qif"``: quadratic neurons, degree 2. They too start at the neuron they replace, so they
            learn coefficients, not a, u_1 and u_2, which cannot express a leaky neuron.
        strict: raise if a spiking neuron of a known framework cannot be swapped.
        learn_coefficients, domain, backend, memory: as for :class:`snn_lnm.LNM`. ``memory`` acts where
            neurons get whole sequences: Norse's `LIF`, step-mode 'm', or :func:`snn_lnm.fuse_time` after this.

    Returns:
        :class:`SwapReport`, one row per neuron; neurons that stay are listed with the reason.

    Raises:
        ValueError: a bad argument, a bare neuron, or (``strict``) a neuron that cannot be swapped.
    """
    if neuron not in get_args(Neuron):
        raise ValueError(f"unknown neuron {neuron!r}: expected one of {', '.join(map(repr, get_args(Neuron)))}.")
    if neuron == "qif" and degree not in (None, 2):
        raise ValueError(f"a quadratic neuron has degree 2, got degree={degree}: leave it out.")
    if degree is None:
        degree = 2 if neuron == "qif" else 3
    if check_degree(degree) < 1:
        raise ValueError("degree must be at least 1: a polynomial of degree 0 has no leak to start from.")
    engines.check_name(backend)
    check_memory(memory)
    options = SwapOptions(degree, learn_coefficients, domain, backend)

    def build(module: nn.Module, adapter: Adapter) -> nn.Module:
        if isinstance(module, adapter.swapped):
            raise CannotSwap("already learnable")
        new = _entry(adapter.replace, module)(module, options)
        if isinstance(new, LearnableNeuron):
            new.memory = memory
        elif memory != FULL:
            raise CannotSwap(f"{type(new).__name__} has no memory options")
        return new

    return _exchange(model, lambda adapter: adapter.native, build, strict)


def swap_back(model: nn.Module, *, strict: bool = False) -> SwapReport:
    """Replace every learnable neuron of ``model`` by the native one that does exactly the same, in place.

    There is one where the coefficients still are those of the framework's neuron: for a leaky one,
    θ_0 and everything above θ_1 zero, θ_1 within the range of its leak. Others stay.

    Args:
        model: any module that holds swapped neurons; not a bare neuron.
        strict: raise if a neuron has to stay.

    Returns:
        :class:`SwapReport`, one row per learnable neuron; those that stay are listed with the reason.

    Raises:
        ValueError: a bare neuron, or (``strict``) a neuron that has to stay.
    """

    def build(module: nn.Module, adapter: Adapter) -> nn.Module:
        return _entry(adapter.restore, module)(module)

    report = _exchange(model, lambda adapter: adapter.swapped, build, strict)
    return replace(report, nothing="no learnable neuron in this model; nothing was changed.")


def _exchange(
    model: nn.Module,
    concerned: Callable[[Adapter], type[nn.Module] | tuple[type[nn.Module], ...]],
    build: Callable[[nn.Module, Adapter], nn.Module],
    strict: bool,
) -> SwapReport:
    """Build all new neurons, then put them in place: all or nothing."""
    if not isinstance(cast(object, model), nn.Module):
        raise TypeError(f"a torch.nn.Module is needed, got {type(model).__name__}.")
    adapters = loaded_adapters()
    replacements: dict[int, nn.Module] = {}
    releases: list[tuple[Callable[[nn.Module], None], nn.Module]] = []
    rows: list[SwapRow] = []
    devices = {tensor.device for tensor in _tensors(model)}
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))
    for path, module in named:
        adapter = next((a for a in adapters if isinstance(module, concerned(a))), None)
        if adapter is None:
            continue
        if module is model:
            raise ValueError(
                f"a bare {type(module).__name__} cannot be replaced in place: put it into a module (for "
                "example torch.nn.Sequential), or construct the framework's neuron yourself."
            )
        after = reason = ""
        try:
            if id(module) not in replacements:
                new = _like(module, build(module, adapter))
                if len(devices) == 1 and not _tensors(module):  # it could not know its device
                    new.to(device=next(iter(devices)))
                replacements[id(module)] = new
                releases.append((adapter.release, module))
            after = _describe(replacements[id(module)])
        except (CannotSwap, NoDefaultDomain) as obstacle:
            reason = str(obstacle)
        rows.append(SwapRow(path, _describe(module), after, reason))
    report = SwapReport(tuple(rows))
    if strict and report.skipped:
        raise ValueError(f"strict: some neurons cannot be swapped, nothing was changed.\n{report}")
    for parent in [*model.modules()]:
        children = parent._modules  # pyright: ignore[reportPrivateUsage] - torch's named_children() leaves out second names
        for name, child in children.items():
            if id(child) in replacements:
                children[name] = replacements[id(child)]
    for release, module in releases:
        release(module)
    return report


Build = TypeVar("Build")


def _entry(table: Mapping[type[nn.Module], Build], module: nn.Module) -> Build:
    """What ``table`` says of the exact class of ``module``."""
    if type(module) in table:
        return table[type(module)]
    parent = next((kind for kind in table if isinstance(module, kind)), None)
    if parent is not None:
        raise CannotSwap(f"a subclass of {parent.__name__}, whose changes would be lost")
    known = ", ".join(kind.__name__ for kind in table) or "none"
    raise CannotSwap(f"no counterpart (there is one for {known})")


def _like(module: nn.Module, new: nn.Module) -> nn.Module:
    new.train(module.training)
    for hooks in HOOKS:  # the very dictionaries, so that the handles their owners hold still remove them
        new.__dict__[hooks] = module.__dict__[hooks]
    return new


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _describe(neuron: nn.Module) -> str:
    degree = getattr(neuron, "degree", None)
    return type(neuron).__name__ + (f" (degree {degree})" if degree is not None else "")
