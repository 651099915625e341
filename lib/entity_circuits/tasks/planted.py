"""Models whose circuit is known because it was planted: the toy's relay among heads that write noise.

The relay of the toy stands in other layers and heads, is shared by two heads, has no second way, or has a head beside
it that carries the object to where nobody reads it. All other heads have random weights. What a method finds in such a
model can be held against what was put there.

With more noise, what a method misses is less and less its fault: heads that were not planted write into the channels of
the answer and do matter, and those of the relay look at the wrong words. How likely the right word still is tells how
much is left of the plan.
"""

from dataclasses import dataclass

import torch

from ..arguments import finite, integer
from ..heads import Circuit, Group, Head, of, require
from ..models import unchanged
from ..models.subject import Subject
from . import toy
from .rounds import Round

ROUNDS = (
    Round("fetchers", "last"),
    Round("carriers", "query", into="fetchers", through="v"),
    Round("readers", "prev", into="carriers", through="v"),
)
"""What path patching is asked in these models: who writes the answer, who hands it to those, who reads the object."""

UNREAD = (11, 12)
"""The channels that nothing reads but noise."""


@dataclass(frozen=True)
class Plan:
    """Which heads of a model of so many layers of `heads` heads (1, 2, 4, 8 or 16) are planted, each for what.

    `readers` carry the object from its token to its label, `carriers` on to the label that is asked for, and `fetchers`
    from there to the end; heads of one of these share its work in equal parts. `direct` heads look at the object from
    the end. `distractors` do so too, five times as strongly, but write it to channels that are never read. Raises
    `ValueError` for a relay that does not go upwards, and for a head with two tasks.

        from entity_circuits import planted

        print(planted.Plan("mine", 3, 2, readers=("L0H0",), carriers=("L1H1",), fetchers=("L2H0",)).circuit.to_json())
    """

    name: str
    layers: int
    heads: int
    readers: tuple[Head, ...]
    carriers: tuple[Head, ...]
    fetchers: tuple[Head, ...]
    direct: tuple[Head, ...] = ()
    distractors: tuple[Head, ...] = ()

    def __post_init__(self) -> None:
        for what in ("readers", "carriers", "fetchers", "direct", "distractors"):
            object.__setattr__(self, what, of(getattr(self, what)))
        require(self.planted, integer("layers", self.layers), integer("heads", self.heads), "of the plan")
        if len(set(self.planted)) < len(self.planted):
            raise ValueError(f"a head of plan {self.name!r} has two tasks")
        stages = [[head.layer for head in some] for some in (self.readers, self.carriers, self.fetchers)]
        if not all(stages) or not max(stages[0]) < min(stages[1]) <= max(stages[1]) < min(stages[2]):
            raise ValueError(f"plan {self.name!r} does not go upwards from readers to carriers to fetchers")
        if toy.WIDTH % self.heads:
            raise ValueError(f"plan {self.name!r} has {self.heads} heads a layer: take a divisor of {toy.WIDTH}")

    @property
    def planted(self) -> tuple[Head, ...]:
        """All heads that are there for something, the distractors too."""
        return (*self.readers, *self.carriers, *self.fetchers, *self.direct, *self.distractors)

    @property
    def circuit(self) -> Circuit:
        """The heads that matter for the answer, by the names and positions of `ROUNDS`."""
        found: dict[Group, tuple[Head, ...]] = {
            "fetchers": (*self.fetchers, *self.direct),
            "carriers": self.carriers,
            "readers": self.readers,
        }
        return Circuit(found, {"plan": self.name}, {one.name: one.position for one in ROUNDS})


PLANS = (
    Plan("the toy", 3, 4, of("L0H0"), of("L1H0"), of("L2H0"), direct=of("L2H1")),
    Plan("spread over six layers", 6, 4, of("L1H3"), of("L3H0"), of("L5H2"), direct=of("L4H1")),
    Plan("a shared stage", 4, 4, of("L0H2"), of(["L1H1", "L2H3"]), of("L3H0"), direct=of("L3H3")),
    Plan("one way only", 4, 4, of("L0H1"), of("L2H2"), of("L3H1")),
    Plan("a distractor", 4, 4, of("L0H3"), of("L1H2"), of("L3H2"), direct=of("L2H0"), distractors=of("L2H3")),
)
"""Five models to plant."""


def subject(plan: Plan, *, noise: float = 0.0, seed: int = 0) -> Subject:
    """The model of a plan as a Subject in float64, for `toy.prompts`.

    Args:
        plan: what is planted where.
        noise: the standard deviation of what each other head writes into each channel where it looks at one word, which
            is 1 in a channel of its own, as is what each stage of the relay hands on but the last, which hands on 2.
        seed: of the random weights: queries, keys and values are of size 1, outputs follow `noise`.

    For example:

        from entity_circuits import path_patching, planted, toy

        model = planted.subject(planted.PLANS[1], noise=0.05)
        base, source = toy.prompts("apple", "cup"), toy.prompts("cup", "apple")
        print(path_patching.sweep(model, base, source, position="last").ranking()[:2])  # L5H2, L4H1
    """
    finite("noise", noise, 0)
    seed = integer("seed", seed, least=None)
    model, generator = toy.blank(plan.layers, plan.heads), torch.Generator().manual_seed(seed)
    for block in model.model.layers:
        for name, size in (("q", 1.0), ("k", 1.0), ("v", 1.0), ("o", noise / toy.SIZE**0.5)):
            weight = getattr(block.self_attn, f"{name}_proj").weight
            weight.copy_(size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    for head in plan.planted:
        own, attention = (
            slice(head.head * toy.SIZE, (head.head + 1) * toy.SIZE),
            model.model.layers[head.layer].self_attn,
        )
        for name in "qkv":
            getattr(attention, f"{name}_proj").weight[own] = 0.0
        attention.o_proj.weight[:, own] = 0.0
    for some, stage, total in zip(
        (plan.readers, plan.carriers, plan.fetchers), toy.STAGES, (1.0, 1.0, toy.RELAY), strict=True
    ):
        for head in some:
            toy.copying(model, head.layer, head.head, *stage, total / len(some))
    for head in plan.direct:
        toy.copying(model, head.layer, head.head, *toy.AT_ONCE, toy.DIRECT)
    for head in plan.distractors:
        toy.copying(model, head.layer, head.head, *toy.AT_ONCE[:3], UNREAD, 5.0)
    name = f"{plan.name}, noise {noise}, seed {seed}"
    shape = (plan.layers, plan.heads, plan.heads, toy.SIZE)
    return Subject(name, model, None, *shape, f"planted {plan!r} {noise} {seed}", unchanged.seen(model))
