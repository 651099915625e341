"""The runs of the arithmetic study, in the order of its protocol (`data/trainings/README.md`), and what each costs."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from entity_circuits import places, sums
from entity_circuits.arguments import one_of

from . import data as training_data
from .finetune import Recipe

Made = Literal["base", "shipped", "random", "trained"]
BASE, RANDOM = "base", "random"
STEPS, RATES = (80, 320), (3e-4, 1e-4)
MEASURING = 1.5
"""Minutes that the prompts and sums of one run take, before any was run."""


@dataclass(frozen=True)
class Run:
    """One row of the study: the `unit` (seed or draw) of a `cell`, and how its model is made.

    "base" is the base itself, "shipped" an adapter of `data/adapters`, "random" one of drawn numbers, "trained" one
    that is trained by the `recipe` for this study.
    """

    cell: str
    unit: int = 0
    made: Made = "trained"
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        one_of("way that a run is made", self.made, Made)

    @property
    def name(self) -> str:
        """The name of its file, without the ending."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.cell)}-{self.unit}"

    @property
    def dose(self) -> bool:
        """Whether it is arithmetic with plain answers at rank 16, which the study's rule is about."""
        made = self.recipe
        return made is not None and made.name.split("-seed")[0] == "arithmetic" and made.rank == Recipe("code").rank


def runs() -> tuple[Run, ...]:
    """All runs of the study in the order in which they are made.

    >>> from entity_book.training import plan
    >>> [run.name for run in plan.runs()[:2]]
    ['base-0', 'arithmetic-80-x-0-0003-0']
    """
    found = [Run(BASE, made="base")]
    found += [Run(_cell(Recipe(kind)), 0, "shipped", Recipe(kind)) for kind in training_data.KINDS]
    found += [Run(RANDOM, draw, "random") for draw in range(10)]
    found += _trained([Recipe("arithmetic", seed) for seed in (1, 2)])
    found += _trained([Recipe("arithmetic", seed, learning_rate=RATES[1]) for seed in range(3)])
    found += _trained([Recipe("arithmetic", seed, answers="own") for seed in range(3)])
    found += _trained([Recipe("arithmetic-sentence", seed) for seed in range(3)])
    found += _trained([Recipe("arithmetic", seed, replay=0.5) for seed in range(3)])
    found += _trained([_long(seed, STEPS[1], rate) for rate in RATES for seed in range(3)])
    found += _trained([Recipe(kind, seed) for kind in ("code-other", "code-binding") for seed in (1, 2)])
    found += _trained([Recipe("code-binding-shuffled", seed) for seed in range(3)])
    found += [Run(RANDOM, draw, "random") for draw in range(10, 20)]
    found += _trained([_long(seed, 1280, RATES[0]) for seed in (0, 1)])
    found += _trained([Recipe("arithmetic", rank=rank) for rank in (4, 64)])
    found += _trained([_long(2, 1280, RATES[0])])
    return tuple(found)


def _trained(recipes: Iterable[Recipe]) -> list[Run]:
    return [Run(_cell(recipe), recipe.seed, "trained", recipe) for recipe in recipes]


def _long(seed: int, steps: int, rate: float) -> Recipe:
    return Recipe("arithmetic", seed, steps=steps, learning_rate=rate, checkpoint=40)


def _cell(recipe: Recipe) -> str:
    """What a recipe trains, in words; of arithmetic with its dose, for that is what is varied."""
    words = {"arithmetic-sentence": "arithmetic in a sentence", "code-binding-shuffled": "code-binding, any value"}
    kind = words.get(recipe.kind, recipe.kind)
    if recipe.answers == "own":
        return "own answers"
    if recipe.replay:
        return f"{kind}, half replay"
    if recipe.rank != Recipe(recipe.kind).rank:
        return f"{kind}, rank {recipe.rank}"
    return f"{kind} {recipe.steps} x {recipe.learning_rate:g}" if recipe.kind == "arithmetic" else kind


def minutes(run: Run, rows: Iterable[Mapping[str, Any]]) -> float:
    """About how many minutes a run takes, by what runs of its kind took: those in `rows`, else the shipped adapter.

    Args:
        run: a run of `runs`.
        rows: what is kept of runs that were made: `recipe`, `seconds` of training and `measuring` in seconds.

    >>> from entity_book.training import plan
    >>> 2 < plan.minutes(plan.runs()[-1], []) < 60
    True
    """
    known = list(rows)
    taken = [row["measuring"] / 60 for row in known]
    measuring = statistics.median(taken) if taken else MEASURING
    if run.made != "trained" or run.recipe is None:
        return measuring
    same = [row for row in known if row["made"] == "trained" and row["recipe"]["kind"] == run.recipe.kind]
    steps = [row["seconds"] / row["recipe"]["steps"] for row in same]
    if not steps:
        like = "code-binding" if run.recipe.kind.startswith("code-binding") else run.recipe.kind.split("-s")[0]
        log = json.loads(sums.read(places.data("adapters", like, "log.json")))
        steps = [log["seconds"] / log["recipe"]["steps"]]
    return measuring + statistics.median(steps) * run.recipe.steps / 60


def told(recipe: Recipe | None) -> dict[str, Any] | None:
    """A recipe as it is kept."""
    return None if recipe is None else asdict(recipe)
