"""Attention knockout: which layers carry information from one position to another, after Geva et al. (2023).

From a start layer upwards, no head may attend from a reading position to a key position. Where an early cut loses the
answer and a late one does not, the layers between have carried what the answer needs. No head is chosen and nothing is
ranked, so this is an independent check of the layers in which the groups of a circuit sit. The paper does it on
Llama-7B.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import bootstrap, results, runs, statistics
from ..arguments import integer, several
from ..heads import LETTERS, Circuit, Group
from ..models.subject import Subject
from ..results import Store
from ..runs.edits import Edit
from ..runs.recording import Recording
from ..runs.replay import Method
from ..runs.replay import executor as way
from ..tasks.prompts import Prompts, require_answers
from . import work

Condition = str
"""Which position may no longer attend to which: two places of the prompts, "last->object". "last->random" is a control:
a key that the task draws (`Prompts.random_keys`)."""

CONDITIONS: tuple[Condition, ...] = ("last->object", "last->query", "last->random", "query->prev", "query->random")
"""Those of the paper's task."""

READS: dict[Condition, Group] = {
    "last->object": "value_fetcher",
    "last->query": "position_transmitter",
    "query->prev": "position_detector",
}
"""The group that, by the paper, attends along this path. Structure readers attend from `prev` to their own statement,
which no condition cuts."""

BEGUN, DONE = 0.1, 0.9
"""The shares of the lost accuracy between which it comes back, see `recovery`."""


@dataclass(frozen=True, eq=False)
class Curves:
    """What each cut did to each of n prompts.

    `correct` (conditions, starts, n) bool, whether the right object is still the most likely token of the whole
    vocabulary, and `logprob`, its log-probability, float32 or better. A start layer equal to the number of layers cuts
    nothing. `contexts` (n,) numbers the worlds of the prompts, `layers` is the number of the model's.
    """

    conditions: tuple[Condition, ...]
    starts: tuple[int, ...]
    layers: int
    correct: Tensor
    logprob: Tensor
    contexts: Tensor

    def table(self) -> pd.DataFrame:
        """One row a condition and start layer.

        `value` is the accuracy, with `low` and `high` (95%, over `contexts`), and `n`.

            from entity_circuits import knockout, models, tasks

            subject = models.load("qwen2.5-coder-0.5b")
            p = tasks.default.prompts(subject, n=14)
            print(knockout.sweep(subject, p, conditions=["last->object"]).table())
        """
        cells = statistics.intervals(self.correct, self.contexts)
        clusters = len(torch.unique(self.contexts))
        rows = [
            {"condition": condition, "start": start}
            | {"value": cells.value[i, j], "low": cells.low[i, j], "high": cells.high[i, j]}
            | {"n": cells.n, "contexts": clusters}
            for i, condition in enumerate(self.conditions)
            for j, start in enumerate(self.starts)
        ]
        return pd.DataFrame(rows)


def sweep(
    subject: Subject,
    prompts: Prompts,
    *,
    conditions: Sequence[Condition] = CONDITIONS,
    starts: Sequence[int] | None = None,
    seed: int = 0,
    batch: int = 70,
    method: Method = "replay",
    store: Store | None = None,
    executor: Executor | None = None,
    recording: Recording | None = None,
) -> Curves:
    """Cut each condition's path in all heads of the layers from each start layer to the top, and read the answer.

    Args:
        subject: the model.
        prompts: n prompts with right answers.
        conditions: which position may no longer attend to which.
        starts: layers from 0 to their number, where nothing is cut; by default all of these.
        seed: of the random keys.
        batch: prompts that are recorded at a time.
        method: "replay", or "definition": the same numbers from whole runs.
        store: keeps finished batches, unless they come from a `recording`: no key says how that was made.
        executor: does them in other processes (see `work`); the same numbers.
        recording: of all these prompts; made in batches unless given.

    Returns `Curves`. Raises `ValueError`, before the model runs, for an unknown condition or start layer, a condition
    that cuts nothing, a prompt without a right answer, or a recording of other prompts. Paper: the attention knockout
    experiment.

    Cost, in tokens put through one layer, for L layers: start layer s takes L - s for a path from `last`, three times
    that for one from `query` (the tokens from there to `last`), so a condition L * (L + 1) / 2 times 1 or 3 a prompt,
    and one product with the vocabulary a start layer; by definition it is L * L times the length of the prompt. For
    24 layers and 53 tokens that is 300 or 900 against 30,528.

        from entity_circuits import knockout, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p = tasks.default.prompts(subject, n=14)
        print(knockout.recovery(knockout.sweep(subject, p, conditions=["last->object"])))
    """
    way(method, subject)  # what cannot be is told before anything runs
    work.require(executor, subject, given=recording)
    wanted = range(subject.layers + 1)
    batch, seed = integer("batch", batch), integer("seed", seed, least=None)
    most = subject.layers
    given = wanted if starts is None else several("start layers", starts)
    starts = tuple(sorted({integer("start layer", start, 0, most) for start in given}))
    conditions = several("conditions", conditions)
    if unknown := [name for name in conditions if name.count("->") != 1]:
        raise ValueError(f"no condition called {unknown[0]!r}: two places, as in {', '.join(CONDITIONS)}")
    require_answers(prompts)
    if recording is not None:
        recording.require(subject, prompts)
    random = any(name.endswith("->random") for name in conditions)
    keys = prompts.random_keys(subject.tokenizer, seed) if random else prompts.last
    paths = torch.stack([torch.stack(_path(prompts, name, keys)) for name in conditions])  # conditions, 2, n
    for name, (reader, key) in zip(conditions, paths, strict=True):
        if bool((key > reader).all()):
            raise ValueError(f"{name!r} cuts nothing: in every prompt the key comes after the token that should see it")
    batches = torch.arange(len(prompts)).split(batch)

    def units() -> Iterator[work.Unit]:
        for rows in batches:
            part, here = prompts.select(rows), paths[:, :, rows.to(paths.device)]
            inputs = results.key(__name__, subject, prompts=part, paths=here, starts=starts, method=method)
            recorded = None if recording is None else recording.select(rows)
            compute = partial(_answers, subject, part, here, starts, method, recorded)
            yield work.Unit("knockout", inputs, compute, __name__, (subject,))

    found = work.done(units(), store if recording is None else None, executor)
    parts = list(tqdm(found, "knockout", len(batches), unit="part", disable=None, leave=False))
    correct, logprob = (torch.cat([part[name] for part in parts], dim=-1) for name in ("correct", "logprob"))
    return Curves(conditions, starts, subject.layers, correct, logprob, prompts.contexts.cpu())


def _answers(
    subject: Subject,
    prompts: Prompts,
    paths: Tensor,
    starts: tuple[int, ...],
    method: Method,
    recording: Recording | None,
) -> dict[str, Tensor]:
    """(conditions, starts, n) each: what is answered under each cut, from a recording if there is one."""
    recorded = runs.record(subject, prompts, share_context=True) if recording is None else recording
    outcomes = [
        way(method)(recorded, [cut(subject, position, key, start) for position, key in paths])
        for start in tqdm(starts, desc="start layers", disable=None, leave=False)
    ]
    return {
        "correct": torch.stack([outcome.top == prompts.answer_ids for outcome in outcomes], dim=1),
        "logprob": torch.stack([outcome.logprob for outcome in outcomes], dim=1),
    }


def cut(subject: Subject, position: Tensor, key: Tensor, start: int) -> list[Edit]:
    """The edits of one knockout: in layers `start` to the top, no head attends from `position` (n,) to `key` (n,).

    A key after its position is masked anyway, so that cutting it changes nothing. Raises `ValueError` where `position`
    would be left with nothing to attend to: the first token sees only itself. A start layer equal to the number of
    layers cuts nothing, another one that is not there is refused.

        from entity_circuits import knockout, models, replay, runs, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p = tasks.default.prompts(subject, n=7)
        cuts = [knockout.cut(subject, p.last, p.object, start) for start in (0, 2)]
        print(replay.replay(runs.record(subject, p), cuts).top == p.answer_ids)
    """
    start = integer("start layer", start, 0, subject.layers)
    if bool(((position == 0) & (key == 0)).any()):
        raise ValueError("the first token of a prompt attends only to itself: this cut would leave it nothing")
    every = tuple(range(subject.heads))
    return [Edit("score", layer, every, position, key=key) for layer in range(start, subject.layers)]


def recovery(
    curves: Curves, circuit: Circuit | None = None, *, draws: int = bootstrap.DRAWS, seed: int = 0
) -> pd.DataFrame:
    """The layers in which each cut path does its work: one row a condition.

    What a cut at the lowest start layer takes from the accuracy without a cut is `lost`. To find where it comes back,
    the curve is first made one that never falls (isotonic regression), so that no single point decides. It comes back
    between the start layer at which a tenth is back and the one at which nine tenths are; the layers below carried
    that: `first` is the start layer before the one, `last` the layer just below the other. Both have 95% bounds (over
    contexts; draws in which nothing is lost are left out). Where the interval of `lost` reaches zero there is nothing
    to come back, and they are missing. Accuracies and `lost` are fractions; `n` is the number of prompts.

    With a circuit: the group that should attend along this path, its lowest and highest layer, and the share of its
    heads `inside` the range. Raises `ValueError` unless the curves hold a cut and the start layer that cuts nothing.

        from entity_circuits import knockout, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p = tasks.default.prompts(subject, n=14)
        print(knockout.recovery(knockout.sweep(subject, p))[["condition", "lost", "first", "last"]])
    """
    draws, seed = integer("draws", draws), integer("seed", seed, least=0)
    if len(curves.starts) < 2 or curves.starts[-1] != curves.layers:
        raise ValueError("a recovery needs the lowest cut and, as last start layer, the one that cuts nothing")
    contexts, groups = np.unique(curves.contexts.numpy(), return_inverse=True)
    generator = np.random.default_rng(seed)  # draws counts at once, where `bootstrap.resampled` draws contexts
    times = generator.multinomial(len(contexts), np.full(len(contexts), 1 / len(contexts)), size=draws).T
    rows = []
    for condition, correct in zip(curves.conditions, curves.correct, strict=True):
        lost = statistics.difference(correct[-1], correct[0], curves.contexts)
        row: dict[str, object] = {
            "condition": condition,
            "cut": float(correct[0].double().mean()),
            "uncut": float(correct[-1].double().mean()),
            "lost": lost.value,
            "lost_low": lost.low,
            "lost_high": lost.high,
        }
        span: dict[str, int | None] = dict.fromkeys(
            ("first", "first_low", "first_high", "last", "last_low", "last_high")
        )
        if lost.low > 0:  # false for NaN, too: a single context
            accuracy = correct.double().numpy()
            drawn = bootstrap.means(accuracy, groups, times)
            values = _span(accuracy.mean(axis=1, keepdims=True), curves.starts)
            spreads = _span(drawn, curves.starts)
            for end, value, spread in zip(("first", "last"), values, spreads, strict=True):
                low, high = np.quantile(spread, [0.025, 0.975], method="inverted_cdf")
                span |= {end: int(value[0]), f"{end}_low": int(low), f"{end}_high": int(high)}
        row |= {**span, "n": lost.n}
        if circuit is not None:
            row |= _group(circuit, READS.get(condition), span)
        rows.append(row)
    table = pd.DataFrame(rows)
    whole = [name for name in table if str(name).startswith(("first", "last", "heads_"))]
    return table.astype(dict.fromkeys(whole, "Int64"))


def words(table: pd.DataFrame) -> list[str]:
    """Rows of `recovery` as text, of the paths along which a group attends: in which layers each look is needed.

    A path whose cut surely takes nothing from the accuracy is needed in none.

        from entity_circuits import knockout, models, tasks

        subject = models.load("qwen2.5-coder-0.5b")
        p = tasks.default.prompts(subject, n=14)
        print("; ".join(knockout.words(knockout.recovery(knockout.sweep(subject, p)))))
    """
    rows = table[table["condition"].isin(READS)].to_dict("records")
    return [
        f"{row['condition'].replace('->', ' to ')}, "
        + ("none (nothing is surely lost)" if pd.isna(row["first"]) else f"{row['first']} to {row['last']}")
        for row in rows
    ]


def _span(accuracy: np.ndarray, starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """First and last layer of the recovery of each column of accuracies (starts, draws) that recovers at all."""
    curve = _never_falling(accuracy)
    curve = curve[:, curve[-1] > curve[0]]
    share = (curve - curve[0]) / (curve[-1] - curve[0])
    layers = np.asarray(starts)
    begun, done = ((share >= part - 1e-9).argmax(axis=0) for part in (BEGUN, DONE))
    return layers[begun - 1], layers[done] - 1


def _never_falling(values: np.ndarray) -> np.ndarray:
    """Each column replaced by the nearest one (least squares) that never falls, by the min-max formula: at each place,
    the largest over all beginnings up to it of the smallest mean from there to an end not before it."""
    n = len(values)
    total = np.concatenate([np.zeros_like(values[:1]), values.cumsum(axis=0)])
    found = np.full_like(values, -np.inf)
    for begin in range(n):
        means = (total[begin + 1 :] - total[begin]) / np.arange(1, n - begin + 1)[:, None]
        found[begin:] = np.maximum(found[begin:], np.minimum.accumulate(means[::-1], axis=0)[::-1])
    return found


def _group(circuit: Circuit, group: Group | None, span: dict[str, int | None]) -> dict[str, object]:
    """The layers of a group's heads beside the range found."""
    layers = [head.layer for head in circuit.groups.get(group, ())] if group else []
    found: dict[str, object] = {
        "group": LETTERS[group] if group else None,
        "heads_first": None,
        "heads_last": None,
        "inside": np.nan,
    }
    if layers:
        found |= {"heads_first": min(layers), "heads_last": max(layers)}
        first, last = span["first"], span["last"]
        if first is not None and last is not None:
            found["inside"] = sum(first <= layer <= last for layer in layers) / len(layers)
    return found


def _path(prompts: Prompts, condition: Condition, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Reading and key positions (n,) of a condition."""
    reader, key = condition.split("->")
    return prompts.position(reader), keys if key == "random" else prompts.position(key)
