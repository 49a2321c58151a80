"""The GPU kernels that a training step launches, ours and SpikingJelly's, captured without a GPU.

Each neuron goes through its own launcher on tensors that hold nothing (fake CUDA tensors); the launches are recorded
instead of run. What autograd keeps for the backward pass is counted in the same way.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import snn_lnm
from snn_lnm.engines import calls as engine_calls
from snn_lnm.engines import form
from snn_lnm.parameters import Dynamics, Parameters
from snn_lnm.tools.audit import TARGETS, Variant

JELLY = "2.0.0"
"""The SpikingJelly whose private launchers are called here."""
TAU, THRESHOLD, RESET, ALPHA, ATAN = 3.0, 1.0, 0.0, 2.0, 1  # 1 is SpikingJelly's number for atan
"""τ is no power of two, by which a LIF of ours would not divide but multiply."""
Shape = tuple[int, int, int]


class Call(NamedTuple):
    """One launch: the kernel, and all it is given. Tensors stand as their dtypes."""

    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Neuron:
    """A contestant. ``calls`` gives, for a shape, the launches of each kernel: one, or one per tuning configuration."""

    name: str
    calls: Callable[[Shape], dict[str, list[Call]]]
    train: Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # the operator's outputs from input and starting membrane


# ---- fake GPU ------------------------------------------------------------------------------------


@contextlib.contextmanager
def fake_gpu() -> Generator[None]:
    """CUDA tensors that hold nothing."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), patch.object(torch.cuda, "device", lambda _: contextlib.nullcontext()):
        yield


def tensors(shape: Shape, requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    x = torch.empty(shape, device="cuda:0", requires_grad=requires_grad)
    return x, torch.empty(shape[1:], device="cuda:0")


class Recorder:
    """Stands for a kernel: ``recorder[grid](...)`` notes the call."""

    def __init__(self, calls: list[Call], kernel: Any) -> None:
        self.calls, self.kernel = calls, kernel

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def note(*arguments: Any, **options: Any) -> None:
            types = tuple(value.dtype if isinstance(value, Tensor) else value for value in arguments)
            tuned = getattr(self.kernel, "configs", None)  # an autotuner's
            if tuned is None:
                self.calls.append(Call(self.kernel, types, options))
            for config in tuned or ():
                self.calls.append(Call(self.kernel.fn, types, {**options, **config.all_kwargs()}))

        return note


class Written(TorchDispatchMode):
    """Counts the bytes that PyTorch's own operators write into new tensors: zeros, copies."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = func.namespace == "aten" and "empty" not in func.__name__
        if made and isinstance(result, Tensor) and func._schema.returns[0].alias_info is None:
            self.bytes += result.numel() * result.element_size()
        return result


def kept(neuron: Neuron, shape: Shape) -> tuple[float, float]:
    """Bytes per neuron and step: kept for the backward pass, and written outside the kernels in a training step."""
    storages: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return value

    with fake_gpu():
        x, v = tensors(shape, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), Written() as written:
            spikes, *others = neuron.train(x, v)
            # Autograd's engine would want the GPU itself: the node is called without it.
            node: Any = spikes.grad_fn
            with torch.no_grad():
                node.apply(torch.empty_like(spikes), *[None] * len(others))
        per_step = sum(size for size in storages.values() if size >= x.numel())  # what does not grow with T is left out
        return per_step / x.numel(), float(written.bytes // x.numel())


# ---- compilation ---------------------------------------------------------------------------------


class Driver:
    """Triton's driver for a GPU that is not there."""

    get_current_device = staticmethod(lambda: 0)
    set_current_device = staticmethod(lambda device: None)
    get_current_stream = staticmethod(lambda device: 0)
    get_active_torch_device = staticmethod(lambda: torch.device("meta"))

    def __init__(self, target: str) -> None:
        from triton.backends.compiler import GPUTarget

        self.get_current_target = lambda: GPUTarget(*TARGETS[target])


def compile_call(call: Call, target: str) -> Any:
    import triton

    triton.runtime.driver.set_active(cast(Any, Driver(target)))
    call.kernel.device_caches.clear()  # they know the device's number, not its kind
    return call.kernel.warmup(*call.arguments, grid=(1,), **call.options)


def compilations(neuron: Neuron, shapes: list[Shape], target: str) -> int:
    """How many kernels Triton would compile to train on all the shapes, one configuration of each."""
    import triton

    triton.runtime.driver.set_active(cast(Any, Driver(target)))
    keys: set[Any] = set()

    def note(kernel: Any, key: str, *_: Any) -> None:
        keys.add((kernel, key))

    with patch.object(triton.runtime.jit.JITFunction, "_do_compile", note):
        for shape in shapes:
            for calls in neuron.calls(shape).values():
                calls[0].kernel.device_caches.clear()
                calls[0].kernel.warmup(*calls[0].arguments, grid=(1,), **calls[0].options)
    return len(keys)


# ---- ours ----------------------------------------------------------------------------------------


def ours(degree: int, learned: bool, native: nn.Module | None, detach_reset: bool) -> Neuron:
    """Our neuron as `swap` puts it in the place of SpikingJelly's ``native``, or as a bare map."""
    options: dict[str, Any] = {"charge": "map", "detach_reset": detach_reset, "gain_divides": False}
    if native is not None:
        net = nn.Sequential(native)
        snn_lnm.swap(net, degree=degree)
        options = {name: getattr(cast(Any, net[0])._dynamics(), name) for name in options}

    def calls(shape: Shape) -> dict[str, list[Call]]:
        variant = Variant("", shape, degree=degree, fire_at_threshold=True, domain=None, learned=learned, **options)
        found = {}
        for name, launch in variant.launches().items():
            types = tuple(value.dtype if isinstance(value, Tensor) else value for value in launch.arguments)
            found[name] = [Call(launch.kernel, types, {**launch.compiled_in(32), **launch.options(32)})]
        return found

    def train(x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        theta = torch.empty(degree + 1, device=x.device, requires_grad=learned)
        numbers = Parameters(theta, *(torch.empty((), device=x.device) for _ in range(3)))
        neuron, given = (
            form.neuron(Dynamics(**options), degree, False),
            [value for value in numbers if value is not None],
        )
        spikes, h, (last,) = engine_calls.run("triton", v.dtype, neuron, False, True, x, [v], given)
        return spikes, h, last, last  # the operator's fourth output is the current, that of no synapse here

    return Neuron("ours, θ learned" if learned else "ours, θ fixed", calls, train)


# ---- SpikingJelly --------------------------------------------------------------------------------


def check_version() -> None:
    """Raise RuntimeError unless the SpikingJelly that this file knows is installed."""
    try:
        version = importlib.metadata.version("spikingjelly")
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(f"spikingjelly is not installed: pip install spikingjelly=={JELLY}.") from None
    if version != JELLY:
        raise RuntimeError(
            f"spikingjelly {version} is installed, but its private launchers are known here for {JELLY} only: "
            f"pip install spikingjelly=={JELLY}."
        )


def jelly(name: str, numbers: tuple[Any, ...], detach_reset: bool) -> Neuron:
    """SpikingJelly's ``lif`` or ``qif``; ``numbers`` come between the tensors and the threshold."""
    import importlib

    module = importlib.import_module(f"spikingjelly._ops.{name}")
    kernels = importlib.import_module(f"spikingjelly._ops.{name}.triton")
    rest = (*numbers, THRESHOLD, RESET, detach_reset, ALPHA, False, ATAN)

    def calls(shape: Shape) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = {"forward": [], "backward": []}
        with fake_gpu():
            x, v = tensors(shape)
            wrap = {key: lambda kernel, to=to: Recorder(to, kernel) for key, to in found.items()}
            outputs = kernels._forward_impl(x, v, *rest, _kernel_wrapper=wrap["forward"])
            kernels._backward_impl(x, v, *outputs[2:], *rest, _kernel_wrapper=wrap["backward"])
        return found

    return Neuron(f"SpikingJelly {name.upper()}", calls, lambda x, v: module._forward(x, v, *rest))


def flexsn(learned: bool) -> Neuron:
    """SpikingJelly's FlexSN with a cubic, ``h = f(v) + x`` by Horner, hard reset to 0, attached.

    (A detached reset has no Triton lowering there under this PyTorch, and would run as a Python loop.)
    """
    from spikingjelly._ops.flexsn import triton as flex
    from spikingjelly._ops.flexsn.kernel import _build_kernels
    from spikingjelly.activation_based import surrogate
    from spikingjelly.activation_based.neuron import FlexSN
    from spikingjelly.activation_based.neuron.flexsn_trace import _trace_core

    def cubic(x: Tensor, v: Tensor, a: Any, b: Any, c: Any, d: Any) -> tuple[Tensor, Tensor]:
        h = ((d * v + c) * v + b) * v + a + x
        s = surrogate.ATan(alpha=ALPHA)(h - THRESHOLD)
        return s, (1 - s) * h

    def fixed(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return cubic(x, v, 0.1, 0.9, 0.2, 0.3)

    theta = tuple(torch.nn.Parameter(torch.tensor(0.1)) for _ in range(4 if learned else 0))
    neuron = FlexSN(cubic if learned else fixed, 1, theta)
    # What neuron._ensure_triton_runtime does where there is a GPU.
    core, states = neuron._wrapped_core(1, 1), 1 + len(theta)
    graphs = _trace_core(core, tuple(torch.zeros(1) for _ in range(1 + states)), 1, states)
    handle = flex._register_kernel_handle(**_build_kernels(core.__name__, 1, states, 1, *graphs))
    bundle = flex._bundle(handle)

    def calls(shape: Shape) -> dict[str, list[Call]]:
        found: list[Call] = []
        with fake_gpu(), patch.object(flex, "wrap_triton", lambda kernel: Recorder(found, kernel)):
            x, v = tensors(shape)
            inputs = [x, *[v] * states]
            outputs = flex._training_impl(bundle, inputs, True)
            forward = found[:]
            saved = [outputs[index] for index in bundle.training_info.c2k_return_mapping]
            flex._backward_impl(bundle, [x] * (1 + states), saved, inputs)
        return {"forward": forward, "backward": found[len(forward) :]}

    def train(x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        given = tuple(torch.empty((), device=x.device, requires_grad=True) for _ in theta)
        spread = neuron._expanded_static_inputs(v, given)
        return tuple(flex.flexsn_triton_training(handle, [x, v, *spread], False))

    return Neuron("SpikingJelly FlexSN", calls, train)
