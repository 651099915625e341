"""Does a group of heads recover more of the gap than as many others? Groups that share no head, and many random draws.

Groups of a circuit overlap: the fetching heads hold most of those that transmit the position. So parts of them are
patched that do not: the one without the other, the common heads, the low and the high layers. And three random draws
are no null distribution: some single heads move a model by themselves, and a draw is wild if it happens to hit one.
So there are a hundred for each part, each with its heads, and what a draw brings is told by the named heads it hits.
`data/draws/README.md` has the protocol, written down before anything was run.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from entity_circuits import intervals, models, places, units
from entity_circuits.arguments import integer, one_of
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import cmap
from entity_circuits.methods.cmap import ENDS, Condition, Patched
from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.statistics import spoken
from entity_circuits.tasks import boxes
from entity_circuits.tasks.prompts import Prompts

from . import improvement
from .trainings import Measure, rows

BASE, CIRCUIT = "qwen2.5-coder-0.5b", "code"
"""The model that is patched, and the one whose own circuit gives the groups: the same heads for every training."""

NAMED = ("L15H6", "L15H10", "L19H6")
"""Heads that path patching found harmful, or that stood in the wildest of three draws: each by itself, too."""

SPLIT = 20
"""The layer from which on a head of A counts as high."""

PLACES = 7
"""Prompts of a context, one a place in the list."""


def parts(circuit: Circuit, named: Sequence[str] = NAMED, split: int = SPLIT) -> tuple[Condition, ...]:
    """The circuit and its groups; A and B in parts that share no head; A by layers; the named heads one by one.

    print([one.name for one in random_draws.parts(circuit)])
    """
    split = integer("layer to split at", split)
    first, second = (set(circuit.groups.get(group, ())) for group in ("value_fetcher", "position_transmitter"))
    low = {head for head in first if head.layer < split}
    at_last = {
        "A without B": first - second,
        "B without A": second - first,
        "A and B": first & second,
        f"A, layers {split} up": first - low,
        f"A, layers up to {split - 1}": low,
        f"A without B, layers up to {split - 1}": low - second,
        **{name: {Head.parse(name)} for name in named},
    }
    made = tuple(Condition(name, {"last": sorted(some)}) for name, some in at_last.items() if some)
    return (*cmap.groups(circuit, combined=()), *made)


def drawn(asked: Sequence[Condition], split: int = SPLIT) -> tuple[Condition, ...]:
    """Those of `parts` that are held against random draws: at `last`, and more than a head or two."""
    wanted = ("B", "A without B", "A and B", f"A, layers {split} up", f"A, layers up to {split - 1}")
    return tuple(one for one in asked if one.name in wanted)


def draws(base: Subject, circuit: Circuit, count: int = 100) -> tuple[Condition, ...]:
    """Random heads for each of `drawn`: as many in each of its layers, none of them in A or in B.

    print(random_draws.draws(base, circuit, count=1)[0].heads)
    """
    known = [head for group in ("value_fetcher", "position_transmitter") for head in circuit.groups.get(group, ())]
    asked = drawn(parts(circuit))
    return tuple(one for part in asked for one in cmap.random_heads(base, part, count, without=known))


def fewer(prompts: Prompts) -> Prompts:
    """Two of the seven prompts of each context, at places that change from context to context: for the draws."""
    return prompts.select([i for i in range(len(prompts)) if (i % PLACES - i // PLACES) % PLACES in (0, 3)])


def measure(
    finetuned: str, contexts: int = 70, count: int = 100, *, store: Store | None = None
) -> tuple[Patched, Patched]:
    """The answers under `parts`, to all prompts of so many evaluation contexts, and under `draws`, to two a context.

    `finetuned` is a name of the registry or the folder of an adapter. The groups are those of the circuit of `CIRCUIT`.

        mine, random = random_draws.measure("code", contexts=3, count=2)
    """
    contexts, count = integer("contexts", contexts), integer("draws", count)
    base, tuned = models.load(BASE), models.load(finetuned)
    named = tuned if finetuned == CIRCUIT else models.load(CIRCUIT)
    circuit = improvement.circuit_of(named, base, store=store)
    prompts = boxes.prompts(base, PLACES * contexts, split="evaluation")
    return run(base, tuned, circuit, prompts, count, store=store)


def run(
    base: Subject, tuned: Subject, circuit: Circuit, prompts: Prompts, count: int = 100, *, store: Store | None = None
) -> tuple[Patched, Patched]:
    """The answers under `parts` to all of these prompts, and under `draws`, `count` for each part, to `fewer` of them.

    mine, random = random_draws.run(base, tuned, circuit, prompts, count=2)
    """
    named = [name for name in NAMED if Head.parse(name).layer < base.layers and Head.parse(name).head < base.heads]
    mine = cmap.sweep(base, tuned, parts(circuit, named), prompts, store=store)
    asked = (*drawn(parts(circuit)), *draws(base, circuit, count))
    # small batches: hundreds of conditions each take minutes, and a finished batch is not computed again
    return mine, cmap.sweep(base, tuned, asked, fewer(prompts), store=store, batch=14)


def keep(name: str, found: tuple[Patched, Patched], base: Subject, tuned: Subject, *, command: str) -> None:
    """Write both parts of `measure` to `folder`: `NAME.safetensors` and `NAME-random.safetensors`."""
    for ending, some in zip(("", "-random"), found, strict=True):
        improvement.keep(some, folder() / f"{name}{ending}.safetensors", base, tuned, command=command)


def kept(name: str, base: Subject) -> tuple[Patched, Patched] | None:
    """What `keep` wrote of a training, or None if it is not there or of another base."""
    paths = [folder() / f"{name}{ending}.safetensors" for ending in ("", "-random")]
    found = [improvement.read(path) for path in paths if path.exists()]
    there = [answers for pair in found if pair is not None for answers in [pair[1]] if pair[0][0] == base.fingerprint]
    return (there[0], there[1]) if len(there) == 2 else None


def folder() -> Path:
    """Where the answers are kept, two files a training."""
    return places.ROOT / "data" / "draws"


def by(found: Patched, measure: Measure) -> Patched:
    """The same answers with another measure in the place of top-1, so that its table and shares are about that."""
    one_of("measure", measure, Measure)
    if measure == "correct":
        return found
    if found.chosen is None or found.base_chosen is None or found.tuned_chosen is None:
        raise ValueError("the object choice was not kept with these answers: measure them again")
    return replace(found, correct=found.chosen, base_correct=found.base_chosen, tuned_correct=found.tuned_chosen)


def against(found: Patched, measure: Measure = "chosen") -> pd.DataFrame:
    """One row a part that has draws: its share of the gap, beside that of its draws, on the same prompts.

    `share` with `share_low` and `share_high` (over contexts); of the draws the middle `random`, `random_low` and
    `random_high`, between which 95% of them lie, and `draws`, how many; `above`, how many recover at least as much;
    `p`, how often a random draw would, (above + 1) / (draws + 1); `p_holm`, that for all parts together; `heads`, `n`.
    Where there is no gap there are no shares, and p says that nothing can be told: it is 1.

        print(random_draws.against(random_draws.kept("code", base)[1]))
    """
    scored = by(found, measure).table()
    lines = []
    for name, some in scored.groupby("condition", sort=False):
        own, random = some[some["draw"].isna()].iloc[0], some.loc[some["draw"].notna(), "share"].to_numpy()
        above = len(random) if own["no_share"] else int((random >= own["share"]).sum())
        low, middle, high = np.quantile(random, [0.025, 0.5, 0.975])
        about = {"condition": name, "heads": own["heads"], **own[["share", "share_low", "share_high"]].to_dict()}
        lines.append(
            {**about, "random": middle, "random_low": low, "random_high": high}
            | {"draws": len(random), "above": above, "p": (above + 1) / (len(random) + 1), "n": own["n"]}
        )
    made = pd.DataFrame(lines)
    return made.assign(p_holm=intervals.holm(made["p"].to_numpy()))


def table(found: Patched) -> pd.DataFrame:
    """One row a part: its share of the gap in the object choice, `choice`, and in `top-1`, with `_low` and `_high`.

    `heads` and `n` beside them. Shares are missing where a measure has no gap.

        print(random_draws.table(random_draws.kept("code", base)[0]))
    """
    cells: dict[str, object] = {}
    kinds: tuple[tuple[str, Measure], ...] = (("choice", "chosen"), ("top-1", "correct"))
    for name, measure in kinds:
        scored = by(found, measure).table()
        cells |= {f"{name}{end}": scored[f"share{end}"] for end in ENDS}
    return pd.DataFrame({"condition": scored["condition"], "heads": scored["heads"], **cells, "n": scored["n"]})


def words(against: pd.DataFrame, mine: Patched) -> dict[str, str]:
    """What `against` found, as text for a page to `glue`: each part's share, `high`, `low`, and the `verdict` of all.

    `named` are the single heads among the parts of `mine`, each with its share of the gap in the object choice.

        print(random_draws.words(random_draws.against(random), mine)["verdict"])
    """
    missing = ("high", "low", "A_without_B", "A_and_B")
    told, verdicts = dict.fromkeys(missing, "(no such heads)"), list[str]()
    for row in against.to_dict("records"):
        name, share = row["condition"], spoken(row["share"], row["share_low"], row["share_high"], ".0%")
        share = "no share (no gap)" if pd.isna(row["share"]) else share
        told[name.replace(", ", " ").replace(" ", "_")] = share
        told |= {"high": share} if name.endswith(" up") else {"low": share} if "up to" in name else {}
        more = "more than its draws" if row["p_holm"] < 0.05 else "NOT surely more than its draws"
        verdicts.append(f"{name} {share}, {more} (p = {row['p']:.3g}, {row['p_holm']:.3g} for the family)")
    single = table(mine)
    single = single[single["condition"].str.fullmatch(r"L\d+H\d+")]
    alone = [f"{x['condition']} {spoken(x['choice'], x['choice_low'], x['choice_high'], '.0%')}" for x in rows(single)]
    ends = {"verdict": "; ".join(verdicts), "n": str(against["n"].max()), "draws": str(against["draws"].max())}
    return {**told, **ends, "named": ", ".join(alone) or "(none of them is in this model)"}


def points(found: Patched, measure: Measure = "chosen", named: Sequence[str] = NAMED) -> pd.DataFrame:
    """One row a part and one a draw: `condition`, `draw`, `share` of the gap with bounds, which `named` heads it hits.

    print(random_draws.points(random).query("hits != ''"))
    """
    scored = by(found, measure)
    hits = [", ".join(name for name in named if Head.parse(name) in one.heads["last"]) for one in scored.conditions]
    columns = ["condition", "draw", "share", "share_low", "share_high"]
    return scored.table()[columns].assign(hits=hits)


def trainings(names: Sequence[str], base: Subject, measure: Measure = "chosen") -> pd.DataFrame:
    """One row a part: its share in each training whose answers are kept, and over these its mean with bounds (t).

    Columns `condition`, one a name, `mean`, `mean_low`, `mean_high`, `trainings`. One without a gap is left out.

        print(random_draws.trainings(("code", "code-seed1"), base))
    """
    one_of("measure", measure, Measure)
    found = {name: answers[0] for name in names if (answers := kept(name, base)) is not None}
    shares = {name: by(one, measure).table().set_index("condition")["share"] for name, one in found.items()}
    made = pd.DataFrame({name: values for name, values in shares.items() if values.notna().all()})
    over = [units.over(row) for row in made.to_numpy()] if len(made.columns) else []
    cells = pd.DataFrame([one.cells("mean") | {"trainings": one.n} for one in over], index=made.index)
    return made.join(cells).rename_axis("condition").reset_index()


def hit(found: Patched, measure: Measure = "chosen") -> pd.DataFrame:
    """One row a head that draws could hit: the mean share of the draws `with` it and `without`, and how many `hits`.

    Draws of all parts together, each held against the mean of its part's draws, so that large parts and small ones can
    be added up: `difference` is how much more of the gap a draw recovers that hits the head.

        print(random_draws.hit(random).nsmallest(3, "difference"))
    """
    scored = by(found, measure)
    random = scored.table().query("draw.notna()")
    share = random["share"] - random.groupby("condition")["share"].transform("mean")
    members = [set(scored.conditions[i].heads["last"]) for i in random.index]
    lines = []
    for head in sorted(set().union(*members)):
        holds = np.array([head in some for some in members])
        # only parts some of whose draws could have taken the head tell anything about it
        asked = random["condition"].isin(random.loc[holds, "condition"].unique()).to_numpy()
        ends = share[holds].mean(), share[asked & ~holds].mean()
        lines.append({"head": str(head), "hits": int(holds.sum()), "with": ends[0], "without": ends[1]})
    made = pd.DataFrame(lines)
    return made.assign(difference=made["with"] - made["without"])
