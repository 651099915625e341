"""Many senders, one after the other: each layer of them on each chunk of examples is a piece of work (`work`).

What path patching and edges do alike: the base run is measured as it is, then once a sender (and receiver); the
difference is the sender's effect, and exactly none where its output in the source is that of the base.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import results
from ..results import Store
from ..runs.recording import Recording
from ..runs.replay import Method
from ..runs.replay import executor as way
from . import metrics, work
from .metrics import Metric
from .recorded import CHUNK, Recorded, Runs
from .scores import Scores


@dataclass(frozen=True)
class Layer:
    """The senders of one layer.

    Args:
        name: under which their results are kept.
        words: what these depend on, beside prompts and all that is asked.
        patched: of the recordings of some examples: `logprob` with each of them replaced, and `same`, where nothing is.
        place: where in the table of all changes they stand, the examples apart.
    """

    name: str
    words: Mapping[str, object]
    patched: Callable[[Recorded], dict[str, Tensor]]
    place: tuple[Any, ...]


def swept(
    module: str,
    runs_: Runs,
    chosen: Tensor,
    layers: Sequence[Layer],
    shape: tuple[int, int],
    *,
    asked: Mapping[str, Any],
    store: Store | None,
    executor: Executor | None,
    what: str,
) -> Scores:
    """The changes of all senders on the chosen examples, NaN where no layer has any.

    Args:
        module: that asks, by its `__name__`: its code counts.
        runs_: of all examples.
        chosen: (m,) int64, which of them.
        layers: the senders.
        shape: of the table of changes, the examples apart.
        asked: all that is asked of them, with `method` and `metric`.
        store: keeps finished layers, but none of recordings that were given: no key says how these were made.
        executor: does the work; without, it is done here.
        what: the progress bar says.
    """
    subject, parts, store = runs_.subject, chosen.split(CHUNK), None if runs_.made_elsewhere else store
    unedited = partial(unpatched, method=asked["method"], metric=asked["metric"])

    def units() -> Iterator[work.Unit]:
        for rows in parts:
            recorded, prompts = runs_.part(rows), {"base": runs_.base.select(rows), "source": runs_.source.select(rows)}
            inputs = results.key(module, subject, **prompts, **asked)
            yield work.Unit("clean", inputs, partial(unedited, recorded), module, (subject,))
            for one in layers:
                given = partial(one.patched, recorded)
                yield work.Unit(one.name, {**inputs, **one.words}, given, module, (subject,))

    found, changes, clean = work.done(units(), store, executor), [], []
    with tqdm(total=len(parts) * len(layers), desc=what, disable=None, leave=False) as progress:
        for rows in parts:
            clean.append(next(found))
            was = clean[-1]["logprob"]
            change = torch.full((*shape, len(rows)), torch.nan, dtype=was.dtype)
            for one in layers:
                shard = next(found)
                change[one.place] = (shard["logprob"] - was).masked_fill(shard["same"], 0.0)
                progress.update()
            changes.append(change)
    logprob, correct = (torch.cat([one[name] for one in clean]) for name in ("logprob", "correct"))
    contexts = runs_.base.contexts.cpu()[chosen]
    return Scores(torch.cat(changes, dim=-1), logprob, correct, contexts, asked["metric"].log)


def unpatched(recorded: Recorded, method: Method, metric: Metric) -> dict[str, Tensor]:
    """(n,) each: the metric of the base run itself, as `logprob`, and whether the answer is right by it, `correct`."""
    execute, base = way(method), recorded()[0]
    outcome = execute(base, [[]], targets=metric.targets(base.prompts), vocabulary=metric.vocabulary)
    found = {"logprob": metrics.number, "correct": metrics.verdict}
    return {name: read(metric, outcome, base.prompts)[0] for name, read in found.items()}


def unchanged(base: Recording, source: Recording, layer: int, senders: tuple[int, ...], position: str) -> Tensor:
    """(senders, n) bool: where the source's z is the base's own. Nothing is replaced there: exactly no effect.

    Args:
        base: the recording of n prompts.
        source: that of n others.
        layer: of the senders.
        senders: head numbers.
        position: where z is compared, each prompt's own.
    """
    was = base.at("z", layer, base.prompts.position(position))
    given = source.at("z", layer, source.prompts.position(position))
    return (was == given).all(-1)[:, list(senders)].T.contiguous().cpu()
