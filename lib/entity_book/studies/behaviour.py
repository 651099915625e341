"""What a model says, told as the kinds of answer that the task knows: the right object, another one, a label."""

import time
from typing import Literal, get_args

import pandas as pd
import torch
from entity_circuits import statistics
from entity_circuits.models.subject import Subject
from entity_circuits.runs.answers import Behaviour, evaluate
from entity_circuits.tasks import boxes
from entity_circuits.tasks.boxes import Prompts

AnswerKind = Literal["the right object", "another object", "a label", "something else"]


def table(found: Behaviour) -> pd.DataFrame:
    """One row a prompt, for figures and `statistics.by`.

    `position` (from 1) is the place of the queried box in the context; `kind` says what was said (`AnswerKind`). If an
    object of the context was said, `said_position` is its place and `distance` how many boxes too late it is
    (negative: too early). `answer_prob` and `objects_prob` are the probabilities of the right object and of all
    objects of the context together, `answer_logprob` the logarithm of the former in nats. `chosen`: the right object
    is more likely than every other object of the context, whatever else is said.

        table = behaviour.table(answers.evaluate(subject, p))
        print(table.kind.value_counts())
    """
    prompts = boxes.of(found.prompts)
    hit = prompts.object_ids == found.top[:, None]
    place = torch.where(hit.any(1), hit.int().argmax(1), -1).tolist()
    chosen = found.chosen.tolist()
    rows = []
    for i, (world, query) in enumerate(zip(prompts.worlds, prompts.queries, strict=True)):
        kind = _kind(bool(found.correct[i]), place[i] >= 0, found.said[i].strip() in world.labels)
        rows.append(
            {
                "prompt": i,
                "context": int(prompts.contexts[i]),
                "boxes": prompts.boxes,
                "position": query + 1,
                "asked": prompts.asked[i],
                "object": world.objects[query],
                "said": found.said[i],
                "kind": kind,
                "correct": bool(found.correct[i]),
                "chosen": chosen[i],
                "said_position": place[i] + 1 if place[i] >= 0 else None,
                "distance": place[i] - query if place[i] >= 0 else None,
                "answer_logprob": float(found.answer_logprob[i]),
                "answer_prob": float(found.answer_logprob[i].exp()),
                "objects_prob": float(found.object_logprob[i].exp().sum()),
                "rank": int(found.rank[i]),
            }
        )
    table = pd.DataFrame(rows).astype({"said_position": "Int64", "distance": "Int64"})
    return table.assign(kind=pd.Categorical(table["kind"], categories=get_args(AnswerKind)))


MEASURES = {"top-1": "correct", "object choice": "chosen"}
"""The two accuracies: the right object before every other word, and before every other object of the context."""


def both(table: pd.DataFrame, columns: str | list[str]) -> pd.DataFrame:
    """Both accuracies of the rows of `table`, one row a group of `columns` and `measure`, as `statistics.by` has them.

    print(behaviour.both(behaviour.table(answers.evaluate(subject, p)), "position"))
    """
    parts = [statistics.by(table, columns, column).assign(measure=name) for name, column in MEASURES.items()]
    return pd.concat(parts, ignore_index=True)


def distances(table: pd.DataFrame) -> pd.DataFrame:
    """Where a wrong object of the context was said: how far it stands from the right one, and how far a guess would.

    `table` is `table` for one number of boxes. One row a distance (in boxes, negative: before the right
    one), with the number `n` of such errors, their `share`, and the share `guess` expected if every other object of the
    same prompts were equally likely.

        print(behaviour.distances(behaviour.table(answers.evaluate(subject, p))))
    """
    (boxes,) = table["boxes"].unique()
    wrong = table[table["kind"] == "another object"]
    places = range(1, boxes + 1)
    guess = pd.Series([other - right for right in wrong["position"] for other in places if other != right], dtype=int)
    rows = [step for step in range(1 - boxes, boxes) if step]
    counts = wrong["distance"].astype(int).value_counts().reindex(rows, fill_value=0)
    expected = guess.value_counts().reindex(rows, fill_value=0)
    return pd.DataFrame(
        {
            "distance": rows,
            "n": counts.to_numpy(),
            "share": (counts / max(len(wrong), 1)).to_numpy(),
            "guess": (expected / max(len(guess), 1)).to_numpy(),
        }
    )


def sharing(subject: Subject, prompts: Prompts, batch: int = 70) -> pd.DataFrame:
    """What sharing the context saves: tokens run and seconds taken, with and without, and how far the results differ.

    One row each way; `largest_difference` is in log-probability of the right object, `same_answer` the share of prompts
    with the same most likely token. Seconds depend on the machine and on what else it does.

        print(behaviour.sharing(subject, boxes.prompts(subject, n=21)))
    """
    rows, results = [], []
    for share in (False, True):
        start = time.perf_counter()
        results.append(evaluate(subject, prompts, share_context=share, batch=batch))
        seconds = time.perf_counter() - start
        tokens, name = results[-1].tokens_computed, "shared" if share else "repeated"
        rows.append({"context": name, "tokens": tokens, "tokens_per_prompt": tokens / len(prompts), "seconds": seconds})
    whole, shared = results
    same = (whole.top == shared.top).double().mean().item()
    apart = (whole.answer_logprob - shared.answer_logprob).abs().max().item()
    return pd.DataFrame(rows).assign(same_answer=same, largest_difference=apart)


def _kind(right: bool, in_context: bool, is_label: bool) -> AnswerKind:
    if right:
        return "the right object"
    if in_context:
        return "another object"
    return "a label" if is_label else "something else"
