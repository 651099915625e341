"""The official code's artefacts (B1 to B19), each beside the corrected number, on any model: rows of one table.

Every function takes what a chapter has made already (recordings, pairs, masks, scores), makes the official inputs to
the same public functions (`inputs`), and gives rows: `artefact`, `what`, `quantity`, `official` and
`corrected` with `_low` and `_high` where there is an interval, `n` and `touches`, the conclusion that is concerned.

    rows = artefacts.table([artefacts.floor(pairs, groups), artefacts.label_token(pairs, heads, "query")])
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd
import torch
from entity_circuits import runs, statistics
from entity_circuits.heads import POSITIONS, Group, Head
from entity_circuits.methods import cmap, interchange
from entity_circuits.methods.dcm import Mask
from entity_circuits.methods.interchange import Pairs, Position
from entity_circuits.models.subject import Subject
from entity_circuits.runs import replay
from entity_circuits.runs.recording import Recording
from entity_circuits.statistics import Estimate
from entity_circuits.tasks import boxes, vocabulary
from entity_circuits.tasks.boxes import Prompts

from . import inputs as official_pairs

ARTEFACTS: Mapping[str, tuple[str, str]] = {
    "B1": ("base index always 0, letters found anywhere", "floor of all positional numbers; group D"),
    "B2": ("attention outputs made with the base's o_proj", "every edited run of Goat"),
    "B3": ("positions counted from the padded end", "altered order of box and object"),
    "B4": ("label target encoded from a list", "evidence against the label hypothesis: void"),
    "B5": ("corrupt label position redrawn for every head", "ranking of group D"),
    "B6": ("threshold 0.01 for one model, 0 for others", "sizes of circuits"),
    "B7": ("second head of a pair kept if numbers are equal", "minimality"),
    "B8": ("random circuits drawn with replacement", "random baseline"),
    "B9": ("best of 16 snapshots, ties to more heads", "sizes of DCM's selections"),
    "B10": ("prev from the training batch in evaluation", "DCM of group D"),
    "B11": ("pairs unseeded", "DCM, to the second digit"),
    "B12": ("source read at the base's prev", "group D has no function"),
    "B13": ("list of A extended in place by B", "CMAP of A alone"),
    "B14": ("own position left out of k and v", "CMAP by inputs"),
    "B15": ("whole batch written for each example", "CMAP by inputs, group D"),
    "B16": ("ratios of accuracies rounded to two digits", "faithfulness, to the second digit"),
    "B17": ("contexts of discovery, means, evaluation overlap", "all of them, slightly"),
    "B18": ("mean of relative changes", "rankings"),
    "B19": ("inputs edited in place in shared tensors", "none here: it cannot happen"),
}
"""What each artefact does, and which conclusion it touches."""

COLUMNS = (
    "artefact", "what", "quantity", "official", "official_low", "official_high",
    "corrected", "corrected_low", "corrected_high", "n", "touches",
)  # fmt: skip


def table(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several artefacts in one table, in the order B1 to B19.

    print(artefacts.table([rows_of_b9, rows_of_b1])[["artefact", "quantity", "official", "corrected"]])
    """
    whole = pd.concat(list(parts), ignore_index=True)
    return whole.sort_values("artefact", key=lambda x: x.map(list(ARTEFACTS).index), kind="stable", ignore_index=True)


Number = Estimate | float


def entry(
    artefact: str, quantity: str, official: Number, corrected: Number, *, n: int | None = None
) -> dict[str, object]:
    """One row: the official and the corrected number, each with its interval if it has one."""
    row: dict[str, object] = {"artefact": artefact, "what": ARTEFACTS[artefact][0], "quantity": quantity}
    for name, value in (("official", official), ("corrected", corrected)):
        found = value if isinstance(value, Estimate) else Estimate(float(value), math.nan, math.nan, 0, 0)
        row |= found.cells(name)
    sizes = [value.n for value in (official, corrected) if isinstance(value, Estimate)]
    return row | {"n": n if n is not None else max(sizes, default=0), "touches": ARTEFACTS[artefact][1]}


def joined(*rows: dict[str, object]) -> pd.DataFrame:
    """Entries as a table."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def hits(pairs: Pairs, sets: Mapping[str, Sequence[Head]], position: Position) -> dict[str, Estimate]:
    """How often the target is answered, by what is patched, "no patch" included."""
    rows = interchange.patch(pairs.subject, sets, pairs, position=position).groupby("patched", sort=False)
    return {str(name): statistics.estimate(part["hit"].to_numpy(), part["context"].to_numpy()) for name, part in rows}


def floor(pairs: Pairs, groups: Mapping[Group, Sequence[Head]], *, seed: int = 0, draws: int = 50) -> pd.DataFrame:
    """B1: how often the official `position` pairs ask for one and the same position, and what that does to the floor.

    `pairs` are corrected ones for `position`; the official ones have the same base prompts, and their sources are among
    them. A row for the share of equal positions (over `draws` of official pairs, which need not be run), one for the
    answers without any patch, and one a group.

        artefacts.floor(pairs, circuit.groups)
    """
    theirs, ours = official_pairs.borrowed(pairs, "position", seed), pairs.towards("position")
    base, source = boxes.of(ours.triples.base), boxes.of(ours.triples.source)
    asked = torch.tensor(base.queries)
    drawn = [official_pairs.sources(base, "position", seed + draw) for draw in range(draws)]
    shares = torch.stack([asked == asked[there] for there in drawn]).double().mean(0)
    equal = statistics.estimate(shares, ours.triples.base.contexts)
    rule = float((asked == torch.tensor(source.queries)).double().mean())  # 0 by how they are drawn, so no interval
    rows = [entry("B1", "pairs that ask for the same position", equal, rule)]
    for group, heads in groups.items():
        one, other = (hits(some, {group: heads}, POSITIONS[group]) for some in (theirs, ours))
        if len(rows) == 1:
            rows.append(entry("B1", "target `position` without a patch", one["no patch"], other["no patch"]))
        rows.append(entry("B1", f"target `position`, {group} patched", one[group], other[group]))
    return joined(*rows)


def label_tokens(subject: Subject, words: Sequence[str]) -> pd.DataFrame:
    """B4: for each word the token that answers with it, and the one that encoding a list gives.

    One row a word: `word`, `answer` and `official` (as written in the vocabulary, None if there is none), `same`.
    """
    found = vocabulary.token_ids(subject.tokenizer, words)
    theirs = [official_pairs.list_token(subject.tokenizer, word) for word in found]
    pieces = subject.tokenizer.convert_ids_to_tokens
    return pd.DataFrame(
        {
            "word": list(found),
            "answer": pieces(list(found.values())),
            "official": [None if token < 0 else pieces(token) for token in theirs],
            "same": [a == b for a, b in zip(found.values(), theirs, strict=True)],
        }
    )


def label_token(pairs: Pairs, sets: Mapping[str, Sequence[Head]], position: Position, *, seed: int = 0) -> pd.DataFrame:
    """B4: official pairs for `label`, scored by the token that a list gives, and by the one that the model can say.

    A row for the share of targets that are tokens of an answer, one for "no patch" and one for each set of heads.

        artefacts.label_token(pairs, {"position_detector": circuit.groups["position_detector"]}, "query")
    """
    ours = official_pairs.borrowed(pairs, "label", seed)
    given = ours.triples
    asked = zip(boxes.of(given.base).worlds, boxes.of(given.source).asked, strict=True)
    words = [world.objects[world.labels.index(label)] for world, label in asked]
    tokens = torch.tensor([official_pairs.list_token(pairs.subject.tokenizer, word) for word in words])
    wrong = replace(given, targets=tokens.to(given.targets.device))
    same = statistics.estimate(wrong.targets == given.targets, given.base.contexts)
    one, other = (hits(replace(ours, triples=some), sets, position) for some in (wrong, given))
    rows = [entry("B4", "targets that are the answer's token", same, 1.0)]
    return joined(*rows, *(entry("B4", f"target `label`, {name}", one[name], other[name]) for name in one))


def padded(pairs: Pairs, heads: Sequence[Head], position: Position = "last") -> pd.DataFrame:
    """B3: sources of other lengths (the queried statement in another order), read at positions counted from the padded
    end and at each prompt's own. Runs the rewritten sources once, padding as text.

        artefacts.padded(pairs, circuit.groups["position_transmitter"])
    """
    given = official_pairs.altered_order(pairs.subject, pairs.triples)
    widened = replace(given, source=official_pairs.from_the_end(boxes.of(given.source)))
    recorded = [runs.record(pairs.subject, widened.source)]  # no attention sees what comes later, padding least of all
    theirs = official_pairs.reread(pairs, widened, recorded)
    ours = official_pairs.reread(pairs, given, recorded)
    off = statistics.estimate(given.source.last != widened.source.last, given.base.contexts)
    one, other = (hits(some, {"heads": heads}, position)["heads"] for some in (theirs, ours))
    return joined(
        entry("B3", "sources read at a padding token", off, 0.0),
        entry("B3", f"target `position`, heads patched at {position}", one, other),
    )


def other_position(pairs: Pairs, heads: Sequence[Head]) -> pd.DataFrame:
    """B12: group D patched from the base's `prev` in the source, and from the source's own. Runs the sources again.

    artefacts.other_position(pairs, circuit.groups["structure_reader"])
    """
    given, base, source = pairs.triples, boxes.of(pairs.triples.base), boxes.of(pairs.triples.source)
    moved = replace(given, source=replace(source, prev=base.prev))
    theirs = interchange.record(pairs.subject, moved, like=pairs)
    right = statistics.estimate(source.prev == base.prev, base.contexts)
    one, other = (hits(some, {"heads": heads}, "prev") for some in (theirs, pairs))
    return joined(
        entry("B12", "sources read at the label they ask for", right, 1.0),
        entry("B12", f"target `{given.desideratum}`, structure readers patched", one["heads"], other["heads"]),
    )


def unseeded(pairs: Pairs, heads: Sequence[Head], position: Position, *, draws: int = 10) -> pd.DataFrame:
    """B11: official pairs drawn again and again from the same prompts. The spread is highest minus lowest accuracy.

    artefacts.unseeded(pairs, circuit.groups["position_transmitter"], "last")
    """

    def accuracy(seed: int) -> float:
        return hits(official_pairs.borrowed(pairs, "position", seed), {"heads": heads}, position)["heads"].value

    found, same = [accuracy(seed) for seed in range(draws)], [accuracy(0) for _ in range(2)]
    spread = [max(values) - min(values) for values in (found, same)]
    return joined(entry("B11", f"spread of accuracy over {draws} runs", *spread, n=len(pairs)))


def training_positions(
    train: Prompts, validation: Pairs, heads: Sequence[Head], *, seed: int = 0, shift: int = 1000
) -> pd.DataFrame:
    """B10: official pairs of the validation prompts, patched and read at the `prev` of the training pairs.

    As there, row i takes that of row i modulo 32 of the training batch, and the validation rows begin `shift` rows
    later: with contexts asked about every box in turn, it is the right one in a seventh of the batches.

        artefacts.training_positions(train.triples.base, validation, circuit.groups["structure_reader"])
    """
    ours = official_pairs.borrowed(validation, "position", seed)
    rows = (torch.arange(len(validation)) % 32 - shift) % len(train)
    there = official_pairs.sources(train, "position", seed)[rows]
    given, base, source = ours.triples, train.prev[rows], train.prev[there]
    moved = replace(given, source=replace(boxes.of(given.source), prev=source))
    asked = official_pairs.sources(boxes.of(given.base), "position", seed)
    theirs = official_pairs.reread(validation, moved, validation.batches, asked)
    batches = [
        replace(part, prompts=replace(boxes.of(part.prompts), prev=base[some]))
        for part, some in zip(validation.batches, validation.rows, strict=True)
    ]
    theirs = replace(theirs, batches=tuple(batches))
    right = statistics.estimate(base == boxes.of(given.base).prev, given.base.contexts)
    one, other = (hits(some, {"heads": heads}, "prev")["heads"] for some in (theirs, ours))
    return joined(
        entry("B10", "prompts patched at the label they ask for", right, 1.0),
        entry("B10", "target `position`, structure readers patched", one, other),
    )


def snapshots(mask: Mask, validation: Pairs, *, every: int = 4, steps: int = 64) -> pd.DataFrame:
    """B9: the masks that the official code looks at while it learns: after 1, 5, 9, ... of 64 steps, as they stand.

    One row a look: `step`, `heads` (how many round to patched), `accuracy` on the validation pairs, `patched` (their
    names), and `official`, whether this is the one that is saved: the highest accuracy, of equal ones the most heads.
    """
    looks = range(1, min(steps, len(mask.trace) - 1) + 1, every)
    sets = {
        step: tuple(head for head, keep in zip(mask.heads, mask.trace[step].tolist(), strict=True) if keep < 0.5)
        for step in looks
    }
    names = {some: f"{index}" for index, some in enumerate(dict.fromkeys(sets.values()))}
    found = hits(validation, {name: some for some, name in names.items()}, mask.position)
    rows = [
        {"step": step, "heads": len(some), "accuracy": found[names[some]].value, "patched": ", ".join(map(str, some))}
        for step, some in sets.items()
    ]
    best = max(rows, key=lambda row: (row["accuracy"], row["heads"], -row["step"]))  # type: ignore[operator]
    return pd.DataFrame(rows).assign(official=[row is best for row in rows])


def best_of_snapshots(mask: Mask, looks: pd.DataFrame, test: Pairs) -> pd.DataFrame:
    """B9: the heads of the saved snapshot against those that `dcm.learn` selects, and both on other pairs.

    artefacts.best_of_snapshots(mask, artefacts.snapshots(mask, validation), test)
    """
    saved = looks[looks["official"]].iloc[0]
    heads = [Head.parse(name) for name in saved["patched"].split(", ") if name]
    found = hits(test, {"official": heads, "corrected": mask.selected}, mask.position)
    return joined(
        entry("B9", f"heads selected of {len(mask.heads)}", len(heads), len(mask.selected), n=len(test)),
        entry("B9", f"target `{mask.desideratum}`, selected heads patched", found["official"], found["corrected"]),
    )


def cross_model(base: Recording, tuned: Recording, groups: Mapping[Group, Sequence[Head]]) -> pd.DataFrame:
    """B13, B14 and B15: right answers of the base model under patches from the fine-tuned one, run on the same prompts.

    B13: "A alone" after its list was extended by B. B14: keys and values of A, the head's own token left out (it has
    the base's own then). B15: queries of D, written for the whole batch at each example's `prev`, so that the last
    example's is what stays. A row for each, and one for how many heads or prompts are concerned. Paper: section 6.

        artefacts.cross_model(runs.record(base, p), runs.record(tuned, p), circuit.groups)
    """
    prompts = boxes.of(base.prompts)
    a, b, d = (tuple(groups.get(name, ())) for name in ("value_fetcher", "position_transmitter", "structure_reader"))
    extended = list(dict.fromkeys([*a, *b]))
    alone, more = (cmap.Condition(name, {"last": some}) for name, some in (("A", a), ("A and B", extended)))
    inputs = cmap.edits_of(cmap.Condition("A", {"last": a}, ("k", "v")), base, tuned)
    n = torch.arange(len(base))
    without = []
    for edit in inputs:
        assert edit.value is not None
        value = edit.value.clone()
        site: Literal["k", "v"] = "k" if edit.site == "k" else "v"
        value[n, prompts.last] = base.at(site, edit.layer, prompts.last)[:, list(edit.heads)]
        without.append(replace(edit, value=value))
    queries = [cmap.Condition("D", {"prev": d}, ("q",))] if d else []  # a shallow model may have no D
    one = torch.full_like(prompts.prev, int(prompts.prev[-1]))
    moved = [replace(part, prompts=replace(prompts, prev=one)) for part in (base, tuned)]
    variants = [
        cmap.edits_of(more, base, tuned),
        cmap.edits_of(alone, base, tuned),
        without,
        inputs,
        *([edit for some in queries for edit in cmap.edits_of(some, *both)] for both in (moved, (base, tuned))),
    ]
    right = replay.replay(base, variants).top == prompts.answer_ids
    found = [statistics.estimate(values, prompts.contexts) for values in right]
    same = statistics.estimate(one == prompts.prev, prompts.contexts)
    return joined(
        entry("B13", "heads patched as `A alone`", len(extended), len(set(a)), n=len(base)),
        entry("B13", "accuracy, outputs of A from the tuned model", *found[:2]),
        entry("B14", "accuracy, keys and values of A from the tuned model", *found[2:4]),
        entry("B15", "prompts patched at their own `prev`", same, 1.0),
        entry("B15", "accuracy, queries of D from the tuned model", *found[4:]),
    )
