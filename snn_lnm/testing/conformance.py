"""`AdapterConformance`: what every adapter has to keep, as a pytest suite to subclass."""

from __future__ import annotations

import copy
import pickle
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snn_lnm.plugins import Adapter, available_adapters
from snn_lnm.swapping import swap, swap_back

__all__ = ["AdapterConformance"]

FEW = max(1, cast(settings, settings.default).max_examples // 3)  # each is one of every neuron
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a state, however a framework nests them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(cast(object, value), (tuple, list)):
        for part in value:
            yield from tensors(part)


def _nothing(*inputs: Any) -> None:
    """A method of somebody else's."""


class AdapterConformance:
    """Subclass it as ``class TestMyFramework(AdapterConformance)`` and fill in what follows.

    Attributes:
        adapter: the :class:`snn_lnm.plugins.Adapter`, installed under its entry point.
        features: size of the last dimension of the inputs, `[T, 3, features]`.
        scale: standard deviation of the inputs; large enough that every native neuron spikes.
        rounds: names of natives whose formula rounds differently (products written out, say). Bits,
            gradients and a way back are not asked of them here: show bits and gradients on dyadic
            numbers, in a test of your own.

    Each factory builds new modules with the same numbers whenever it is called.
    """

    adapter: ClassVar[Adapter]
    features: ClassVar[int] = 5
    scale: ClassVar[float] = 3.0
    rounds: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def natives(self) -> dict[str, nn.Module]:
        """A native neuron per entry, by a name; every class of ``adapter.replace`` at least once."""
        raise NotImplementedError

    @abstractmethod
    def run(self, neuron: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Spikes `[T, ...]` of ``neuron`` over ``x`` `[T, 3, features]``, and the state after it.

        ``state`` is what an earlier call returned, or None for a neuron at rest (a framework whose
        neurons keep their state resets it then).
        """
        raise NotImplementedError

    @abstractmethod
    def model(self) -> nn.Module:
        """A small model as the framework's users write them, with native neurons and layers between."""
        raise NotImplementedError

    @abstractmethod
    def run_model(self, model: nn.Module, x: Tensor) -> Tensor:
        """The model's output over ``x``, from rest."""
        raise NotImplementedError

    # ---- helpers

    def inputs(self, seed: int = 0, steps: int = 8) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(steps, 3, self.features, generator=generator) * self.scale

    def swapped(self, native: nn.Module, **words: Any) -> nn.Module:
        """The counterpart of ``native``, through the public door."""
        holder = nn.ModuleList([native])
        report = swap(holder, **words)
        assert not report.skipped, str(report)
        assert isinstance(holder[0], self.adapter.swapped) and holder[0] is not native
        return holder[0]

    def pairs(self, dtype: torch.dtype | None = None, **words: Any) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        """Name, native neuron and a swapped one; both converted to ``dtype`` before the swap, if given."""
        for (name, native), other in zip(self.natives().items(), self.natives().values(), strict=True):
            yield name, native.to(dtype=dtype), self.swapped(other.to(dtype=dtype), **words)

    def exact_pairs(self, **words: Any) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        return (pair for pair in self.pairs(**words) if pair[0] not in self.rounds)

    def same(self, name: str, native: nn.Module, ours: nn.Module, x: Tensor) -> None:
        (z, host), (s, last) = self.run(native, x), self.run(ours, x)
        assert torch.equal(z.to(s.dtype), s), f"{name}: spikes differ"
        for theirs, mine in zip(tensors(host), tensors(last), strict=True):
            assert torch.equal(theirs.to(mine.dtype).expand_as(mine), mine), f"{name}: states differ"

    # ---- the suite

    def test_it_is_found_through_its_entry_point(self) -> None:
        rows = [row for row in available_adapters() if row.name == self.adapter.framework]
        assert len(rows) == 1 and rows[0].state in ("available", "loaded"), rows

    def test_every_class_is_tried_and_spikes(self) -> None:
        natives = self.natives()
        assert {type(native) for native in natives.values()} == set(self.adapter.replace)
        for name, native in natives.items():
            assert isinstance(native, self.adapter.native)
            rate = float(self.run(native, self.inputs())[0].detach().float().mean())
            assert 0 < rate < 1, f"{name} fires at a rate of {rate}: change its numbers or `scale`"

    @settings(deadline=None, max_examples=FEW)  # the first example compiles, and machines are shared
    @given(seed=st.integers(0, 2**31), degree=st.integers(2, 5))
    def test_swapped_is_native_to_the_bit(self, seed: int, degree: int) -> None:
        for name, native, ours in self.exact_pairs(degree=degree):
            self.same(name, native, ours, self.inputs(seed))

    def test_threshold_ties_and_float64_to_the_bit(self) -> None:
        """Whole numbers meet thresholds exactly: `>` and `>=` differ there."""
        for name, native, ours in self.exact_pairs():
            self.same(name, native, ours, self.inputs().round())
        for name, native, ours in self.exact_pairs(dtype=torch.float64):
            self.same(name, native, ours, self.inputs().double())

    def test_the_options_of_swap_are_kept(self) -> None:
        for name, _, ours in self.pairs(degree=5, domain=(-2.0, 3.0), backend="reference"):
            found = cast(Any, ours)
            assert (found.degree, found.domain, found.backend) == (5, (-2.0, 3.0), "reference"), name

    def test_checkpoints_hold_the_domain_and_it_bounds_the_membrane(self) -> None:
        for name, _, ours in self.pairs(degree=5, domain=(-1.25, 1.5)):
            fresh = cast(Any, self.swapped(self.natives()[name], degree=5))
            fresh.load_state_dict(ours.state_dict())
            assert fresh.domain == (-1.25, 1.5), name
            with torch.no_grad():
                fresh.coefficients[..., -1] = 100.0  # without a domain v^5 overflows within these steps
            _, state = self.run(fresh, self.inputs(steps=32))
            assert all(bool(value.isfinite().all()) for value in tensors(state)), f"{name}: no bound"

    def test_gradients_are_the_native_ones(self) -> None:
        """Of the input: 8 steps of about 40 operations, each a relative error of eps, in both."""
        for name, native, ours in self.exact_pairs():
            found: list[Tensor] = []
            for neuron in (native, ours):
                x = self.inputs().requires_grad_()
                spikes, _ = self.run(neuron, x)
                weight = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1))
                found.append(torch.autograd.grad((spikes * weight).sum(), x)[0])
            bound = 2 * 8 * 40 * torch.finfo(torch.float32).eps * float(1 + found[0].abs().max())
            assert bool(((found[0] - found[1]).abs() <= bound).all()), f"{name}: gradients differ"

    def test_a_sequence_can_be_cut_anywhere(self) -> None:
        x = self.inputs()
        for name, _, ours in self.pairs():
            whole, end = self.run(ours, x)
            for cut in (1, 5):
                first, state = self.run(ours, x[:cut])
                rest, last = self.run(ours, x[cut:], state)
                assert torch.equal(torch.cat([first, rest]), whole), name
                assert all(torch.equal(a, b) for a, b in zip(tensors(last), tensors(end), strict=True)), name

    def test_live_state_survives_the_swap(self) -> None:
        x = self.inputs()
        for (name, native), other in zip(self.natives().items(), self.natives().values(), strict=True):
            if name in self.rounds:
                continue
            expected, _ = self.run(native, x)
            _, state = self.run(other, x[:4])
            found, _ = self.run(self.swapped(other), x[4:], state)
            assert torch.equal(found, expected[4:].to(found.dtype)), name

    def test_coefficients_learn(self) -> None:
        for name, _, ours in self.pairs(degree=3):
            self.run(ours, self.inputs())[0].sum().backward()
            gradient = cast(Any, ours).coefficients.grad
            assert gradient is not None and bool((gradient != 0).any()), f"{name}: no gradient reaches θ"
        for name, _, ours in self.pairs(learn_coefficients=False):
            assert "coefficients" not in dict(ours.named_parameters()), name

    def test_copies_and_checkpoints(self) -> None:
        x = self.inputs()
        for name, _, ours in self.pairs():
            with torch.no_grad():
                cast(Any, ours).coefficients[..., -1] += 0.01
                expected, _ = self.run(ours, x)  # without a graph: tensors that have one cannot be copied
            fresh = self.swapped(self.natives()[name])
            fresh.load_state_dict(ours.state_dict())
            for other in (fresh, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
                assert torch.equal(self.run(other, x)[0], expected), name

    def test_dtypes_and_devices(self) -> None:
        for name, _, ours in self.pairs():
            for device in DEVICES:
                for dtype in (torch.float64, torch.bfloat16, torch.float32):
                    neuron = copy.deepcopy(ours).to(device, dtype)
                    spikes, _ = self.run(neuron, self.inputs().to(device, dtype))
                    assert spikes.dtype == dtype and spikes.device.type == device, (name, dtype, device)

    def test_a_model(self) -> None:
        native, model, x = self.model(), self.model(), self.inputs()
        report = swap(model)
        assert report.swapped and not report.skipped, str(report)
        assert not any(isinstance(m, tuple(self.adapter.replace)) and not isinstance(m, self.adapter.swapped)
                       for m in model.modules())  # fmt: skip
        assert torch.equal(self.run_model(native, x), self.run_model(model, x))
        before = [*model.modules()]
        again = swap(model)
        assert not again.swapped and all(row.reason == "already learnable" for row in again.rows)
        assert [*model.modules()] == before

    def test_there_and_back_again(self) -> None:
        native, model, x = self.model(), self.model(), self.inputs()
        swap(model)
        report = swap_back(model)
        assert report.swapped and not report.skipped, str(report)
        assert [type(m) for m in model.modules()] == [type(m) for m in native.modules()]
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in native.named_parameters()]
        assert torch.equal(self.run_model(native, x), self.run_model(model, x))

    def test_every_neuron_finds_its_way_back(self) -> None:
        for name, native, ours in self.pairs():
            holder = nn.ModuleList([ours])
            report = swap_back(holder, strict=name not in self.rounds)
            if report.swapped:
                assert type(holder[0]) is type(native), name
                self.same(name, native, holder[0], self.inputs())

    def test_no_way_back_once_it_has_learned(self) -> None:
        for name, _, ours in self.pairs(degree=3):
            with torch.no_grad():
                cast(Any, ours).coefficients[..., -1] = 0.01
            holder = nn.ModuleList([ours])
            report = swap_back(holder)
            assert holder[0] is ours and report.skipped and report.skipped[0].reason, name
            with pytest.raises(ValueError, match="strict"):
                swap_back(holder, strict=True)

    def test_subclasses_that_do_more_are_left_alone(self) -> None:
        for name, native in self.natives().items():
            native.__class__ = type("Mine", (type(native),), {"forward": _nothing})
            holder = nn.ModuleList([native])
            report = swap(holder)
            assert holder[0] is native and "subclass" in report.refused[0].reason, name
            with pytest.raises(ValueError, match="bare"):
                swap(native)

    def test_subclasses_that_preset_arguments_are_their_parents(self) -> None:
        for name, native in self.natives().items():
            native.__class__ = type("Preset", (type(native),), {"__init__": _nothing})
            holder = nn.ModuleList([native])
            assert swap(holder).rows[0].before == "Preset" and isinstance(holder[0], self.adapter.swapped), name

    def test_what_a_neuron_has_of_its_own_is_kept_or_refused(self) -> None:
        for (name, native), other in zip(self.natives().items(), self.natives().values(), strict=True):
            cast(Any, native).my_rate = 0.25
            self.run(native, self.inputs())  # what the framework itself sets at a call does not hinder
            assert cast(Any, self.swapped(native)).my_rate == 0.25, name
            cast(Any, other).forward = _nothing
            (row,) = swap(nn.ModuleList([other])).rows
            assert row.reason == "its forward was replaced, and would be lost", name
        for name, native in self.natives().items():
            if type(native) in self.adapter.holds:
                native.register_buffer("extra_of_mine", torch.zeros(1))
                (row,) = swap(nn.ModuleList([native])).rows
                assert row.reason == "it holds extra_of_mine, which would be lost", name

    def test_every_refused_class_has_a_reason(self) -> None:
        assert all(self.adapter.reasons.values())
        assert not set(self.adapter.reasons) & {*self.adapter.replace, *self.adapter.readouts}

    def test_bad_input_raises_and_changes_nothing(self) -> None:
        for name, _, ours in self.pairs():
            x = self.inputs()
            expected, _ = self.run(ours, x)
            for bad in (x.to(torch.complex64), cast(Tensor, None)):
                with pytest.raises((TypeError, ValueError)):
                    self.run(ours, bad)
            theta = cast(Any, ours).coefficients
            kept = theta.detach().clone()
            with torch.no_grad():
                theta.fill_(float("nan"))
            with pytest.raises(ValueError, match="finite"):
                self.run(ours, x)
            with torch.no_grad():
                theta.copy_(kept)
            assert torch.equal(self.run(ours, x)[0], expected), name
