"""What each chapter keeps as findings, for chapter 7 to judge: the numbers of its tables by the keys of the claims."""

from collections.abc import Mapping
from typing import cast

import pandas as pd
from entity_circuits import ablation, circuits, statistics
from entity_circuits.circuits import Finding
from entity_circuits.heads import LETTERS, Circuit
from entity_circuits.methods.cmap import Patched
from entity_circuits.methods.kept import Kept
from entity_circuits.runs.recording import Recording

from ..studies import looking, overlaps, trainings
from ..studies.tuning import BASE
from ..studies.worth import counted
from . import findings


def overlap(one: Finding, other: Finding, again: Finding | None = None) -> None:
    """Keep as findings how much two circuits overlap, what chance would give, and what is the most to expect: the
    overlap of the first with itself, found `again` from other prompts. Nothing outside a chapter.

    handing_over.overlap(circuits.load("qwen2.5-coder-0.5b"), circuits.load("code"))
    """
    for row in circuits.compare(one, other).to_dict("records"):
        if row["group"] == "all":
            share = statistics.wilson(int(row["shared"]), int(row["one"]))
            findings.keep("overlap/all", share, unit="share", model=other.model, about="of the base's heads")
        else:
            findings.keep(
                f"overlap/{LETTERS[row['group']]}/p", row["layer_p"], about="chance of random sets, same layers"
            )
    if again is not None:
        every, about = overlaps.whole(one, again), "of the base's heads, in its own circuit from other prompts"
        findings.keep("overlap/ceiling", every["shared"] / every["one"], unit="share", model=one.model, about=about)


def enhanced(compared: Mapping[str, pd.DataFrame], model: str) -> None:
    """Keep as findings what the base model's circuit does in a fine-tuned model; nothing outside a chapter.

    `compared` has tables of `enhanced.compared`: "" of the circuit that the verdict is about, others by their names.
    The same of the object choice is kept as `.../choice`.

        handing_over.enhanced({"": wide, "three-places": narrow}, "code")
    """
    for name, rows in compared.items():
        for key, row in rows.to_dict("index").items():
            path = f"circuit/{key}{'/' * bool(name)}{name}"
            told = {"n": row["n"], "unit": "difference", "model": model, "about": row["compared"]}
            findings.keep(path, row["value"], low=row["low"], high=row["high"], **told)
            told["about"] += ", choice among the objects"
            ends = {"low": row["choice_low"], "high": row["choice_high"]}
            findings.keep(f"{path}/choice", row["choice"], **ends, **told)


def kept(circuit: Circuit, beside: Kept, every: int) -> None:
    """Keep as findings how many heads at places the circuit of the central claim has, how many are kept `beside` it at
    further places, and that there are `every` many at all these places; nothing outside a chapter.

    handing_over.kept(larger, {"query+1": heads.every(24, 14)}, 4 * 336)
    """
    for key, size in {"": ablation.size(circuit), "/beside": ablation.size(beside), "/of": every}.items():
        findings.keep(f"circuit/heads{key}", size, unit="heads")


def agreeing(rows: pd.DataFrame) -> None:
    """Keep as findings how often a circuit chooses what its whole model chooses, the two rows of `enhanced.agreeing`
    for the base and the fine-tuned model; nothing outside a chapter.

        handing_over.agreeing(enhanced.agreeing([first, tuned], circuit))
    """
    about = "choices of the circuit that are those of the whole model"
    for who, row in zip(("base", "finetuned"), rows.to_dict("records"), strict=True):
        ends = {"low": row["agreement_low"], "high": row["agreement_high"], "n": row["n"], "unit": "share"}
        findings.keep(f"circuit/agreement/{who}", row["agreement"], **ends, model=row["model"], about=about)


def reading(recording: Recording, circuit: Circuit) -> None:
    """Keep as findings how much of the attention to tokens of a kind each group gives the one that the paper names;
    nothing outside a chapter.

    handing_over.reading(found.recordings[0], found.circuit)
    """
    for group, letter in LETTERS.items():
        if not circuit.groups[group]:
            continue
        share = looking.selectivity(recording, circuit.groups[group], group)
        about = "of the attention to tokens of its kind"
        findings.keep(f"looks/{letter}", share, unit="share", model=recording.subject.name, about=about)


def faithfulness(
    rows: pd.DataFrame, random: pd.DataFrame, who: Mapping[str, str], circuit: str, larger: str | None = None
) -> None:
    """Keep as findings the faithfulness of a circuit and of random heads of its layers, and that of a `larger` one;
    nothing outside a chapter.

    `rows` and `random` are tables of `table`; `who` maps "base" and "finetuned" to the names of models.

        handing_over.faithfulness(table, chance, {"base": "qwen2.5-coder-0.5b", "finetuned": "code"}, "as found")
    """
    findings.keep("faithful/heads", int(rows.loc[rows["circuit"] == circuit, "heads"].iloc[0]), unit="heads")
    asked = [("", rows, circuit), ("-random", random, f"{circuit}: same layers"), ("/larger", rows, larger)]
    about = {"ratio": "", "choice_ratio": "of the model's choices among the objects"}
    for key, name in who.items():
        for suffix, found, label in asked:
            for row in found[(found["model"] == name) & (found["circuit"] == label)].to_dict("records"):
                for column, prefix in (("ratio", "faithful"), ("choice_ratio", "choice/faithful")):
                    if pd.notna(row.get(column)):
                        told = {"low": row[f"{column}_low"], "high": row[f"{column}_high"], "n": row["n"]}
                        told |= {"unit": "share", "model": name, "about": about[column]}
                        findings.keep(f"{prefix}/{key}{suffix}", row[column], **told)


def semantics(table: pd.DataFrame, model: str, prefix: str = "carries") -> None:
    """Keep what the groups of a model carry, rows of `worth.table`, as findings; nothing outside a chapter.

    `prefix` begins their names: "carries" for the base model, "carries-tuned" for the fine-tuned one.

    `carries/A/object` is how often the target is answered with the selected heads patched, or the whole group where
    none was selected; `carries/A/object/gain` is that minus the floor, or for position and label minus what an object
    of the base gets under the same patch that no hypothesis predicts.

        handing_over.semantics(worth.table(worth.tried(study, masks)), "qwen2.5-coder-0.5b")
    """
    for row in table[table["model"] == model].to_dict("records"):
        key, patched = f"{prefix}/{LETTERS[row['group']]}/{row['desideratum']}", counted(row["selected"])
        about = "selected heads patched" if patched == "masked" else "whole group patched"
        gain = "gain" if row["desideratum"] == "object" else "beyond"
        for name, column, unit in ((key, patched, "accuracy"), (f"{key}/gain", gain, "difference")):
            ends = {"low": row[f"{column}_low"], "high": row[f"{column}_high"], "n": row["n"]}
            findings.keep(name, row[column], **ends, unit=unit, model=model, about=about)


def improved(crossed: pd.DataFrame, selection: str, model: str) -> None:
    """Keep how much more often the same heads of A bring the object in a fine-tuned model than in the base.

    `crossed` has rows of `crossing.crossed`; nothing is kept of a selection or a model that it lacks.

        handing_over.improved(crossed, "A, object: heads of qwen2.5-coder-0.5b", "code")
    """
    about = "heads that were selected in the base model, patched in both; paired"
    for row in crossed[(crossed["selection"] == selection) & (crossed["model"] == model)].to_dict("records"):
        ends = {"low": row["more_low"], "high": row["more_high"], "n": row["n"]}
        findings.keep("carries/A/object/improved", row["more"], **ends, unit="difference", model=model, about=about)


def draws(against: pd.DataFrame, model: str) -> None:
    """Keep the share of the gap of each part of the circuit, and that of its random draws with their p, as findings.

    `against` has rows of `random_draws.against`; a part without a share (no gap) is left out.

        handing_over.draws(random_draws.against(random), "code")
    """
    for row in against[against["share"].notna()].to_dict("records"):
        name = f"draws/{row['condition'].replace(', ', ' ').replace(' ', '_')}"
        about = f"object choice; p {row['p']:.3g}, {row['p_holm']:.3g} for the family, of {row['draws']} random draws"
        ends = {"low": row["share_low"], "high": row["share_high"], "n": row["n"]}
        findings.keep(name, row["share"], **ends, unit="share", model=model, about=about)
        about = f"the share of {row['draws']} random draws that recover as much, one added to both counts"
        findings.keep(f"{name}/p", row["p"], model=model, about=about)
        ends = {"low": row["random_low"], "high": row["random_high"], "n": row["n"]}
        about = f"object choice; the middle of {row['draws']} draws, and where 95% of them lie"
        findings.keep(f"{name}/random", row["random"], **ends, unit="share", model=model, about=about)


def improvement(found: Patched, model: str, table: pd.DataFrame | None = None, live: Patched | None = None) -> None:
    """Keep the gap and the shares of it that the claims of the book rest on as findings; nothing outside a chapter.

    `table` is that of `found` unless it is given. The gap in the object choice is that of `live` where `found`
    has none.

    handing_over.improvement(found, "code")
    """
    choices = live if found.chosen is None and live is not None else found
    gap = statistics.difference(found.tuned_correct, found.base_correct, found.contexts)
    findings.keep("cmap/gap", gap, unit="difference", model=model, about="fine-tuned minus base")
    if choices.tuned_chosen is not None and choices.base_chosen is not None:
        gap = statistics.difference(choices.tuned_chosen, choices.base_chosen, choices.contexts)
        about = "fine-tuned minus base, choice among the objects"
        findings.keep("choice/cmap/gap", gap, unit="difference", model=model, about=about)
    table = found.table() if table is None else table
    table = table[(table["into"] == "base") & table["share"].notna()]
    for name, draws in table[table["draw"].notna()].groupby("condition"):
        ends = {"low": draws["share_low"].min(), "high": draws["share_high"].max(), "n": draws["n"].iloc[0]}
        about = f"{len(draws)} draws of random heads: their mean, and all their intervals"
        findings.keep(f"cmap/{name}-random", draws["share"].mean(), **ends, unit="share", model=model, about=about)
    for row in table[table["draw"].isna()].itertuples():
        inner = "" if row.sites == "z" else f"/{row.sites}"
        key = f"cmap/{row.condition}{inner}" + ("" if row.origin == "run" else f"/{row.origin}")
        if " " not in key:
            ends = {"low": row.share_low, "high": row.share_high, "n": row.n}
            findings.keep(key, cast(float, row.share), **ends, unit="share", model=model, about="of the gap recovered")


def arithmetic(word: str, progress: pd.DataFrame) -> None:
    """Keep the verdict of the study of arithmetic by its own rule, and how many of its runs it rests on.

    handing_over.arithmetic(doses.verdict(doses.cells(arithmetic.rows()))[0], doses.progress(arithmetic.table()))
    """
    findings.keep("study/arithmetic/verdict", word, about="by the rule of data/trainings/README.md")
    about = f"of {progress['planned'].sum()} runs planned"
    findings.keep("study/arithmetic/done", int(progress["done"].sum()), unit="runs", about=about)


def gains(measured: pd.DataFrame) -> None:
    """Keep as findings what arithmetic and code gain over the base, and over the control; nothing outside a chapter.

    handing_over.gains(tuning.measured())
    """
    share = measured.groupby(["kind", "prompt", "context"])["correct"].mean().unstack("kind")
    contexts = share.index.get_level_values("context").to_numpy()
    for kind in ("arithmetic", "code"):
        for key, other in (
            (f"gain/{kind}", BASE),
            (f"gain/{kind}-over-control", "shuffled"),
            (f"gain/{kind}-over-other", "code-other"),
        ):
            if other not in share:
                continue
            gain = statistics.difference(share[kind].to_numpy(), share[other].to_numpy(), contexts)
            findings.keep(key, gain, unit="difference", model=kind, about="mean over seeds of training")
    for row in trainings.table(trainings.effects(measured)).to_dict("records"):
        ends, about = {"low": row["gain_low"], "high": row["gain_high"]}, "trainings, and the interval over them"
        key, about = f"gain/{row['kind']}/trainings", f"mean of {row['trainings']} {about}"
        told = {"n": row["n"], "unit": "difference", "model": row["kind"], "about": about}
        findings.keep(key, row["gain"], **ends, **told, df=row["trainings"] - 1 or None)


def tracking(split: pd.DataFrame, source: str) -> None:
    """Keep as findings what each training does to tracking and to format, rows of `tracking.split`; `source` says where
    its answers are from. Nothing outside a chapter.

    handing_over.tracking(tracking.split(frame), "live")
    """
    for row in split[split["kind"] != BASE].to_dict("records"):
        for side, key in (("tracking", "choice/gain"), ("format", "format/gain")):
            ends = {"low": row[f"{side}_low"], "high": row[f"{side}_high"], "n": row["n"]}
            about = f"change of {side} against the base, one training, answers {source}"
            findings.keep(f"{key}/{row['kind']}", row[side], **ends, unit="difference", model=row["kind"], about=about)


def artefacts(official: pd.DataFrame) -> None:
    """Keep the rows of `official.table` as findings: `official/B1/1/official`, `official/B1/1/corrected`, and so on."""
    for artefact, part in official.groupby("artefact", sort=False):
        for place, row in enumerate(part.to_dict("records"), start=1):
            for side in ("official", "corrected"):
                if not pd.isna(row[side]):
                    ends = {end: row[f"{side}_{end}"] for end in ("low", "high")}
                    key = f"official/{artefact}/{place}/{side}"
                    findings.keep(key, row[side], **ends, n=row["n"] or None, about=str(row["quantity"]))
