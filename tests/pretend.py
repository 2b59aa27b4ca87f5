"""A pretend CUDA device: it computes on the CPU, says `cuda:0`, and notes what a GPU would refuse or wait for.

    with pretend.cuda() as gpu:
        x = torch.zeros(3, device="cuda")
        with gpu.step():
            y = x + torch.ones(3)  # two devices: noted, and computed all the same
            float(y.sum())  # waits for the device
    print(*gpu.notes, sep="\n")

Tensors of the device are wrappers (`Pretended`) around CPU tensors. To C++ they are CPU tensors too, since autograd
asks the driver for streams of real CUDA ones; `_Mode` makes Python's view of them CUDA's. What differs from a GPU:
- Composite functions take their CPU branch: fused attention, LSTMs and batch norms are other kernels; `one_hot`, whose
  CPU branch reads its input, is replaced.
- Nothing is moved between the devices inside a `torch.func` transformation, or where a gradient would have to follow.
- Batched second derivatives (`vmap` of `grad` over embeddings and over indices, forward mode over convolutions) make
  CPU tensors on their way, which then seem to be mixed in. Diagnoses do such things: nothing is said of them here.
- Nothing is compiled: `torch.compile` does not look into wrappers.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import safetensors.torch
import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.overrides import TorchFunctionMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ROOT = str(Path(__file__).parent.parent)
FRAMES = 3  # of the project's own that say where something happened
PLUMBING = ("/tests/pretend.py", "/tests/conftest.py", "/lib/tree.py")  # and these do not


class Note(NamedTuple):
    """What happened, where, innermost line first, and in which part of the run."""

    kind: str
    """mixed: a GPU would refuse it. wait: the host waits until the device has done all it was given. copy: from the
    host's memory to the device, which also waits, but for one from pinned memory that is `non_blocking`."""
    what: str
    where: str
    part: str
    """step, between (two steps of one run) or elsewhere."""

    def __str__(self) -> str:
        return f"{self.kind}, {self.part}: {self.what}, at {self.where}"


class Gpu:
    """The device, with the notes taken on it: `notes[note]` is how often. `part`: of the run that is under way."""

    def __init__(self) -> None:
        self.notes: dict[Note, int] = {}
        self.part = "elsewhere"

    def note(self, kind: str, what: str) -> None:
        note = Note(kind, what, where(), self.part)
        self.notes[note] = self.notes.get(note, 0) + 1

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Inside, a step is launched. After it the part is `between` until someone says otherwise."""
        self.part = "step"
        try:
            yield
        finally:
            self.part = "between"


def where() -> str:
    """The project's lines that led here: the innermost FRAMES, `file:line < file:line`."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < FRAMES:
        name = frame.f_code.co_filename
        if name.startswith(ROOT + "/") and "/.venv/" not in name and not name.endswith(PLUMBING):
            found.append(f"{name[len(ROOT) + 1 :]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found)


_gpu: Gpu | None = None  # the one that is there; operations have no other way to find it


def _note(kind: str, what: str) -> None:
    if _gpu is not None:
        _gpu.note(kind, what)


# ---- tensors ----


class Pretended(Tensor):
    """A tensor on the device: `held` is where it really is."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        found = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=CPU,
        )  # fmt: skip
        found.held = held
        return found

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            _check(func, args, kwargs)
            out = func(*_mapped(_inner, args), **_mapped(_inner, kwargs))
        if func._schema.is_mutable:  # what was written to is a result: that very tensor, not another wrapper of it
            return kwargs["out"] if "out" in kwargs else args[0] if func._schema.name.endswith("_") else _wrapped(out)
        return _wrapped(out)


def _inner(x: Any) -> Any:
    return x.held if isinstance(x, Pretended) else x


def _wrapped(out: Any) -> Any:
    return _mapped(lambda x: Pretended(x) if type(x) is Tensor else x, out)


def _mapped(fn: Callable, x: Any) -> Any:
    """fn of every leaf of what an operation takes or gives. torch's own pytrees take half of a test's time."""
    if isinstance(x, (tuple, list)) and type(x) is not torch.Size:
        found = [_mapped(fn, one) for one in x]
        return type(x)(found) if type(x) in (tuple, list) else type(x)(*found)  # a named tuple
    return {name: _mapped(fn, one) for name, one in x.items()} if isinstance(x, dict) else fn(x)


def _tensors(x: Any) -> list[Tensor]:
    if isinstance(x, (tuple, list)):
        return [found for one in x for found in _tensors(one)]
    return _tensors(list(x.values())) if isinstance(x, dict) else [x] if isinstance(x, Tensor) else []


WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


def _check(func: Any, args: Any, kwargs: Any) -> None:
    """Notes what CUDA would not do, or not without waiting."""
    name = func._schema.name
    if name in ("aten::copy_", "aten::_to_copy"):
        if name == "aten::copy_" and isinstance(args[0], Pretended) != isinstance(args[1], Pretended):
            up = isinstance(args[0], Pretended)
            _note("copy" if up else "wait", "copy_ to the device" if up else "copy_ to the host")
        return
    given = _tensors((args, kwargs))
    if name in INDEXED:
        _check_index(name, args)
    else:
        if not WAITING.isdisjoint(func.tags):
            _note("wait", name.removeprefix("aten::_").removeprefix("aten::"))
        if foreign := [x for x in given if not isinstance(x, Pretended) and not _scalar(func, x)]:
            _note("mixed", f"{name}: {', '.join(str(tuple(x.shape)) for x in foreign)} on the CPU")
            return
    if func._schema.is_mutable and isinstance(args[0], Tensor) and not isinstance(args[0], Pretended):
        _note("mixed", f"{name} writes to the CPU")


def _scalar(func: Any, x: Tensor) -> bool:
    """Whether x is a number in the host's memory, which kernels that work element by element take along."""
    taken = torch.Tag.pointwise in func.tags or func._schema.name.endswith(("_fill", "_fill_", "::fill", "::fill_"))
    return x.ndim == 0 and (taken or func._schema.name == "aten::where")


def _check_index(name: str, args: Any) -> None:
    """Indices may be the host's, and are copied; what is found by a mask has to be counted first."""
    if not isinstance(args[0], Pretended):
        _note("mixed", f"{name} of a CPU tensor with the device's")
        return
    values = args[2] if len(args) > 2 else None
    if values is not None and not isinstance(values, Pretended) and values.ndim > 0:
        _note("mixed", f"{name}: {tuple(values.shape)} on the CPU")
    indices = [x for x in args[1] if x is not None]
    if any(not isinstance(x, Pretended) for x in indices):
        _note("copy", "an index of the host's")
    filled = values is not None and values.numel() == 1 and not (len(args) > 3 and args[3])  # that is masked_fill
    if any(x.dtype in (torch.bool, torch.uint8) for x in indices) and not filled:
        _note("wait", "an index that is a mask")


# ---- what Python sees ----


def _base(x: Any) -> Any:
    """The tensor under the wrappers of torch.func."""
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


def _here(x: Any) -> bool:
    return isinstance(_base(x), Pretended)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Mode(TorchFunctionMode):
    """Makes `device` mean the pretended one wherever Python says it."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if special := SPECIAL.get(func):
            return special(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            owner = getattr(func, "__self__", None)
            if owner is Tensor.device and _here(args[0]):
                return CUDA
            if owner is Tensor.is_cuda:
                return _here(args[0])
            if owner is Tensor.is_cpu:
                return not _here(args[0]) and func(*args)
        elif kwargs.get("device") is not None:
            return _made(func, name, kwargs.pop("device"), args, kwargs)
        return func(*args, **kwargs)


def _made(func: Callable, name: str, device: Any, args: Any, kwargs: Any) -> Any:
    """A new tensor, on a device that is named."""
    like = name.startswith("new_") or name.endswith("_like")
    given = _tensors((args, kwargs))
    if not _is_cuda(device):
        args, kwargs = (_mapped(_inner, x) for x in (args, kwargs)) if like else (args, kwargs)
        return func(*args, device=device, **kwargs)
    if like and _here(args[0]):
        return func(*args, **kwargs)
    if not like and any(map(_here, given)):  # a size, a bound or a value: the host has to know it
        _note("wait", f"{name} of the device's numbers")
    if func is torch.tensor:
        _note("copy", "tensor on the device")
    found = func(*_mapped(_inner, args), **_mapped(_inner, kwargs))
    return found if _here(found) else Pretended(_base(found))


def _to(x: Tensor, *rest: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
    """Tensor.to, in all its forms."""
    rest_ = list(rest)
    if rest_ and isinstance(rest_[0], Tensor):
        device, rest_[0] = (CUDA if _here(rest_[0]) else _base(rest_[0]).device), rest_[0].dtype
    elif rest_ and isinstance(rest_[0], (str, int, torch.device)):
        device = rest_.pop(0)
    elif rest_ and rest_[0] is None:
        rest_.pop(0)
    if len(rest_) > 1:  # to(dtype, non_blocking, copy)
        non_blocking = bool(rest_.pop(1))
    changed = Tensor.to(x, *rest_, **kwargs) if rest_ or kwargs else x
    target = device if device is None or isinstance(device, torch.device) else torch.device(device)
    if target is not None and target.type == "meta":
        return torch.empty_strided(changed.shape, changed.stride(), dtype=changed.dtype, device="meta")
    if target is None or (target.type == "cuda") == _here(changed):
        return changed
    up = target.type == "cuda"
    _note(
        "copy" if up else "wait", ("non_blocking " if non_blocking else "") + ("to" if up else "from") + " the device"
    )
    if functorch.is_functorch_wrapped_tensor(changed) or (torch.is_grad_enabled() and changed.requires_grad):
        raise NotImplementedError(f"the pretended device moves no tensor that is differentiated or batched: {where()}")
    return Pretended(changed.detach().clone()) if up else _inner(changed.detach()).clone()


def _numpy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    if _here(x):
        _note("mixed", "numpy() of the device's tensor")
    with torch._C.DisableTorchFunction():
        return _inner(x.detach() if _here(x) else x).numpy(*args, **kwargs)


def _array(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    if not _here(x):
        with torch._C.DisableTorchFunction():
            return Tensor.__array__(x, *args, **kwargs)
    return _numpy(x) if not args else _numpy(x).astype(args[0])


def _tolist(x: Tensor) -> Any:
    if not _here(x):
        return Tensor.tolist(x)
    _note("wait", "tolist")
    return _base(x).held.tolist()


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Any:
    found = data if isinstance(data, Tensor) else torch.as_tensor(data, dtype=dtype)
    return _to(found, device=device, **({} if dtype is None else {"dtype": dtype}))


def _tensor(data: Any, **kwargs: Any) -> Any:
    """torch.tensor: of a tensor a copy, where that tensor is unless a device is named."""
    if kwargs.get("device") is not None:
        return _made(torch.tensor, "tensor", kwargs.pop("device"), (data,), kwargs)
    return data.detach().clone() if isinstance(data, Tensor) and _here(data) else torch.tensor(data, **kwargs)


def _one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
    """torch's looks for the smallest and the largest label first; on CUDA it does only without `num_classes`."""
    if num_classes < 0 or not _here(labels):
        return torch.nn.functional.one_hot(labels, num_classes)
    return (labels[..., None] == Pretended(torch.arange(num_classes))).long()


SPECIAL: dict[Callable, Callable] = {
    Tensor.to: _to,
    Tensor.cpu: lambda x, *_, **__: _to(x, CPU),
    Tensor.cuda: lambda x, device=None, non_blocking=False, **_: _to(x, CUDA, non_blocking=non_blocking),
    Tensor.pin_memory: lambda x, *_, **__: x,
    Tensor.is_pinned: lambda x, *_, **__: False,
    Tensor.numpy: _numpy,
    Tensor.__array__: _array,
    Tensor.tolist: _tolist,
    Tensor.new_tensor: lambda x, data, **kw: _tensor(data, **{"device": CUDA if _here(x) else CPU, **kw}),
    Tensor.get_device: lambda x: 0 if _here(x) else -1,
    Tensor.data_ptr: lambda x: _inner(_base(x)).data_ptr(),
    torch.tensor: _tensor,
    torch.as_tensor: _as_tensor,
    torch.nn.functional.one_hot: _one_hot,
}  # fmt: skip


# ---- the device ----


def _load_file(path: Any, device: Any = "cpu", real: Callable = safetensors.torch.load_file) -> dict[str, Tensor]:
    return {name: _to(x, device) for name, x in real(path).items()}


CUDA_MODULE: dict[str, Callable] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_name": lambda device=None: "NVIDIA H100 80GB HBM3",
    "get_device_capability": lambda device=None: (9, 0),
    "is_bf16_supported": lambda including_emulation=True: True,
    "mem_get_info": lambda device=None: (70 << 30, 80 << 30),
    "memory_allocated": lambda device=None: 1 << 30,
    "max_memory_allocated": lambda device=None: 1 << 30,
    "memory_reserved": lambda device=None: 1 << 30,
    "max_memory_reserved": lambda device=None: 1 << 30,
    "reset_peak_memory_stats": lambda device=None: None,
    "empty_cache": lambda: None,
}  # fmt: skip


@contextlib.contextmanager
def cuda() -> Iterator[Gpu]:
    """Inside, there is a GPU. Afterwards all is as before, but for tensors of the device that are still about."""
    global _gpu
    with contextlib.ExitStack() as stack:
        for name, fake in CUDA_MODULE.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, fake))
        stack.enter_context(
            mock.patch.object(torch.cuda, "synchronize", lambda device=None: _note("wait", "synchronize"))
        )
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda x, device=None: x))  # by any thread
        for module in [m for name, m in sys.modules.items() if name == "lib" or name.startswith("lib.")]:
            if getattr(module, "load_file", None) is safetensors.torch.load_file:
                stack.enter_context(mock.patch.object(module, "load_file", _load_file))
        stack.enter_context(_Mode())
        _gpu = Gpu()
        try:
            yield _gpu
        finally:
            _gpu = None
