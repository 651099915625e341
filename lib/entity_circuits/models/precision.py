"""Float32 products at the speed of the better kernels of a processor, with float32 accuracy, checked on the spot."""

import contextlib
from collections.abc import Iterator

import torch

from .subject import Subject

CLOSE = {torch.bfloat16: 0.02, torch.float16: 0.02}
"""By what share of their size two ways to the same logits may differ, and 1e-4 in other dtypes: rounding grows with
the size of the logits, so no number of them by itself would do for every model."""


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
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(64, 256, generator=generator) for _ in range(2))
        exact = a.double() @ b.double().T
        if float(((a @ b.T).double() - exact).norm() / exact.norm()) > 1e-6:
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
    size = torch.maximum(one.abs().max(), other.abs().max()).clamp(min=torch.finfo(one.dtype).tiny)
    return float((one - other).abs().max() / size)


def close(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tables of logits are the same up to the rounding of a model in this dtype; never for NaN."""
    return apart(one, other) < CLOSE.get(dtype, 1e-4)
