"""What the four rounds of one or two models need, reckoned from their shape before anything is fetched.

Operations are counted, a multiply and an add as two. Memory is what a process holds at most: the weights, the recording
of one chunk of examples, and a batch of replays, which is bounded. `BESIDE` and the factors of a batch were measured on
random models of Llama-7B's ratios with two layers; tests/test_needs.py and book/cluster.md say how near that is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..arguments import boolean, integer, one_of
from ..models.shape import Shape

BESIDE = 0.58e9
"""Bytes of a process with torch, transformers and nnsight, and no model."""

RECEIVERS = ((0.5, 1.0), (0.47, 0.66), (0.31, 0.5))
"""Between which shares of the depth the receivers of rounds 2 to 4 are taken to lie; few models are known, so wide."""

TAIL = 3
"""Tokens of a prompt that no other prompt of its context begins with: the label that is asked for, and two words."""

CONTEXT = 7
"""Prompts of a context: one for each of its statements."""

SHARE = 0.6
"""Of the rate of large products that replays reach."""

BOUND = 1e9
"""Bytes that a replay reckons with for a batch: its own argument `memory`."""

BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Needs:
    """Bytes and operations. `weights` are of all models, `recording` of one chunk, `work` of a batch of replays;
    `chunk` is how many examples are recorded at a time."""

    weights: float
    recording: float
    work: float
    operations: float
    chunk: int

    @property
    def memory(self) -> float:
        """Bytes of a process on a processor at its peak."""
        return BESIDE + self.device_memory

    @property
    def device_memory(self) -> float:
        """Bytes on a device of its own, at the peak."""
        return self.weights + self.recording + self.work

    def seconds(self, gflops: float) -> float:
        """How long it takes where large products run at so many billions of operations a second."""
        return self.operations / (SHARE * gflops * 1e9)


def of(
    shape: Shape,
    *,
    models: int = 1,
    adapted: bool = False,
    examples: int = 70,
    tokens: int = 60,
    dtype: str = "float32",
    chunk: int = 70,
) -> Needs:
    """What it takes to record `examples` prompts and find the circuit of each model in four rounds, by replay.

    Args:
        shape: of the models.
        models: how many are in memory at once and are asked, 1 or 2.
        adapted: whether the second is the first with an adapter: they share what that leaves alone.
        examples: prompts.
        tokens: of a prompt.
        dtype: of weights and recordings, by its name.
        chunk: prompts that are recorded at a time.

    Raises `ValueError` for a dtype that models are not loaded in, or numbers below 1.

        from entity_circuits.methods import needs
        from entity_circuits.models import registry

        found = needs.of(registry()["llama-7b"].shape, examples=300)
        print(f"{found.memory / 1e9:.0f} GB, {found.operations / 1e15:.0f} PFLOP")
    """
    one_of("dtype", dtype, BYTES)
    boolean("adapted", adapted)
    integer("models", models, 1, 2), integer("examples", examples), integer("chunk", chunk)
    integer("tokens", tokens, TAIL + 1)
    size, n = BYTES[dtype], min(examples, chunk)
    second = shape.attention_parameters if adapted else shape.parameters
    weights = size * (shape.parameters + (models - 1) * second)
    token = (2 * shape.layers + 1) * shape.width + 2 * shape.layers * shape.kv_heads * shape.head_size
    rows = math.ceil(n / CONTEXT) * (tokens - TAIL) + n * TAIL + 3 * n  # each token once, and three of each source
    scores = shape.heads * tokens
    numbers = n * TAIL * (10 * shape.width + 4 * scores)
    variants = min(shape.heads, max(1, int(BOUND / (numbers * size))))
    work = size * variants * n * TAIL * (7 * shape.width + 3 * shape.mlp + 2.7 * scores)
    operations = models * sum(rounds(shape, examples, tokens)) + models * recording_operations(shape, examples, tokens)
    return Needs(weights, size * token * rows, work, operations, n)


def recording_operations(shape: Shape, examples: int, tokens: int) -> float:
    """Operations of the clean runs of base prompts, of their sources, and of what a context shares once.

    For example:

        from entity_circuits.methods import needs
        from entity_circuits.models import registry

        print(needs.recording_operations(registry()["llama-7b"].shape, 70, 60))
    """
    base = math.ceil(examples / CONTEXT) * (tokens - TAIL) + examples * TAIL
    return 2.0 * (shape.parameters - shape.vocabulary * shape.width) * (base + examples * tokens)


def rounds(
    shape: Shape, examples: int, tokens: int, receivers: Sequence[Sequence[int]] | None = None
) -> tuple[float, ...]:
    """Operations of each of the four rounds by replay, all heads as senders.

    Args:
        shape: of the model.
        examples: prompts.
        tokens: of a prompt.
        receivers: the layers of the receivers of rounds 2 to 4; all within `RECEIVERS` unless given.

    For example:

        from entity_circuits.methods import needs
        from entity_circuits.models import registry

        print([f"{one / 1e15:.1f} PFLOP" for one in needs.rounds(registry()["llama-7b"].shape, 300, 85)])
    """
    if receivers is None:
        top = shape.layers - 1
        receivers = [range(int(low * top), int(high * top) + 1) for low, high in RECEIVERS]
    read = 2.0 * shape.width * (shape.vocabulary + 1)
    found = [sum(shape.heads * (_frozen(shape, first, shape.layers) + read) for first in range(shape.layers))]
    for layers, site, tail in zip(receivers, "qvv", (1, TAIL, TAIL), strict=True):
        total = 0.0
        for first in range(max(layers)):
            above = sorted({one for one in layers if one > first})
            heard = len(above) * _projected(shape, site)
            total += shape.heads * (
                _frozen(shape, first, max(above) + 1) + heard + _free(shape, min(above), tail, tokens)
            )
        found.append(total)
    return tuple(examples * one for one in found)


def _projected(shape: Shape, site: str) -> float:
    return 2.0 * shape.width * shape.head_size * (shape.heads if site in "qo" else shape.kv_heads)


def _frozen(shape: Shape, first: int, top: int) -> float:
    """One token of a variant up the MLPs from a layer to below another; what attention gives, once for all variants."""
    mlps = 6.0 * shape.width * shape.mlp
    return (top - first) * mlps + _projected(shape, "o") * (1 + (top - first - 1) / shape.heads)


def _free(shape: Shape, first: int, tail: int, tokens: int) -> float:
    """The last tokens of a variant through everything from a layer on; of the last layer, the last one alone."""
    attention, mlps = 4.0 * shape.width * tokens, 6.0 * shape.width * shape.mlp
    layer = tail * (2 * _projected(shape, "q") + 2 * _projected(shape, "k") + mlps + attention)
    last = (tail + 1) * _projected(shape, "q") + tail * 2 * _projected(shape, "k") + mlps + attention
    return (shape.layers - 1 - first) * layer + last + 2.0 * shape.width * (shape.vocabulary + 1)
