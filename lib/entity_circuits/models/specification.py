"""How to have a loaded model again, in another process: what `models.load` was asked for, as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Specification:
    """What `models.load` made a model of. Weights are never sent anywhere: a worker loads them anew by this.

    Args:
        name: as given to `load`; a folder or a file by its whole path, so that it is the same in every process.
        adapter: likewise, or None.
        dtype: of the weights, by its name in torch, as "float32".
        device: where the model runs, as "cpu" or "cuda".
        attention: the implementation in transformers.
        fingerprint: what the model loaded by this must have.

    For example:

        from entity_circuits.models.specification import Specification

        print(Specification("qwen2.5-coder-0.5b").dtype)
    """

    name: str
    adapter: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"
    fingerprint: str = ""
