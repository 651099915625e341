"""Devices pretended on a machine without them: tensors of the CPU that say where they are, and refuse to be mixed.

What may be together follows PyTorch's own rules for CUDA: operands of one device, beside single numbers of the CPU;
indices of the CPU or of the tensor's own device; copies from anywhere. All else raises `Mismatch`. Numbers are those
of the CPU.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
MAKERS = {
    *("tensor", "as_tensor", "arange", "zeros", "ones", "full", "empty", "rand", "randn", "randint", "eye"),
    *("zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_empty", "new_zeros", "new_full", "new_ones", "new_tensor"),
}
"""Functions whose result need not be where their arguments are."""
FREE = {
    *(
        "__get__",
        "__set__",
        "size",
        "dim",
        "numel",
        "stride",
        "__len__",
        "is_floating_point",
        "element_size",
        "__repr__",
    ),
    *("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "requires_grad_", "is_complex", "ndimension"),
    *("__hash__", "is_contiguous", "data_ptr", "backward", "register_hook", "retain_grad", "is_leaf", "__format__"),
    *("storage_offset", "nelement", "untyped_storage", "is_pinned", "__deepcopy__", "_is_view", "grad", "is_inference"),
}
"""Functions that look at one tensor."""


class Mismatch(RuntimeError):
    """Tensors of several devices where PyTorch would take those of one."""


class Pretend(torch.Tensor):
    """A tensor of the CPU that says it is elsewhere."""

    _pretend = CPU

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._pretend

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self._pretend.type == "cuda"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Pretending(TorchFunctionMode):
    """Inside, tensors are made on pretended devices, too, and operands are watched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def where(tensor: torch.Tensor) -> torch.device:
    return tensor._pretend if isinstance(tensor, Pretend) else CPU


def marked(found: Any, device: torch.device) -> Any:
    """The same data, said to be on a device; also all tensors in a list or tuple. Apple's devices have no float64."""
    if isinstance(found, torch.Tensor):
        if device.type == "mps" and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        with torch._C.DisableTorchFunction():
            raw = found.as_subclass(torch.Tensor) if isinstance(found, Pretend) else found
            if device == CPU:
                return raw
            made = raw.as_subclass(Pretend)
        made._pretend = device
        return made
    if isinstance(found, tuple) and hasattr(found, "_fields"):
        return type(found)(*(marked(one, device) for one in found))
    if isinstance(found, tuple | list):
        parts = [marked(one, device) for one in found]
        return type(found)(parts) if type(found) is not tuple else tuple(parts)
    return found


def tensors(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, dict):
        found = list(found.values())
    return [tensor for one in found for tensor in tensors(one)] if isinstance(found, tuple | list) else []


def named(device: Any) -> torch.device:
    device = torch.device(f"cuda:{device}") if isinstance(device, int) else torch.device(device)
    return torch.device(device.type, 0) if device.type != "cpu" and device.index is None else device


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One function of torch, as it would go on these devices."""
    name = getattr(func, "__name__", str(func))
    with torch._C.DisableTorchFunction():
        found = tensors([args, kwargs])
        if name in ("numpy", "__array__") and any(where(one) != CPU for one in found):
            raise Mismatch("a tensor of another device than the CPU cannot be an array")
        if name == "cpu":
            return marked(func(*args, **kwargs), CPU)
        if name == "cuda":
            return marked(args[0].clone(), torch.device("cuda", 0))
        if name == "to":
            return _moved(func, args, kwargs)
        if name in ("__getitem__", "__setitem__"):
            return _indexed(func, name, args, kwargs)
        if name == "copy_":
            func(*args, **kwargs)
            return args[0]
        if name == "grad" and func is torch.autograd.grad:
            leaves = args[1] if len(args) > 1 else kwargs["inputs"]
            leaves = [leaves] if isinstance(leaves, torch.Tensor) else list(leaves)
            return tuple(marked(g, where(leaf)) for g, leaf in zip(func(*args, **kwargs), leaves, strict=True))
        if name in FREE:
            made = func(*args, **kwargs)
            here = where(args[0]) if args and isinstance(args[0], torch.Tensor) else CPU
            return marked(made, here) if isinstance(made, torch.Tensor) else made
        return _computed(func, name, found, args, dict(kwargs))


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    target, rest, kwargs = where(args[0]), [], dict(kwargs)
    for one in args[1:]:
        if isinstance(one, torch.Tensor):
            target = where(one)
            rest.append(one.dtype)
        elif isinstance(one, str | torch.device) or (isinstance(one, int) and not isinstance(one, bool)):
            target = named(one)
        elif one is not None:
            rest.append(one)
    if (device := kwargs.pop("device", None)) is not None:
        target = named(device)
    made = func(args[0], *rest, **kwargs) if rest or kwargs else args[0]
    if made is args[0] and target == where(args[0]):
        return made
    return marked(made.clone() if made is args[0] else made, target)


def _indexed(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    here, indices = where(args[0]), tensors([args[1]])
    for one in indices:
        if where(one) not in (CPU, here):
            raise Mismatch(f"indices on {where(one)}, the tensor on {here}")
    if name == "__getitem__":
        return marked(func(*args, **kwargs), here)
    each = args[1] if isinstance(args[1], tuple) else (args[1],)
    put, value = bool(indices) or any(isinstance(one, list) for one in each), args[2]
    if put and isinstance(value, torch.Tensor) and where(value) != here and value.dim():
        raise Mismatch(f"values on {where(value)} put into a tensor on {here}")
    return func(*args, **kwargs)


def _computed(func: Any, name: str, found: list[torch.Tensor], args: Any, kwargs: dict[str, Any]) -> Any:
    asked = kwargs.get("device")
    if asked is not None:
        asked, kwargs["device"] = named(asked), CPU
    there = {where(one) for one in found} - {CPU}
    if name not in MAKERS and (len(there) > 1 or (there and any(where(one) == CPU and one.dim() for one in found))):
        raise Mismatch(f"{name}: operands on {sorted({str(where(one)) for one in found})}")
    wants = kwargs.pop("requires_grad", False) if name in MAKERS else False
    here = asked if asked is not None else next(iter(there), CPU)
    made = func(*args, **kwargs)
    if wants:
        return marked(made, here).requires_grad_(True)
    return found[0] if name.endswith("_") and not name.endswith("__") and found else marked(made, here)


def move(module: Any, device: torch.device) -> Any:
    """Say of every parameter and buffer that it is there: `module.to`, which sets data behind PyTorch's back."""
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in list(table.items()):
                if tensor is not None:
                    table[name] = marked(tensor.detach(), device)
    return module
