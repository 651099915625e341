"""Float32 products at the speed of the better kernels of a processor, with float32 accuracy, checked on the spot."""

import contextlib
from collections.abc import Iterator

import torch

from . import devices
from .subject import Subject

CLOSE = {torch.bfloat16: 0.02, torch.float16: 0.02}
"""By what share of their size two ways to the same logits may differ. In other dtypes it is 1e-4, or ten times what a
product on that device is off, if that is more (TF32). Rounding grows with the size of the logits, so no number of them
by itself would do for every model."""

_CPU = torch.device("cpu")


@contextlib.contextmanager
def fast_float32(subject: Subject) -> Iterator[None]:
    """Inside, float32 products on a CPU take the faster kernels where these are as accurate; the setting is put back.

    PyTorch's "medium" precision only chooses other float32 kernels on some processors, twice as fast, and rounds to
    bfloat16 on others. So one product is compared with float64 first: an error above 1e-6 and nothing is changed.

        import torch
        from entity_circuits import models
        from entity_circuits.models.precision import fast_float32

        with fast_float32(models.load("qwen2.5-coder-0.5b")):
            print(torch.get_float32_matmul_precision())
    """
    before = torch.get_float32_matmul_precision()
    if subject.device.type != "cpu" or subject.dtype != torch.float32 or before != "highest":
        yield
        return
    try:
        torch.set_float32_matmul_precision("medium")
        if devices.rounding(subject.device) > 1e-6:
            torch.set_float32_matmul_precision(before)
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two tables of logits as a share of the largest of them; 0 where all are zero.

    For example:

        import torch
        from entity_circuits.models import precision

        print(precision.apart(torch.tensor([10.0, -20.0]), torch.tensor([10.0, -19.0])))  # 0.05
    """
    one, other = one.cpu(), other.cpu()  # they may come from several devices
    size = torch.maximum(one.abs().max(), other.abs().max()).clamp(min=torch.finfo(one.dtype).tiny)
    return float((one - other).abs().max() / size)


def tolerance(dtype: torch.dtype, device: torch.device = _CPU) -> float:
    """By what share of their size two ways to the same logits of a model in this dtype, on this device, may differ.

    For example:

        import torch
        from entity_circuits.models import precision

        print(precision.tolerance(torch.float32), precision.tolerance(torch.bfloat16))  # 0.0001 0.02
    """
    if dtype in CLOSE:
        return CLOSE[dtype]
    return 1e-4 if dtype == torch.float64 else max(1e-4, 10 * devices.rounding(device))


def close(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype, device: torch.device = _CPU) -> bool:
    """Whether two tables of logits are the same up to the rounding of a model in this dtype; never for NaN."""
    return apart(one, other) < tolerance(dtype, device)
