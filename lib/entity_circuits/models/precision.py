"""Float32 products at the speed of the better kernels of a processor, with float32 accuracy, checked on the spot."""

import contextlib
from collections.abc import Iterator

import torch

from .subject import Subject


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


def tolerance(dtype: torch.dtype, logits: torch.Tensor) -> float:
    """How far rounding alone may take two ways to one log-probability apart, for logits of this size.

    For example:

        import torch
        from entity_circuits.models.precision import tolerance

        print(tolerance(torch.float32, torch.tensor([-3.0, 20.0])))  # 0.00095
    """
    half = dtype in (torch.float16, torch.bfloat16)
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return (2 if half else 400) * eps * max(1.0, float(logits.abs().max()))
