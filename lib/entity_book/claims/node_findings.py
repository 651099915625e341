"""What the page of the circuits of nodes keeps as findings, and how other pages quote it in words."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from entity_circuits import statistics

from ..studies import harm, node_tables, wiring
from ..studies.nodes import Measured
from . import findings
from .verdicts import ALPHA, LITTLE

_SCORES = {"choice": "accuracy", "agreement": "share", "top-1": "accuracy", "logit difference": "", "KL": ""}


def circuit(found: Measured, model: str) -> None:
    """Keep how the circuit of a model stands, with its areas, and whether it is one by the protocol; nothing outside a
    chapter.

    `nodes/MODEL/size`, `/success` (yes or no), each score as `/choice`, `/agreement`, ..., `/of-whole`, `/whole` and
    `/random` (object choice), `/CPR` and `/CMD`.

        node_findings.circuit(node_answers.load("code"), "code")
    """
    named = findings.part(model)
    told, table = node_tables.verdict(found), node_tables.scores(found)
    findings.keep(f"nodes/{named}/success", "yes" if told["success"] else "no", model=model, about="by the protocol")
    findings.keep(f"nodes/{named}/size", told["nodes"] or "none", unit="heads", model=model, about="nodes")
    table = table[table["ablation"].isna() | (table["ablation"] == "mean")].set_index("circuit")
    for name, row in table.to_dict("index").items():
        if name in ("whole", "random"):
            ends = {"low": row["choice_low"], "high": row["choice_high"], "n": int(row["n"])}
            findings.keep(f"nodes/{named}/{name}", row["choice"], **ends, unit="accuracy", model=model, about="choice")
        if name != "own":
            continue
        for score, unit in {**_SCORES, "of_whole": "share"}.items():
            ends = {"low": row[f"{score}_low"], "high": row[f"{score}_high"], "n": int(row["n"])}
            key = f"nodes/{named}/{score.replace(' ', '-').replace('_', '-')}"
            findings.keep(key, row[score], **ends, unit=unit, model=model, about="the circuit, mean ablation")
    curves = node_tables.curves(found)
    for area in curves[(curves["score"] == "logit difference") & curves["nodes"].isna()].to_dict("records"):
        if area["ablation"] == "mean":
            ends = {"low": area["low"], "high": area["high"], "n": area["n"]}
            findings.keep(f"nodes/{named}/{area['k']}", area["f"], **ends, model=model, about="of the logit difference")


def carried(table: pd.DataFrame) -> None:
    """Keep how the base model's circuit does in fine-tuned models, rows of `node_tables.carried`; nothing outside a
    chapter.

    `nodes/carry/MODEL/circuit`, `/random`, `/own`, `/over-base`, `/gain`, `/through`, `/beside`, and `/share`.

        node_findings.carried(node_tables.carried(base, {"code": node_answers.load("code")}))
    """
    units = {"circuit": "accuracy", "random": "accuracy", "own": "accuracy", "share": "share"}
    for row in table.to_dict("records"):
        for column in (*units, "over_base", "gain", "through", "beside"):
            if pd.notna(row[column]):
                ends = {"low": row[f"{column}_low"], "high": row[f"{column}_high"], "n": row["n"]}
                key, unit = f"nodes/carry/{row['model']}/{column.replace('_', '-')}", units.get(column, "difference")
                findings.keep(key, row[column], **ends, unit=unit, model=row["model"], about="object choice")


def carried_words(table: pd.DataFrame) -> str:
    """The same in words, a clause a model, for a page to `glue`.

    print(node_findings.carried_words(node_tables.carried(base, {"code": node_answers.load("code")})))
    """
    told = []
    for row in table.to_dict("records"):
        parts = {
            name: statistics.spoken(row[name], row[f"{name}_low"], row[f"{name}_high"], form)
            for name, form in (("circuit", ".2f"), ("over_base", "+.2f"), ("through", "+.2f"), ("gain", "+.2f"))
        }
        told.append(
            f"{row['model']}: {parts['circuit']}, against the whole base model {parts['over_base']}; of a gain of "
            f"{parts['gain']}, {parts['through']} goes through the circuit"
        )
    return "; ".join(told) or "no fine-tuned model was measured"


def overlaps(table: pd.DataFrame) -> None:
    """Keep the ceiling of overlaps and each model's, rows of `node_tables.overlaps`; nothing outside a chapter.

    node_findings.overlaps(node_tables.overlaps(base, {"code": node_answers.load("code")}))
    """
    if len(table) and pd.notna(table["ceiling"].iloc[0]):
        ceiling = float(table["ceiling"].iloc[0])
        findings.keep("nodes/overlap/ceiling", ceiling, unit="share", about="the base against itself")
    for row in table.to_dict("records"):
        if not str(row["other"]).startswith("the base"):
            findings.keep(f"nodes/overlap/{row['other']}", row["of_base"], unit="share", model=row["other"])


def harmful(table: pd.DataFrame) -> None:
    """Keep what the heads do that harm, rows of `node_tables.harmful`; nothing outside a chapter.

    `nodes/harm/L15H10` is the effect in the base, `nodes/harm/L15H10/code` its change in a fine-tuned model.

        node_findings.harmful(node_tables.harmful(base, {"code": node_answers.load("code")}))
    """
    for row in table.to_dict("records"):
        first = row["model"] == "base"
        column, key = ("effect", row["head"]) if first else ("change", f"{row['head']}/{row['model']}")
        ends = {"low": row[f"{column}_low"], "high": row[f"{column}_high"], "n": row["n"]}
        about = "log p of the right object without the head" + ("" if first else ", minus the same in the base")
        findings.keep(f"nodes/harm/{key}", row[column], **ends, unit="difference", model=row["model"], about=about)


def exchanged(table: pd.DataFrame, model: str) -> None:
    """Keep what the exchange of outputs with a `model` does, rows of `harm.shares`; nothing outside a chapter.

    `nodes/exchange/lost` and `/brought`, shares of the gap; with draws `/p`, that random heads take as much.

        node_findings.exchanged(harm.shares(found), "code-binding")
    """
    for row in table[table["share"].notna()].to_dict("records") if len(table) else []:
        lost = row["condition"] == harm.NAMES["tuned"]
        ends = {"low": row["share_low"], "high": row["share_high"], "n": row["n"]}
        about = "share of the gain in object choice, " + row["condition"]
        findings.keep(f"nodes/exchange/{'lost' if lost else 'brought'}", row["share"], **ends, model=model, about=about)
        if lost and pd.notna(row["p"]):
            about = f"the share of {row['draws']:.0f} random draws that lose as much, one added to both counts"
            findings.keep("nodes/exchange/p", row["p"], unit="p", model=model, about=about)


def wired(table: pd.DataFrame) -> None:
    """Keep how far nodes and edges agree with the base's, rows of `wiring.agreements`; nothing outside a chapter.

    `edges/MODEL/nodes`, `/edges` and `/difference`, and `/verdict` in words.

        node_findings.wired(wiring.agreements(wiring.kept(wiring.BASE), wiring.tuned(wiring.BASE)))
    """
    means = table[table["round"] == "mean"]
    for row in means[means["difference_low"].notna()].to_dict("records") if len(means) else []:
        for name in (*wiring.KINDS, "difference"):
            ends = {"low": row[f"{name}_low"], "high": row[f"{name}_high"], "n": row["contexts"]}
            key, about = f"edges/{row['model']}/{name}", "agreement with the base, beyond noise"
            findings.keep(key, row[name], **ends, model=row["model"], about=about)
        findings.keep(f"edges/{row['model']}/verdict", wiring.verdict(row), model=row["model"], about="by the protocol")


def words(found: Measured | None) -> dict[str, str]:
    """The numbers of a circuit as text for a page to `glue`; each "not measured" where nothing is kept.

    `size`, `all`, `of_whole`, `agreement`, `choice`, `whole`, `success`, and the n of all, `n`.

        print(node_findings.words(node_answers.load("qwen2.5-coder-0.5b"))["of_whole"])
    """
    names = ("size", "all", "of_whole", "agreement", "choice", "whole", "random", "success", "n")
    if found is None:
        return dict.fromkeys(names, "not measured")
    told, table = node_tables.verdict(found), node_tables.scores(found)
    table = table[table["ablation"].isna() | (table["ablation"] == "mean")]
    rows = {row["circuit"]: row for row in table.to_dict("records")}
    own, whole, random = (rows.get(name) for name in ("own", "whole", "random"))

    def spoken(row: Mapping[Any, Any] | None, name: str, form: str = ".2f") -> str:
        return "none" if row is None else statistics.spoken(row[name], row[f"{name}_low"], row[f"{name}_high"], form)

    return {
        "size": str(told["nodes"] or "none"),
        "all": f"{len(found.orders['own']):,}",
        "of_whole": spoken(own, "of_whole", ".0%"),
        "agreement": spoken(own, "agreement", ".0%"),
        "choice": spoken(own, "choice"),
        "whole": spoken(whole, "choice"),
        "random": spoken(random, "choice"),
        "success": "passes" if told["success"] else "does not pass",
        "n": str(len(found.answers["evaluation"].contexts)),
    }


_ROWS = {
    "whole": "the whole model",
    "none": "nothing kept",
    "own": "the circuit (`own`)",
    "again": "the circuit found on other prompts (`again`)",
    "random": "as many random nodes at each place, five draws averaged",
}


def table_words(table: pd.DataFrame) -> dict[str, str]:
    """What a table of circuits has, for a page to `glue`: its rows, its ablations, and what random nodes choose right.

    `table` has rows of `node_tables.scores`.

        print(node_findings.table_words(node_tables.scores(node_answers.load("qwen2.5-coder-0.5b")))["nodes_rows"])
    """
    kinds, has = list(table["ablation"].dropna().unique()), set(table["circuit"])
    random = table[(table["circuit"] == "random") & (table["ablation"] == "mean")].to_dict("records")
    told = "Without a circuit there is no size at which to draw random nodes."
    if random:
        value = statistics.spoken(*(random[0][f"choice{end}"] for end in ("", "_low", "_high")))
        told = f"As many random nodes at the same places choose right for {value}."
    return {
        "nodes_rows": ", ".join(name for circuit, name in _ROWS.items() if circuit in has),
        "nodes_ablations": " and ".join(kinds) + " ablation",
        "nodes_random": told,
    }


def weaker_words(table: pd.DataFrame) -> str:
    """Which surely harmful heads are surely weaker in which fine-tuned model, in a sentence for a page to `glue`.

    `table` has rows of `node_tables.harmful`.

        print(node_findings.weaker_words(node_tables.harmful(base, {"code": node_answers.load("code")})))
    """
    base = table["model"] == "base"
    surely = set(table[base & table["harms"].eq(True)]["head"])
    models = list(table[~base]["model"].unique())
    if not models:
        return "Whether they are weaker in a fine-tuned model was not asked: none was measured."
    rows = table[~base & table["head"].isin(surely)].to_dict("records")
    weaker = ", ".join(f"{row['head']} in {row['model']}" for row in rows if row["weaker"] is True)
    return f"Surely weaker on the same prompts in {', '.join(models)}: {weaker or 'none of them'}."


def sentence(found: Measured | None) -> str:
    """What became of the search for a circuit, in a sentence or two for a page to `glue`.

    print(node_findings.sentence(node_answers.load("qwen2.5-coder-0.5b")))
    """
    if found is None:
        return "It was not measured."
    told = words(found)
    if node_tables.verdict(found)["nodes"]:
        return (
            f"The circuit has {told['size']} of {told['all']} nodes. On prompts that it was not chosen on it chooses "
            f"right for {told['choice']}, the whole model for {told['whole']}, {told['of_whole']} of it; it agrees "
            f"with the whole model on {told['agreement']} (n = {told['n']}), and {told['success']} the two thresholds."
        )
    told_all = _all(found)
    return (
        f"No circuit along this order passes the two thresholds. Even all {told['all']} nodes together choose right "
        f"for {told_all['choice']}, where the whole model does for {told['whole']}, and agree with it on "
        f"{told_all['agreement']} of {told['n']} prompts: to keep every node is to keep those that do harm too, and to "
        "lose what heads do at other tokens."
    )


def _all(found: Measured) -> dict[str, str]:
    """What all nodes together have under mean ablation: each score in words."""
    said = found.rows(circuit="own curve", ablation="mean", size=len(found.orders["own"]))
    scores = said.scores(found.rows(circuit="whole"))
    parts = {name: statistics.estimate(values[0], said.contexts) for name, values in scores.items()}
    return {name: statistics.spoken(one.value, one.low, one.high, ".2f") for name, one in parts.items()}


def tuned_words(tuned: Mapping[str, Measured]) -> str:
    """What the same search found in fine-tuned models, a clause a model, for a page to `glue`.

    print(node_findings.tuned_words(node_answers.tuned("qwen2.5-coder-0.5b")))
    """
    told = []
    for name, found in tuned.items():
        parts, size = words(found), node_tables.verdict(found)["nodes"]
        every = _all(found)
        none = f"no circuit; all nodes choose right for {every['choice']}, and agree on {every['agreement']}"
        some = f"{size} nodes, {parts['choice']}, agreement {parts['agreement']}"
        told.append(f"{name} (whole {parts['whole']}): {some if size else none}")
    return "; ".join(told) or "no fine-tuned model was measured"


def curve_words(curves: pd.DataFrame) -> dict[str, str]:
    """How many nodes have half of the whole model's logit difference, `nodes_half`, and what all have, `nodes_last`.

    `curves` has rows of `node_tables.curves`; under mean ablation.

        print(node_findings.curve_words(node_tables.curves(node_answers.load("qwen2.5-coder-0.5b")))["nodes_last"])
    """
    asked = (curves["score"] == "logit difference") & (curves["ablation"] == "mean") & curves["nodes"].notna()
    rows = curves[asked].sort_values("nodes").to_dict("records")
    if not rows:
        return dict.fromkeys(("nodes_half", "nodes_last"), "not measured")
    last = rows[-1]
    half = next((row["nodes"] for row in rows if row["f"] >= 0.5), None)
    words = "none has half of it"
    if half:
        words = f"the smallest that has half of it has {half:,} of {last['nodes']:,} nodes"
    return {"nodes_half": words, "nodes_last": statistics.spoken(last["f"], last["low"], last["high"], ".0%")}


def exchange_words(table: pd.DataFrame, model: str) -> dict[str, str]:
    """What the exchange of harmful heads' outputs with a `model` says, as text for a page to quote.

    `table` is one of `harm.shares`. `lost` is the share of the gap that the base model's outputs take in the fine-tuned
    model, `lost_random` what random heads' do, `brought` that of the other way; and `verdict`, which asks whether
    surely more is lost than with random heads, or surely little.

        print(node_findings.exchange_words(harm.shares(found), "code")["verdict"])
    """
    told = dict.fromkeys(("lost", "lost_random", "brought"), "no share")
    told |= {"model": model or "(none)", "draws": "0"}
    rows = {row["condition"]: row for row in table.to_dict("records")}
    lost = rows.get(harm.NAMES["tuned"])
    if lost is None or pd.isna(lost["share"]):
        return told | {"verdict": "There is no surely measured gain to explain."}
    for name, row in rows.items():
        key = "lost" if name == harm.NAMES["tuned"] else "brought"
        told[key] = statistics.spoken(row["share"], row["share_low"], row["share_high"], ".0%")
    told["lost_random"] = f"{lost['random']:.0%}, most of them {lost['random_low']:.0%} to {lost['random_high']:.0%}"
    told["draws"] = f"{lost['draws']:.0f}"
    p = f"p = {lost['p']:.2f}"
    if lost["p"] < ALPHA:
        verdict = f"What it loses is more than with random heads ({p}): a part of the gain is that they harm less."
    elif lost["share_high"] < LITTLE:
        verdict = f"What it loses is little, not surely more than with random heads ({p}): the gain is not less harm."
    else:
        verdict = f"What it loses is not surely more than with random heads ({p}), nor surely little: it stays open."
    return told | {"verdict": verdict}
