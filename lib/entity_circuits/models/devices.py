"""Where a model computes: on one device, or its layers on several, in one process.

Prompts, positions, masks of who hears whom and answers are on the CPU, wherever the model is; what is computed of a
layer is where that layer is. So nothing outside `models` and `runs` has to know of devices.
"""

from collections.abc import Mapping
from typing import Any

import torch

Device = str | torch.device
DeviceMap = Mapping[str, str | int] | str

PLANS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of accelerate to fill the devices there are."""


def chosen(device: Device) -> torch.device:
    """The device of this name: "cpu", "cuda", "cuda:1", "mps", or for "auto" the best one there is.

    Raises `ValueError` for a device on which nothing can be computed here.

        from entity_circuits.models import devices

        print(devices.chosen("auto").type in ("cpu", "cuda", "mps"))  # True
    """
    if isinstance(device, str) and device == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        device = next(name for name, found in there.items() if found)
    try:
        torch.zeros(1, device=device).tolist()
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"nothing can be computed on the device {str(device)!r} here: {said}. Try 'cpu'.") from error


def require_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raise `ValueError` for numbers that a device does not have: Apple's has no float64.

    For example:

        import torch
        from entity_circuits.models import devices

        assert devices.require_dtype(torch.device("mps"), torch.float32) is None
    """
    if device.type == "mps" and dtype == torch.float64:
        raise ValueError("the device 'mps' has no float64: load the model in float32, or on device='cpu'")


def where(module: Any, otherwise: torch.device) -> torch.device:
    """The device of a module's parameters; another one for a module that has none."""
    return next((parameter.device for parameter in module.parameters()), otherwise)


def rounding(device: torch.device) -> float:
    """By what share of its size a float32 product on a device is off: 1e-7, or 3e-4 where it is rounded to TF32.

    Measured on one small product with the precision that is set now, `torch.set_float32_matmul_precision`.

    For example:

        import torch
        from entity_circuits.models import devices

        print(devices.rounding(torch.device("cpu")) < 1e-6)
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double().T
    product = (a.to(device) @ b.to(device).T).cpu().double()
    return float((product - exact).norm() / exact.norm())


def plan(model: Any, device_map: DeviceMap) -> dict[str, torch.device]:
    """Which part of a model goes to which device, by the names of its modules; checked.

    Args:
        model: in memory.
        device_map: names of modules and a device each, as accelerate takes them ("" is the whole model, the longest
            name that fits counts); or one of `PLANS`, for all the CUDA devices that there are.

    Raises `ValueError` for another plan, for a part that no device is named for, for a layer that would be split, and
    for accelerators mixed with "cpu" or "disk": weights that are not where they compute cannot be replayed.

        from entity_circuits import toy
        from entity_circuits.models import devices

        print(devices.plan(toy.subject().model, {"": "cpu"}))
    """
    if isinstance(device_map, str):
        if device_map not in PLANS:
            raise ValueError(f"no device map called {device_map!r}: one of {', '.join(PLANS)}, or names with devices")
        device_map = _filled(model, device_map)
    if not isinstance(device_map, Mapping) or not device_map:
        raise ValueError(f"a device map is names of modules and a device each, or a word, not {device_map!r}")
    if "disk" in device_map.values():
        raise ValueError("no part of the model can be on 'disk': its weights have to be where they compute")
    found = {
        name: torch.device("cuda", on) if isinstance(on, int) else torch.device(on) for name, on in device_map.items()
    }
    if len({device.type for device in found.values()}) > 1:
        raise ValueError(f"a device map is of devices of one kind, not of {sorted({str(d) for d in found.values()})}")
    for device in set(found.values()):
        chosen(device)
    block = set(getattr(model, "_no_split_modules", None) or ())
    for name, module in model.named_modules():
        if type(module).__name__ in block and any(key.startswith(f"{name}.") for key in found):
            raise ValueError(f"the device map splits the layer {name}: name a layer as a whole")
    for name, _ in model.named_parameters():
        if _of(found, name) is None:
            raise ValueError(f"the device map says nothing of {name}: name all parts, or give '' a device")
    return found


def spread(model: Any, device_map: DeviceMap) -> Any:
    """The model with its parts on the devices of a map, and inputs that follow (accelerate). Raises as `plan` does.

    For example:

        from entity_circuits import toy
        from entity_circuits.models import devices

        print(devices.spread(toy.subject().model, {"": "cpu"}).device)
    """
    from accelerate import dispatch_model

    found = plan(model, device_map)
    if len(set(found.values())) == 1:
        return model.to(next(iter(found.values())))
    placed = {name: str(device) for name, device in found.items()}
    stay = getattr(model, "_skip_keys_device_placement", None)  # caches, whose layers are where they are
    first = str(_of(found, next(name for name, _ in model.named_parameters())))  # accelerate would take any
    return dispatch_model(model, device_map=placed, main_device=first, skip_keys=stay)


def _filled(model: Any, how: str) -> Mapping[str, str | int]:
    """The map that accelerate makes for the CUDA devices there are and what is free on each."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = getattr(model, "_no_split_modules", None)
    free = {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
    if not free:
        raise ValueError(f"device_map={how!r} is for CUDA devices, and none is here: name modules and devices yourself")
    if how != "sequential":
        free = get_balanced_memory(model, free, no_split_module_classes=whole, low_zero=how == "balanced_low_0")
    found: dict[str, str | int] = infer_auto_device_map(model, max_memory=free, no_split_module_classes=whole)
    if {"cpu", "disk"} & set(map(str, found.values())):
        raise ValueError(
            f"{model.__class__.__name__} does not fit on the {len(free)} CUDA devices: see the page on NDIF"
        )
    return found


def _of(found: Mapping[str, torch.device], name: str) -> torch.device | None:
    """The device of a parameter: that of the longest name it is under."""
    under = [key for key in found if not key or name == key or name.startswith(f"{key}.")]
    return found[max(under, key=len)] if under else None
