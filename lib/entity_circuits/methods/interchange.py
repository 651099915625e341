"""Activation patching between prompts: whole heads take the outputs they have in a source prompt. Paper, section 5.

The outputs z of some heads at one position of the base prompts are replaced by those of the source prompts, each read
at the source's own position of that name. Nothing is frozen: what comes after the patch is computed anew. `patch` says
which of the candidate answers the model then gives.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import runs
from ..arguments import integer, of_kind, one_of, several
from ..heads import Head, by_layer, require
from ..heads import of as heads_of
from ..models.subject import Subject
from ..runs import replay
from ..runs.edits import Edit, Outcome
from ..runs.recording import Recording
from ..runs.replay import Method, executor
from ..tasks.prompts import Prompts
from ..tasks.triples import Triples

Position = str
"""The name of a position that both prompts of a pair have."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Triples with the runs that patching needs: those of the base prompts, in batches, and the sources' z.

    `z` maps each position to (layers, n, heads, head_size), read in each source prompt at its own position of that
    name. `base_top` and `source_top` (n,) are the most likely tokens of both prompts as they are.
    """

    subject: Subject
    triples: Triples
    batches: tuple[Recording, ...]
    z: Mapping[Position, Tensor]
    base_top: Tensor
    source_top: Tensor

    def __len__(self) -> int:
        return len(self.triples)

    @property
    def rows(self) -> list[slice]:
        """The triples of each batch."""
        ends = np.cumsum([0, *map(len, self.batches)]).tolist()
        return [slice(begin, end) for begin, end in itertools.pairwise(ends)]

    def of(self, triples: Triples) -> "Pairs":
        """These pairs. Raises `ValueError` unless they were recorded of these triples."""
        if self.triples.digest != triples.digest:
            raise ValueError("these pairs were recorded of other triples than the answers are stored for")
        return self

    def towards(self, name: str) -> "Pairs":
        """The same runs with another candidate answer as the target: `pairs.towards("object")`."""
        return replace(self, triples=self.triples.towards(name))

    def batch(self, index: int) -> "Pairs":
        """The pairs of one batch."""
        index = integer("batch", index, 0, len(self.batches) - 1)
        rows = self.rows[index]
        return replace(
            self,
            triples=self.triples.select(torch.arange(len(self))[rows]),
            batches=(self.batches[index],),
            z={position: z[:, rows] for position, z in self.z.items()},
            base_top=self.base_top[rows],
            source_top=self.source_top[rows],
        )


@dataclass(frozen=True, eq=False)
class Answers:
    """What n base prompts lead to when each of some sets of heads is patched, and what both prompts lead to alone.

    `top` (sets, n) are the most likely tokens, `logprobs` (sets, n, k) those of all candidate answers, and `base_top`
    and `source_top` (n,) the most likely tokens of both prompts as they are.
    """

    top: Tensor
    logprobs: Tensor
    base_top: Tensor
    source_top: Tensor


def record(
    subject: Subject,
    triples: Triples,
    *,
    batch: int = 49,
    like: Pairs | None = None,
    positions: Sequence[Position] | None = None,
) -> Pairs:
    """Run base and source prompts once; every experiment on these pairs starts from here.

    Args:
        subject: the model.
        triples: n of them; 10 MB each for the default model in float32.
        batch: triples that are run at a time.
        like: pairs whose base runs are taken: triples of several desiderata and one seed have the same base prompts.
        positions: where the sources' z is kept; all that both prompts name unless given.

    Returns `Pairs`. Raises `ValueError` if the base prompts of `like` are others, or `batch` is 0.

        from entity_circuits import desiderata, interchange, models

        subject = models.load("qwen2.5-coder-0.5b")
        pairs = interchange.record(subject, desiderata.triples(subject, "position", n=7))
        print((pairs.source_top == pairs.triples.source.answer_ids).float().mean())
    """
    batch = integer("batch", batch)
    of_kind("triples", triples, Triples)
    if like is not None and not (like.subject is subject and like.triples.base.digest == triples.base.digest):
        raise ValueError("the base prompts of `like` are others: record these triples without it")
    positions = None if positions is None else several("positions", positions)
    for name in positions or ():
        triples.base.position(name), triples.source.position(name)
    every = torch.arange(len(triples))
    parts = every.tensor_split(-(-len(triples) // batch)) if like is None else [every[rows] for rows in like.rows]
    batches = [_run(subject, triples.base.select(part)) for part in parts] if like is None else like.batches
    shared = ["last", *(name for name in triples.base.positions if name in triples.source.positions)]
    found: dict[Position, list[Tensor]] = {name: [] for name in (shared if positions is None else positions)}
    tops = []
    for part in parts:
        source = _run(subject, triples.source.select(part))
        for position, z in found.items():
            where = source.prompts.position(position)
            z.append(torch.stack([source.at("z", layer, where).cpu() for layer in range(subject.layers)]))
        tops.append(top(source))
    base_top = torch.cat([top(part) for part in batches]) if like is None else like.base_top
    joined = {position: torch.cat(pieces, dim=1) for position, pieces in found.items()}
    return Pairs(subject, triples, tuple(batches), joined, base_top, torch.cat(tops))


def _run(subject: Subject, prompts: Prompts) -> Recording:
    return runs.record(subject, prompts, batch=len(prompts), share_context=True)


def check(subject: Subject, chosen: Iterable[Head | str], position: Position, *given: Triples | Pairs) -> None:
    """Raise `ValueError` for an unknown position, a head that the model has not, or pairs recorded with another one."""
    require(heads_of(chosen), subject.layers, subject.heads, "to be patched")
    for one in given:
        of_kind("triples", one, Triples, Pairs)
        if isinstance(one, Pairs):
            if one.subject is not subject:
                raise ValueError("these pairs were recorded with another model: record the triples with this one")
            if position not in one.z:
                raise ValueError(f"no position called {position!r} to patch at: these pairs have {', '.join(one.z)}")
        else:
            for prompts in (one.base, one.source):
                prompts.position(position)


def top(recording: Recording) -> Tensor:
    """(n,): the most likely tokens of the recorded run itself.

    For example:

        from entity_circuits import interchange, runs, toy

        print(interchange.top(runs.record(toy.subject(), toy.prompts("apple", "cup"))))  # [0, 1]
    """
    with torch.no_grad():
        return replay.recorded_answers(recording).top[0]


def edits(
    pairs: Pairs, batch: int, chosen: Sequence[Head], position: Position, keep: Tensor | None = None
) -> list[Edit]:
    """The edits of one batch: z of these heads from the source.

    Args:
        pairs: of n triples.
        batch: its index.
        chosen: the heads.
        position: where, in each prompt its own.
        keep: (heads,) from 1, what z is in the run, to 0, the source's; None: the source's.

    For example:

        from entity_circuits import interchange, toy
        from entity_circuits.tasks import triples

        pairs = interchange.record(toy.subject(), triples.between(toy.prompts("apple"), toy.prompts("cup")))
        print(interchange.edits(pairs, 0, ["L2H0"], "last")[0].layer)
    """
    batch = integer("batch", batch, 0, len(pairs.batches) - 1)
    one_of("position", position, pairs.z)
    chosen = heads_of(chosen)
    require(chosen, pairs.subject.layers, pairs.subject.heads, "to be patched")
    part, rows, place = pairs.batches[batch], pairs.rows[batch], {head: index for index, head in enumerate(chosen)}
    made = []
    for layer, numbers in by_layer(chosen).items():
        value = pairs.z[position][layer, rows][:, list(numbers)]
        kept = None if keep is None else keep[[place[Head(layer, number)] for number in numbers]]
        made.append(Edit("z", layer, numbers, part.prompts.position(position), value, keep=kept))
    return made


def outcomes(pairs: Pairs, sets: Sequence[Sequence[Head]], position: Position, method: Method = "replay") -> Outcome:
    """What the base prompts lead to when each set of heads is patched, for the target and then all candidates.

    For example:

        from entity_circuits import interchange, toy
        from entity_circuits.tasks import triples

        pairs = interchange.record(toy.subject(), triples.between(toy.prompts("apple"), toy.prompts("cup")))
        print(interchange.outcomes(pairs, [["L2H0"], ["L2H0", "L2H1"]], "last").logprobs)  # sets, n, 3
    """
    execute, parts, given = executor(method), [], pairs.triples
    sets = [heads_of(chosen) for chosen in several("sets of heads", sets)]
    targets = torch.cat((given.targets[:, None], given.candidates), dim=1)
    with torch.no_grad():
        for batch, (part, rows) in enumerate(zip(pairs.batches, pairs.rows, strict=True)):
            variants = [edits(pairs, batch, chosen, position) for chosen in sets]
            parts.append(execute(part, variants, targets=targets[rows]))
    return Outcome.joined(parts, dim=1)


def patch(
    subject: Subject,
    heads: Sequence[Head | str] | Mapping[str, Sequence[Head | str]],
    triples: Triples | Pairs,
    *,
    position: Position,
    method: Method = "replay",
) -> pd.DataFrame:
    """Replace z of these heads at `position` of each base prompt by the source's, and see what the model answers.

    Args:
        subject: the model.
        heads: one set, or several by name: these are patched one by one, "no patch" always beside them.
        triples: n of them, or `Pairs` recorded with this model.
        position: its name in both prompts.
        method: "replay", or "definition": the same numbers from whole runs.

    Returns one row a set and triple: `patched` and `size` (of the set), `desideratum`, `at`, `prompt`, `context`; what
    the task says of both prompts (`base_asked` and `source_asked`); `base_right` and `source_right`, whether each
    prompt by itself is answered rightly; the `answer` as the name of a candidate or `other`, whether it is the target
    (`hit`), and `target_logprob`, NaN for a target that is no candidate. `bystander` is 1/k where the answer is one of
    the k choices of the base that no hypothesis predicts, else 0: its mean is how often one such answer is said, the
    floor of a patch that only confuses. `chosen` says whether the target is more likely than every other candidate,
    whatever else is said; `among` whether the answer is one of the choices of either prompt at all.
    `statistics.by(table, "patched", "hit")` gives accuracies with intervals. Raises `ValueError` before any model runs.
    Paper: section 5.

        from entity_circuits import desiderata, interchange, models

        subject = models.load("qwen2.5-coder-0.5b")
        triples = desiderata.triples(subject, "object", n=7)
        table = interchange.patch(subject, ["L3H5", "L2H1"], triples, position="last")
        print(table.groupby("patched").answer.value_counts(normalize=True))
    """
    executor(method, subject)  # what cannot be is told before anything runs
    given = heads if isinstance(heads, Mapping) else {"these heads": heads}
    sets = {name: heads_of(chosen) for name, chosen in given.items()}
    check(subject, [head for chosen in sets.values() for head in chosen], position, triples)
    pairs = triples if isinstance(triples, Pairs) else record(subject, triples, positions=[position])
    sets = {"no patch": (), **sets}
    return tabulate(pairs.triples, sets, position, answers(pairs, list(sets.values()), position, method))


def answers(pairs: Pairs, sets: Sequence[Sequence[Head]], position: Position, method: Method = "replay") -> Answers:
    """What `patch` tabulates, for no particular target: one computation serves every `Pairs.towards`.

    For example:

        from entity_circuits import interchange, toy
        from entity_circuits.tasks import triples

        pairs = interchange.record(toy.subject(), triples.between(toy.prompts("apple"), toy.prompts("cup")))
        print(interchange.answers(pairs, [[], ["L2H0"]], "last").top)  # apple, and cup
    """
    executor(method)
    of_kind("pairs", pairs, Pairs)
    outcome = outcomes(pairs, sets, position, method)
    return Answers(outcome.top, outcome.logprobs[..., 1:], pairs.base_top, pairs.source_top)


def _share(unforeseen: Tensor, said: Tensor) -> list[float]:
    """For each row, one over the number of unforeseen objects if one of them is said."""
    number = unforeseen.sum(1).clamp(min=1)
    return ((unforeseen & said).any(1).double() / number).tolist()


def _ahead(logprobs: Tensor, target: Tensor) -> Tensor:
    """(n,): whether the `target` (n, k) of candidates has more than every other; one that is missing (NaN) has less."""
    rival = logprobs.nan_to_num(-torch.inf).masked_fill(target, -torch.inf).amax(1)
    return (logprobs > rival[:, None]).masked_fill(~target, False).any(1)


def tabulate(
    triples: Triples, sets: Mapping[str, Sequence[Head]], position: Position, answers: Answers
) -> pd.DataFrame:
    """The rows of `patch`, from answers that were computed (or stored) before: one set of heads a row of theirs."""
    common = {
        "desideratum": triples.desideratum,
        "at": position,
        "prompt": range(len(triples)),
        "context": triples.base.contexts.tolist(),
        **{f"base_{name}": values for name, values in triples.base.columns().items()},
        **{f"source_{name}": values for name, values in triples.source.columns().items()},
        "base_right": (answers.base_top == triples.base.answer_ids).tolist(),
        "source_right": (answers.source_top == triples.source.answer_ids).tolist(),
    }
    column = (triples.candidates == triples.targets[:, None]).int().argmax(1)
    choices = triples.base.choice_ids
    objects = (triples.candidates[:, :0] if choices is None else choices).to(column.device)
    unforeseen = (objects[:, :, None] != triples.candidates[:, None, :]).all(-1)
    others = triples.source.choice_ids
    known = torch.cat((objects, triples.candidates, objects if others is None else others.to(column.device)), dim=1)
    rows = torch.arange(len(triples), device=column.device)
    aim = triples.targets[:, None]
    target = (triples.candidates == aim) & (aim >= 0)  # all that are this token, if it is a candidate at all
    missed = ~target.any(1)
    tables = [
        pd.DataFrame(
            {
                "patched": name,
                "size": len(set(chosen)),
                **common,
                "answer": pd.Categorical(triples.kinds(answers.top[index]), [*triples.names, "other"]),
                "hit": (answers.top[index] == triples.targets).tolist(),
                "bystander": _share(unforeseen, objects == answers.top[index][:, None]),
                "target_logprob": answers.logprobs[index, rows, column].masked_fill(missed, torch.nan).tolist(),
                "chosen": _ahead(answers.logprobs[index], target).tolist(),
                "among": (known == answers.top[index][:, None]).any(1).tolist(),
            }
        )
        for index, (name, chosen) in enumerate(sets.items())
    ]
    return pd.concat(tables, ignore_index=True)
