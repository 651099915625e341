"""Adapters that learned nothing: normally distributed numbers, with the norms of a trained adapter, layer by layer.

Any change of weights changes answers. What a change of this size does that has no direction to it is the floor that a
training is compared with.
"""

import torch
from torch import Tensor


def like(weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """An adapter of drawn numbers whose change of each weight matrix is as large as that of a trained one.

    `weights` are those of a LoRA adapter by their names in the file, `...lora_A.weight` (rank, in) and
    `...lora_B.weight` (out, rank); so is the result, float32. Equal is the Frobenius norm of every product B A. Raises
    `ValueError` for an adapter with other parts.

        from entity_book.training import noise

        drawn = noise.like({"q.lora_A.weight": torch.ones(2, 8), "q.lora_B.weight": torch.ones(8, 2)}, seed=0)
        print(noise.norms(drawn))
    """
    drawn: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for name, size in norms(weights).items():
        a, b = (torch.randn(weights[f"{name}.lora_{part}.weight"].shape, generator=generator) for part in "AB")
        drawn |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b * size / _norm(a, b)}
    return drawn


def norms(weights: dict[str, Tensor]) -> dict[str, float]:
    """The Frobenius norm of what an adapter adds to each weight matrix (before its scale), by the matrix's name.

    For example:

        from entity_book.training import noise

        print(noise.norms({"q.lora_A.weight": torch.ones(1, 4), "q.lora_B.weight": torch.ones(4, 1)}))  # {'q': 4.0}
    """
    names = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    wanted = {f"{name}.lora_{part}.weight" for name in names for part in "AB"}
    if not names or wanted != weights.keys():
        raise ValueError("this is no plain LoRA adapter: it has other parts than pairs of lora_A and lora_B")
    return {name: _norm(*(weights[f"{name}.lora_{part}.weight"] for part in "AB")) for name in names}


def _norm(a: Tensor, b: Tensor) -> float:
    """|B A| without the product: the trace of (B'B)(AA')."""
    one, two = b.double().T @ b.double(), a.double() @ a.double().T
    return float((one * two.T).sum().clamp(min=0).sqrt())
