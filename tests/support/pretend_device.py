"""A CUDA device that is not there: tensors that say `cuda:0` and hold their numbers in the host's memory.

Real code runs on it, forwards and backwards. What a real device would refuse is refused (operands on two devices, a
generator of the other device, `numpy()`), and what would make it wait is written down: copies to and from it, values
that the host reads, operations whose shape depends on values.

Limits: one stream, so no race is seen; autocast has the CPU's lists; worker threads have no modes; kernels,
compilation, activations that are computed again, and the size of a device's memory are not tried.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo  # Before its functions are replaced: it looks at them when it is imported.
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
_ROOT = Path(__file__).parents[2]
aten: Any = torch.ops.aten
# Operations that make the host wait for the device, because their result is a number or a shape on the host.
_WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "linalg_eigh",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_cholesky_ex",
}
# Operands that may lie in the host's memory beside tensors of the device.
_INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}


class OnDevice(Tensor):
    """A tensor of the pretended device; the autograd engine sees a CPU tensor, so it needs no driver."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="cpu",
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {}, Record())


@dataclass(frozen=True)
class Event:
    """Something that the device saw: a kind such as `H2D-async`, a detail, and where our code asked for it."""

    kind: str
    detail: str
    where: str


@dataclass
class Record:
    """What a rehearsal has seen so far.

    Attributes:
        events: copies, waits and named marks, in their order.
        launches: operations on the device.
    """

    events: list[Event] = field(default_factory=list)
    launches: int = 0

    def add(self, kind: str, detail: str = "") -> None:
        """Write an event down, with the innermost lines of our own code."""
        ours = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_stack()
            if Path(frame.filename).is_relative_to(_ROOT) and frame.filename != __file__
        ]
        self.events.append(Event(kind, detail, " > ".join(ours[-3:])))

    def kinds(self, *, without: tuple[str, ...] = ()) -> list[str]:
        """Return the kinds of the events, less those in `without`."""
        return [event.kind for event in self.events if event.kind not in without]

    def clear(self) -> None:
        """Forget everything."""
        self.events.clear()
        self.launches = 0


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def to_device(tensor: Tensor) -> Tensor:
    """Return a host tensor as one of the device, without a record."""
    return tensor if isinstance(tensor, OnDevice) else OnDevice(tensor.detach())


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _wrap(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)


def _compute(func: Any, args: Any, kwargs: dict[str, Any], record: Record, *, inside: bool = False) -> Any:
    """Do an operation of aten on the numbers that its operands hold."""
    name = _name(func)
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    on_device = any(isinstance(tensor, OnDevice) for tensor in tensors)
    asked = kwargs.get("device")
    pinned = bool(kwargs.pop("pin_memory", False))
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    # C++ names the CPU for operands that it takes for the CPU's.
    belongs = on_device or _is_device(asked) or (inside and not tensors)
    if belongs:
        record.launches += 1
    if name in ("_to_copy", "copy_"):
        return _copy(func, args, kwargs, record, asked)
    if on_device:
        _check(name, tensors, args, record)
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if pinned:
        out._pinned = True
    if not belongs:
        return out
    wrapped = tree_map(_wrap, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if on_device else wrapped


def _check(name: str, tensors: list[Tensor], args: Any, record: Record) -> None:
    """Refuse operands on two devices, and write down what makes the host wait."""
    strangers = [t for t in tensors if not isinstance(t, OnDevice) and t.ndim > 0]
    if name in _INDEXING:
        if strangers:
            record.add("host index", name)
        if any(t.dtype in (torch.bool, torch.uint8) for t in tree_flatten(args[1])[0] if isinstance(t, Tensor)):
            record.add("wait", f"{name} by a mask")
    elif strangers:
        raise RuntimeError(f"{name}: expected all tensors on the same device, found cuda:0 and cpu")
    if name in _WAITING:
        record.add("wait", name)


def _copy(func: Any, args: Any, kwargs: dict[str, Any], record: Record, asked: Any) -> Any:
    """Do a copy, and write down which way it went."""
    target, source = (args[0], args[1]) if _name(func) == "copy_" else (None, args[0])
    blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
    goes = isinstance(target, OnDevice) if target is not None else isinstance(source, OnDevice) or _is_device(asked)
    comes = isinstance(source, OnDevice)
    host = source if goes else target
    if goes != comes and (source.ndim or target is not None):
        free = not blocking and getattr(host, "_pinned", False)
        record.add(f"{'H2D' if goes else 'D2H'}-{'async' if free else 'sync'}", str(tuple(source.shape)))
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if target is not None:
        return target
    return OnDevice(out) if goes else out


class _Dispatch(TorchDispatchMode):
    def __init__(self, pretend: Pretend) -> None:
        super().__init__()
        self.pretend = pretend

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, dict(kwargs or {}), self.pretend.record, inside=self.pretend.inside > 0)


class _Functions(TorchFunctionMode):
    """What never reaches the dispatcher, because C++ takes a tensor of the device for the CPU's."""

    def __init__(self, pretend: Pretend) -> None:
        super().__init__()
        self.pretend = pretend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        special = self.pretend.specials.get(func)
        if special is not None:
            return special(func, args, kwargs)
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        there = any(isinstance(tensor, OnDevice) for tensor in tensors)
        generator = kwargs.get("generator")
        if generator is not None and (generator.device.type == "cuda") != (there or _is_device(kwargs.get("device"))):
            raise RuntimeError(f"{func.__name__}: a generator of {generator.device} for a tensor of another device")
        if not there:
            return func(*args, **kwargs)
        with self.pretend.within():
            return func(*args, **kwargs)


class _Generator(torch.Generator):
    """A generator of either device, with the CPU's numbers: draws equal the CPU's."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls)
        made.place = torch.device(device)
        return made

    place: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE if self.place.type == "cuda" else self.place


class _CudaEvent:
    """A mark in the stream: `synchronize` is written down."""

    record_of: Record

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.record_of.add("event")


class Pretend:
    """The pretended device of one test.

    Attributes:
        record: what it saw.
        inside: above 0 while an operation of the device runs, whose own new tensors are the device's too.
    """

    def __init__(self) -> None:
        self.record, self.inside = Record(), 0
        self.specials: dict[Any, Callable[[Any, Any, dict[str, Any]], Any]] = {
            Tensor.to: self._to,
            Tensor.cpu: lambda func, args, kwargs: self._move(args[0], "cpu"),
            Tensor.cuda: lambda func, args, kwargs: self._move(args[0], DEVICE, **kwargs),
            Tensor.tolist: self._tolist,
            Tensor.numpy: self._numpy,
            torch.tensor: self._tensor,
            torch.as_tensor: self._tensor,
            Tensor.is_pinned: lambda func, args, kwargs: getattr(args[0], "_pinned", False),
            torch.nn.functional.scaled_dot_product_attention: self._attention,
            torch.nn.functional.one_hot: self._one_hot,
        }

    @contextmanager
    def within(self, inside: int = 1) -> Iterator[None]:
        """Count new tensors of the body as the device's."""
        self.inside += inside
        try:
            yield
        finally:
            self.inside -= inside

    def _to(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, *rest = args
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        flags = [value for value in rest if isinstance(value, bool)]
        for value in rest:
            if isinstance(value, Tensor):
                device, dtype = value.device, value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, str | torch.device) or (isinstance(value, int) and not isinstance(value, bool)):
                device = DEVICE if isinstance(value, int) else value
        if device is not None:
            free = kwargs.get("non_blocking", flags[0] if flags else False)
            tensor = self._move(tensor, device, non_blocking=free)
        more = {name: kwargs[name] for name in ("copy", "memory_format") if kwargs.get(name) is not None}
        with self.within(int(isinstance(tensor, OnDevice))):
            return func(tensor, dtype=dtype or tensor.dtype, **more)

    def _move(self, tensor: Tensor, device: Any, **kwargs: Any) -> Tensor:
        if _is_device(device) == isinstance(tensor, OnDevice):
            return tensor
        moved: Tensor = _Moved.apply(tensor, _is_device(device), bool(kwargs.get("non_blocking")), self.record)
        return moved

    def _tolist(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if isinstance(args[0], OnDevice):
            self.record.add("wait", "tolist")
        return func(_held(args[0]))

    def _numpy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if isinstance(args[0], OnDevice):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            return func(*args, **kwargs)

    def _tensor(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        device = kwargs.pop("device", None)
        if isinstance(args[0], OnDevice):
            return self._to(Tensor.to, args, {"device": device, **kwargs})
        made = func(*args, **kwargs)
        return self._move(made, device) if _is_device(device) else made

    def _attention(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with self.within(int(isinstance(args[0], OnDevice))), sdpa_kernel(SDPBackend.MATH):
            return func(*args, **kwargs)

    def _one_hot(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not isinstance(args[0], OnDevice):
            return func(*args, **kwargs)
        if kwargs.get("num_classes", args[1] if len(args) > 1 else -1) == -1:
            self.record.add("wait", "one_hot without a number of classes")
        return OnDevice(func(args[0].held, *args[1:], **kwargs))


class _Moved(torch.autograd.Function):
    """A copy between the devices, whose gradient goes back the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, there: bool, free: bool, record: Record) -> Tensor:
        ctx.there = there
        free = free and getattr(tensor, "_pinned", False)
        record.add(f"{'H2D' if there else 'D2H'}-{'async' if free else 'sync'}", str(tuple(tensor.shape)))
        copied = _held(tensor).clone()
        return OnDevice(copied) if there else copied

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        back = gradients[0]
        return (_held(back) if ctx.there else to_device(back)), None, None, None


def _pin(tensor: Tensor, *_: Any) -> Tensor:
    if isinstance(tensor, OnDevice):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    copied = tensor.clone()
    copied._pinned = True  # type: ignore[attr-defined]
    return copied


def _autocast(kind: str, dtype: Any = None, enabled: bool = True, **kwargs: Any) -> Any:
    return torch.amp.autocast_mode.autocast("cpu", dtype=dtype, enabled=enabled, **kwargs)


@contextmanager
def _backwards(pretend: Pretend, original: Callable[..., Any], roots: Any) -> Iterator[None]:
    flat = [root for root in tree_flatten(roots)[0] if isinstance(root, Tensor)]
    with pretend.within(int(any(isinstance(root, OnDevice) for root in flat))):
        yield


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch, *, count: int = 1) -> Iterator[Pretend]:
    """Let this machine have `count` CUDA devices, all of them pretended; `cuda` means the first."""
    pretend = Pretend()
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "Pretended GPU",
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=8 << 30, name="Pretended GPU"),
        "mem_get_info": lambda device=None: (8 << 30, 8 << 30),
        "synchronize": lambda device=None: pretend.record.add("wait", "synchronize"),
        "is_bf16_supported": lambda *_, **__: True,
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "manual_seed_all": lambda seed: None,
        "set_device": lambda device: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "empty_cache": lambda: pretend.record.add("empty cache"),
        "Event": type("Event", (_CudaEvent,), {"record_of": pretend.record}),
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(Tensor, "pin_memory", _pin)  # Threads that decode have no modes.
    monkeypatch.setattr(torch, "autocast", _autocast)
    inference = torch.autograd.grad_mode.inference_mode
    monkeypatch.setattr(inference, "__enter__", _enter_without_gradients)
    monkeypatch.setattr(inference, "__exit__", _leave_without_gradients)
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None)
    # Modules that are moved get new parameters: `data` of one kind of tensor does not fit the other.
    monkeypatch.setattr(torch, "_has_compatible_shallow_copy_type", _same_kind)
    group = clip_grad._group_tensors_by_device_and_dtype

    def grouped(tensors: Any, *args: Any) -> Any:
        groups = group(tensors, *args)
        there = isinstance(next(iter(tensors[0]), None), OnDevice)
        return {(DEVICE if there else device, dtype): rows for (device, dtype), rows in groups.items()}

    monkeypatch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", grouped)
    run_backward = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        with _backwards(pretend, run_backward, tensors):
            run_backward(tensors, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    with ExitStack() as modes:
        modes.enter_context(_Dispatch(pretend))
        modes.enter_context(_Functions(pretend))
        yield pretend


def _same_kind(tensor: Tensor, other: Tensor) -> bool:
    return not isinstance(tensor, OnDevice) and not isinstance(other, OnDevice)


def _enter_without_gradients(self: Any) -> None:
    self._guard = torch.no_grad()
    self._guard.__enter__()


def _leave_without_gradients(self: Any, *error: Any) -> None:
    self._guard.__exit__(*error)
