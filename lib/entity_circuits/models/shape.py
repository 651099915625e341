"""The shape of a model, and what follows from it alone: how many numbers its weights are, what a product costs."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's form.

    Args:
        layers: how many.
        width: of the residual stream.
        heads: of queries, a layer.
        kv_heads: of keys and values, a layer.
        head_size: numbers a head.
        mlp: inner width.
        vocabulary: rows of the embedding.
        tied: whether the output matrix is the embedding.

    For example:

        from entity_circuits.models.shape import Shape

        llama = Shape(32, 4096, 32, 32, 128, 11008, 32000)
        print(f"{llama.parameters:,}")  # 6,738,415,616
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocabulary: int
    tied: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in the weights, but for biases: those of Qwen's queries, keys and values are a thousandth."""
        attention = 2 * self.width * (self.heads + self.kv_heads) * self.head_size
        layer = attention + 3 * self.width * self.mlp + 2 * self.width
        return self.layers * layer + self.width + (1 if self.tied else 2) * self.vocabulary * self.width

    @property
    def attention_parameters(self) -> int:
        """Numbers in the matrices of all attentions, which adapters change."""
        return self.layers * 2 * self.width * (self.heads + self.kv_heads) * self.head_size


def of_config(config: Any) -> Shape:
    """The shape that a config of transformers tells. Raises `ValueError` for one without what a `Shape` has.

    For example:

        from entity_circuits import models
        from entity_circuits.models import shape

        print(shape.of_config(models.load("qwen2.5-coder-0.5b").model.config).layers)  # 24
    """
    told: dict[str, Any] = {
        "layers": getattr(config, "num_hidden_layers", None),
        "width": getattr(config, "hidden_size", None),
        "heads": getattr(config, "num_attention_heads", None),
        "mlp": getattr(config, "intermediate_size", None),
        "vocabulary": getattr(config, "vocab_size", None),
    }
    if missing := [name for name, value in told.items() if not isinstance(value, int)]:
        raise ValueError(f"a {type(config).__name__} does not tell {', '.join(missing)}: nothing can be reckoned")
    kv_heads = getattr(config, "num_key_value_heads", None) or told["heads"]
    size = getattr(config, "head_dim", None) or told["width"] // told["heads"]
    return Shape(**told, kv_heads=kv_heads, head_size=size, tied=bool(getattr(config, "tie_word_embeddings", False)))
