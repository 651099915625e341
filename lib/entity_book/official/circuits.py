"""The official code's artefacts in how circuits are found and judged (B2, B5 to B8, B16 to B19): rows of that table."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from entity_circuits import agreement, bootstrap, runs, statistics, units
from entity_circuits.circuits import criteria
from entity_circuits.circuits.criteria import Minimality
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation, interchange, path_patching
from entity_circuits.methods.ablation import Answers
from entity_circuits.methods.interchange import Position
from entity_circuits.methods.kept import Kept
from entity_circuits.methods.path_patching import Reach, Scores
from entity_circuits.models.subject import Subject
from entity_circuits.runs import replay
from entity_circuits.runs.edits import Edit
from entity_circuits.runs.mean_replay import Means
from entity_circuits.runs.recording import Recording
from entity_circuits.statistics import Estimate
from entity_circuits.tasks.boxes import Prompts
from torch import Tensor

from . import inputs
from .artefacts import entry, joined


def unmerged(base: Subject, tuned: Subject, prompts: Prompts) -> pd.DataFrame:
    """B2: the fine-tuned model when every attention output is made anew with the base's `o_proj`, nothing edited.

    A row for its accuracy, and one for the score that round 1 of path patching then gives a head whose output does
    not change. Runs the prompts twice.

        official.unmerged(*models.load_pair("code"), p)
    """
    rebuilt = inputs.without_o(base, tuned)
    recorded = [runs.record(model, prompts, share_context=True) for model in (rebuilt, tuned)]
    accuracy = [statistics.estimate(interchange.top(one) == prompts.answer_ids, prompts.contexts) for one in recorded]
    clean = replay.recorded_answers(recorded[1]).logprob[0]
    same = [Edit("z", 0, (0,), prompts.last, recorded[1].at("z", 0, prompts.last)[:, [0]])]
    replay.replay(recorded[0], [[]])  # checks replay on this model, with a run of its own
    scores = []
    for model in (rebuilt, tuned):  # frozen: all z at `last` as in the clean run, outputs made by this model
        after = replay.replay(replace(recorded[1], subject=model), [same], frozen=True).logprob[0]
        scores.append(torch.expm1(after - clean))
    theirs = statistics.estimate(scores[0], prompts.contexts)
    ours = float(scores[1].mean())  # 0 by definition, so no interval
    return joined(
        entry("B2", "accuracy, nothing edited", *accuracy),
        entry("B2", "round-1 score of a head that does not change", theirs, ours),
    )


def redraws(
    base: Recording,
    source: Recording,
    receivers: Sequence[Head],
    *,
    senders: Sequence[Head] | None = None,
    reach: Reach = "query",
) -> dict[str, tuple[Scores, Scores]]:
    """B5: round 4 twice with label positions drawn for every head, and twice with one draw shared by all heads.

    The senders are all heads unless given.

        twice = official_circuits.redraws(recording, source_recording, circuit.groups["position_detector"])
        official_circuits.redraw_rows(twice)
    """
    found = {}
    for name, drawn in (("official", inputs.redrawn), ("corrected", inputs.one_draw)):
        both = []
        for seed in (0, 1):
            there = drawn(source, seed)
            both.append(
                path_patching.sweep(
                    base.subject,
                    base.prompts,
                    there.prompts,
                    position="prev",
                    receivers=receivers,
                    senders=senders,
                    composition="v",
                    reach=reach,
                    recordings=(base, there),
                )
            )
        found[name] = (both[0], both[1])
    return found


def redraw_points(found: Mapping[str, tuple[Scores, Scores]]) -> pd.DataFrame:
    """One row a head with a path and kind of draw: `draws` (official or corrected), `head`, `first` and `second`."""
    rows = []
    for name, (one, other) in found.items():
        first, second = (scores.statistic("ratio_of_means") for scores in (one, other))
        for layer, head in torch.nonzero(~torch.isnan(first)).tolist():
            scores = {"first": float(first[layer, head]), "second": float(second[layer, head])}
            rows.append({"draws": name, "head": str(Head(layer, head)), **scores})
    return pd.DataFrame(rows, columns=["draws", "head", "first", "second"])


def redraw_rows(found: Mapping[str, tuple[Scores, Scores]], k: int = 5) -> pd.DataFrame:
    """B5: how two runs agree: the rank correlation of all heads, and how many of the first `k` they share."""
    agree = {name: rank_agreement(*both) for name, both in found.items()}
    first = {name: [set(scores.ranking()[:k]) for scores in both] for name, both in found.items()}
    shared = {name: len(one & other) for name, (one, other) in first.items()}
    n = len(found["official"][0].contexts)
    return joined(
        entry("B5", "rank correlation of two runs", agree["official"], agree["corrected"]),
        entry("B5", f"first {k} heads that two runs share", shared["official"], shared["corrected"], n=n),
    )


def rank_agreement(one: Scores, other: Scores) -> Estimate:
    """Spearman's correlation of two sweeps over the same prompts, with an interval by the jackknife over contexts.

    There may be four contexts, of which a bootstrap would promise too much: so each is left out in turn, of both sweeps
    together, and Student's t is taken over the pseudo-values, on the scale on which a correlation has no ends.
    """
    path = ~torch.isnan(one.mean) & ~torch.isnan(other.mean)
    groups = bootstrap.numbered(one.contexts)
    n = int(groups.max()) + 1

    def correlation(without: int = -1) -> float:
        weighted = []
        for scores in (one, other):
            weights = torch.as_tensor(groups != without, dtype=torch.float64) * scores.logprob.double().exp()
            weighted.append((scores.per_example[path].double() @ weights).numpy())
        return agreement.spearman(*weighted)

    whole = correlation()
    if n == 1:
        return Estimate(whole, math.nan, math.nan, len(groups), n)
    middle, *left = np.arctanh(np.clip([whole, *map(correlation, range(n))], -1 + 1e-9, 1 - 1e-9))
    half = units.over(n * middle - (n - 1) * np.array(left)).width / 2
    return Estimate(whole, float(np.tanh(middle - half)), float(np.tanh(middle + half)), len(groups), n)


def thresholds(found: Minimality) -> pd.DataFrame:
    """B6: how many heads stay by the two thresholds of the official code, 0 (Goat, FLoat) and 0.01 (Llama).

    official_circuits.thresholds(criteria.minimality(subject, circuit, p, means))
    """
    sizes = [ablation.size(found.kept(threshold)) for threshold in (0.0, 0.01)]
    ratios = found.table()["ratio"]
    n = found.whole.correct.shape[1]
    return joined(
        entry("B6", f"heads kept of {len(ratios)}: threshold 0, and 0.01", *sizes, n=n),
        entry("B6", "heads kept whose removal changes no answer", int((ratios == 0).sum()), 0, n=n),
    )


def pair_bug(
    subject: Subject, circuit: Circuit | Kept, prompts: Prompts, means: Means, found: Minimality
) -> pd.DataFrame:
    """B7: the same minimality result with the official table of pairs.

    Of two heads with the same number in different layers only the first is removed, and a pair with which nothing is
    right counts as missing. Stand-ins are chosen anew, and heads with other stand-ins are judged anew.

        official_circuits.pair_bug(subject, circuit, p, means, found)
    """
    halved, changed = 0, []
    for part, members in found.heads.items():
        pairs = found.pairs[part].clone()
        for i, one in enumerate(members):
            for j in range(i):
                if members[j].head == one.head:
                    pairs[i, j] = pairs[j, i] = found.pairs[part][j, j]
                    halved += 1
        for v, (head, before) in enumerate(zip(members, found.stand_ins[part], strict=True)):
            after = _stand_ins(pairs, members, v)
            if set(after) != set(before):
                changed.append((part, head, after))
    left = [
        ablation.without(circuit, {found.places[part]: gone})
        for part, head, some in changed
        for gone in (some, (*some, head))
    ]
    judged = {}
    if left:
        right = ablation.circuit_accuracy(subject, left, prompts, means, name="official stand-ins").correct.sum(1)
        for (part, head, _), (before, after) in zip(changed, right.reshape(-1, 2).tolist(), strict=True):
            judged[part, str(head)] = before / after - 1 if after else (math.inf if before else 0.0)
    whole = found.table()
    pairs_ = zip(whole["part"], whole["head"], whole["ratio"], strict=True)
    theirs = [judged.get((part, head), ratio) for part, head, ratio in pairs_]
    n = found.whole.correct.shape[1]
    return joined(
        entry("B7", "pairs of which one head is removed", halved, 0, n=n),
        entry("B7", "heads with other stand-ins", len(changed), 0, n=n),
        entry(
            "B7", "heads kept, threshold 0.01", sum(x >= 0.01 for x in theirs), int((whole["ratio"] >= 0.01).sum()), n=n
        ),
    )


def _stand_ins(pairs: Tensor, members: Sequence[Head], v: int, share: float = 0.3) -> tuple[Head, ...]:
    """K(v) as the official code finds it: a pair with which nothing is right is no candidate."""
    loss = {u: int(pairs[u, u] - pairs[u, v]) for u in range(len(members)) if u != v and pairs[u, v] > 0}
    ranked = sorted((u for u in loss if loss[u] > 0), key=lambda u: -loss[u])
    return tuple(members[u] for u in ranked[: math.ceil(share * len(members))])


def replacement(
    subject: Subject, circuit: Circuit | Kept, prompts: Prompts, means: Means, *, draws: int = 5, seed: int = 0
) -> pd.DataFrame:
    """B8: random circuits drawn with and without replacement: their different heads, and accuracy.

    official_circuits.replacement(subject, larger, p, means)
    """
    theirs = inputs.with_replacement(subject, circuit, draws, seed)
    ours = criteria.random_circuits(subject, circuit, draws, seed=seed)
    answers = ablation.circuit_accuracy(subject, [*theirs, *ours], prompts, means, name="random circuits")
    right = answers.correct.double()
    accuracy = [statistics.estimate(some.mean(0), answers.contexts) for some in (right[:draws], right[draws:])]
    sizes = [statistics.estimate([ablation.size(one) for one in some]) for some in (theirs, ours)]
    return joined(
        entry("B8", "different heads in a random circuit", *sizes),
        entry("B8", "accuracy of random circuits", *accuracy),
    )


def rounding(circuit: Answers, full: Answers, index: int = 0) -> pd.DataFrame:
    """B16: a circuit's accuracy over the model's, from rounded and from counted accuracies.

    The official bounds are the smallest and the largest ratio that round so; the corrected ones are an interval. No row
    for a model that is never right.
    """
    if not full.correct[0].any():
        return joined()
    return joined(
        entry(
            "B16",
            "faithfulness (left: what rounding allows)",
            rounded_ratio(float(circuit.correct[index].double().mean()), float(full.correct[0].double().mean())),
            statistics.ratio(circuit.correct[index], full.correct[0], circuit.contexts),
        )
    )


def rounded_ratio(circuit: float, full: float, digits: int = 2) -> Estimate:
    """The ratio of two accuracies after rounding, with the bounds of all ratios that round to the same two numbers.

    >>> print(rounded_ratio(0.73, 0.82))
    0.89 [0.88, 0.90], n = 0
    """
    above, below, half = round(circuit, digits), round(full, digits), 0.5 * 10**-digits
    if below <= half:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    return Estimate(above / below, max(above - half, 0) / (below + half), (above + half) / (below - half), 0, 0)


def overlapping_means(subject: Subject, circuit: Circuit | Kept, prompts: Prompts) -> pd.DataFrame:
    """B17: a circuit judged with means over the very contexts that it is judged on, and over as many others.

    official_circuits.overlapping_means(subject, larger, p)
    """
    contexts = len(set(prompts.worlds))
    both = [
        inputs.own_means(subject, prompts),
        ablation.means(subject, n=contexts, boxes=prompts.boxes),
    ]
    found = [ablation.circuit_accuracy(subject, circuit, prompts, means).estimate() for means in both]
    return joined(entry("B17", f"accuracy of the circuit, means over {contexts} contexts", *found))


def overlapping_rows(scores: Scores, k: int = 7, *, seed: int = 0) -> pd.DataFrame:
    """B17: the first `k` heads chosen on half of the contexts: their mean score there, and on the other half.

    official_circuits.overlapping_rows(scores)
    """
    chosen, other = halves(scores, seed)
    heads = chosen.ranking()[:k]
    values = []
    for part in (chosen, other):
        share = part.logprob.exp() / part.logprob.exp().mean()
        weighted = torch.stack([part.per_example[h.layer, h.head] for h in heads]).mean(0) * share
        values.append(statistics.estimate(weighted, part.contexts))
    return joined(entry("B17", f"score of the first {k} heads: rows that chose them, and others", *values))


def halves(scores: Scores, seed: int = 0) -> tuple[Scores, Scores]:
    """The scores over a random half of the contexts, and over the other half."""
    contexts = sorted(set(scores.contexts.tolist()))
    picked = set(random.Random(f"halves/{seed}").sample(contexts, len(contexts) // 2))
    inside = torch.tensor([context in picked for context in scores.contexts.tolist()])
    return scores.where(inside), scores.where(~inside)


def outliers(scores: Scores, k: int = 7, *, tenth: float = 0.1) -> pd.DataFrame:
    """B18: what decides the mean of relative changes, and what the ratio of means: all prompts, or the right ones only.

    A row for the share of all change that comes from the tenth of the prompts to which the model gives the right
    answer the least probability (unweighted, and weighted by probability), and one for how many of the first `k` heads
    of the robust ranking, on prompts answered rightly, the official ranking has.

        official_circuits.outliers(scores)
    """
    known = ~torch.isnan(scores.mean)
    change = scores.per_example[known].double().abs().sum(0)
    lowest = torch.argsort(scores.logprob)[: max(1, round(tenth * len(change)))]
    weighted = change * scores.logprob.double().exp()
    shares = [float(some[lowest].sum() / some.sum()) for some in (change, weighted)]
    result = [entry("B18", "share of all change that the least likely tenth makes", *shares, n=len(change))]
    if bool(scores.correct.any()):
        robust = set(scores.where(scores.correct).ranking()[:k])
        result.append(
            entry(
                "B18",
                f"first {k} heads shared with the robust ranking",
                len(robust & set(scores.ranking("mean")[:k])),
                k,
                n=int(scores.correct.sum()),
            )
        )
    return joined(*result)


def shared_tensors(recording: Recording, heads: Sequence[Head], position: Position = "last") -> pd.DataFrame:
    """B19: the numbers of a recording that differ after these heads were replaced by zeros in a replay of it.

    In the official code a hook overwrites the tensor that it is given. Here an edit is made in a copy: none differ.

        official_circuits.shared_tensors(recording, circuit.groups["value_fetcher"])
    """
    tables = [table for name in ("residual", "z", "k", "v") for table in getattr(recording, name)]
    kept = [table.clone() for table in tables]
    where, size = recording.prompts.position(position), recording.subject.head_size
    zero = torch.zeros(len(recording), 1, size, dtype=recording.subject.dtype)
    edits = [Edit("z", head.layer, (head.head,), where, zero) for head in heads]
    moved = replay.replay(recording, [[], edits]).logprob
    if bool((moved[0] == moved[1]).all()):
        raise ValueError("the edit changes no answer, so that it shows nothing: take heads that matter")
    changed = sum(int((a != b).sum()) for a, b in zip(kept, tables, strict=True))
    return joined(entry("B19", "recorded numbers changed by a replay", math.nan, changed, n=len(recording)))
