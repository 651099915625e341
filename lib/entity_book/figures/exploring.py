"""A head map in which a head is chosen by a click or from a list: where it looks, what it does to each prompt."""

from typing import Any

import altair as alt
import pandas as pd
from entity_circuits.heads import LETTERS, Group

from .charts import BLUE, INK, NEUTRAL, VERMILLION
from .parts import QUIET, helping, nothing, numbers

ACROSS, WIDE = 7, 330
"""How many tokens of the prompt stand beside each other, a statement a line, and how many pixels they take."""

LOOKS = "attention to the tokens of one prompt"
SHOWN = 30
"""How many heads have their attention and their prompts shown: those with the largest scores, helpful or harmful."""


def explorer(
    heads: pd.DataFrame,
    tokens: list[str],
    group: Group | str,
    *,
    gain: bool = False,
) -> alt.HConcatChart | alt.Chart:
    """The heads of a round by score; of the chosen one also the tokens it looks at, and what it does to each prompt.

    `heads` is `looking.by_head`, or `one_by_one.rows` for heads that are no round's; `tokens` the words of the prompt
    that its attention is about; `group` a group, or another name for these heads. `gain` says whether a score above 0
    helps the right answer, as when a head is patched; else it harms, as when a head is lost. The strongest head is
    chosen at first. The list below the figure is for the keyboard, first the heads of which more than a score is kept.
    Without JavaScript the picture shows the strongest. Where no head has a path the chart says so.
    """
    name = f"Group {LETTERS[group]}" if group in LETTERS else f"Heads {group}"
    if heads.empty:
        return nothing(f"{name}: no head has a path.", WIDE)
    above = "helps" if gain else "does harm"
    known = heads.sort_values("rank")
    best = str(known["head"].iloc[0])
    data = pd.DataFrame(_short(known))
    more = data["effects"].map(len) > 0
    drop = alt.binding_select(options=[*data["head"][more], *data["head"][~more]], name="Head: ")
    how: dict[str, Any] = {"bind": drop, "on": "click", "clear": False, "empty": False}
    chosen = alt.selection_point(f"head_{name.split()[-1]}", fields=["head"], value=best, **how)
    kept = alt.param(f"kept_{chosen.name}", expr=f"indexof({list(data['head'][more])}, {chosen.name}.head[0]) >= 0")
    title = alt.expr(f"{kept.name} ? '{LOOKS}' : ''")
    strip = _strip(alt.Chart().transform_filter(chosen), tokens, title, per=1000)
    widest = max(max(effects) for effects in known["effects"][more.to_numpy()])
    side = alt.VConcatChart(vconcat=[_sentence(chosen, above), strip, _effects(chosen, kept, widest)])
    harm = known[known["low"] > 0].nlargest(1, "score")
    rest = "".join(f" Largest that surely {above}: {row.head} {row.score:+.2f}." for row in harm.itertuples())
    first, n = known.iloc[0], len(known["effects"].iloc[0])
    words = (
        f"{name}: a map of {len(known)} heads by score, in which one can be chosen. At first it is {best}, the "
        f"strongest, score {first['score']:+.2f}; beside it stand the tokens of a prompt, coloured by its attention, "
        f"and the change that it makes in each of {n} prompts. Both are kept {kept_of(known)}.{rest}"
    )
    both = alt.HConcatChart(hconcat=[_map(known, chosen, gain), side], data=data, spacing=24, description=words)
    return both.add_params(kept)


def kept_of(heads: pd.DataFrame) -> str:
    """Of which of these heads `explorer` shows the attention and the prompts, in words; of the others, only a score.

    >>> kept_of(pd.DataFrame({"head": ["L0H0", "L0H1"]}))
    'of all 2 heads'
    """
    few = f"of the {SHOWN} strongest of {len(heads)} heads, helpful or harmful; the others have their score alone"
    return few if len(heads) > SHOWN else f"of all {len(heads)} heads"


def _short(known: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows in few characters: shares and changes as whole thousandths, and only for the heads that do most."""
    shown = set(known.loc[known["score"].abs().nlargest(SHOWN).index, "head"])
    rows = []
    for row in known.to_dict("records"):
        told: dict[str, Any] = {name: round(float(row[name]), 3) for name in ("score", "low", "high")}
        told |= {name: int(row[name]) for name in ("layer", "index", "rank", "n")}
        for name in ("attention", "effects"):
            told[name] = [round(1000 * value) for value in row[name]] if row["head"] in shown else []
        rows.append({"head": row["head"], **told})
    return rows


def _map(known: pd.DataFrame, chosen: alt.Parameter, gain: bool) -> alt.LayerChart:
    bound = float(known["score"].abs().max()) or 1.0
    layers = alt.Scale(domain=sorted(known["layer"].unique().tolist(), reverse=True))
    base = alt.Chart().encode(
        x=alt.X("index:O", title="head", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("layer:O", title="layer", sort="descending", scale=layers),
        tooltip=["head:N", *numbers("score", "low", "high", form=".3f"), "rank:Q", "n:Q"],
    )
    cells = base.mark_rect(cursor="pointer").encode(color=helping("score:Q", bound, "score", gain=gain))
    mark = base.transform_filter(chosen).mark_rect(filled=False, stroke="black", strokeWidth=2.5)
    height = 13 * known["layer"].nunique()
    return alt.LayerChart(layer=[cells.add_params(chosen), mark]).properties(width=230, height=height)


def _sentence(chosen: alt.Parameter, above: str) -> alt.LayerChart:
    score = "datum.head + ': score ' + format(datum.score, '+.2f') + "
    score += "' [' + format(datum.low, '+.2f') + ', ' + format(datum.high, '+.2f') + ']'"
    more = f"'rank ' + datum.rank + (datum.low > 0 ? ', {above}' : '') + "
    more += f"(length(datum.effects) ? '' : '; attention and prompts are kept of the {SHOWN} strongest')"
    base = alt.Chart().transform_filter(chosen).transform_calculate(score=score, more=more)
    look: dict[str, Any] = {"align": "left", "color": INK, "x": 0}
    first = base.mark_text(**look, fontSize=14, fontWeight="bold", y=8).encode(text="score:N", **QUIET)
    second = base.mark_text(**look, fontSize=12, y=26).encode(text="more:N", **QUIET)
    return alt.LayerChart(layer=[first, second]).properties(width=WIDE, height=32)


def _strip(shown: alt.Chart, tokens: list[str], title: Any = LOOKS, per: int = 1) -> alt.LayerChart:
    places = [
        {"place": place, "token": token, "column": place % ACROSS, "line": place // ACROSS}
        for place, token in enumerate(tokens)
    ]
    base = shown.transform_flatten(["attention"]).transform_calculate(attention=f"datum.attention / {per}")
    base = base.transform_window(number="row_number()").transform_calculate(place="datum.number - 1")
    lookup = alt.LookupData(alt.Data(values=places), "place", ["token", "column", "line"])
    base = base.transform_lookup("place", lookup).encode(
        x=alt.X("column:O", axis=None), y=alt.Y("line:O", axis=None),
        tooltip=["token:N", alt.Tooltip("attention:Q", format=".1%", title="its attention")],
    )  # fmt: skip
    scale = alt.Scale(range=[0, 0.6], domain=[0, 0.5], clamp=True)  # words stay legible on it
    cells = base.mark_rect(color=BLUE, cornerRadius=3).encode(
        opacity=alt.Opacity("attention:Q", scale=scale, legend=None)
    )
    words = base.mark_text(color=INK, fontSize=12).encode(text="token:N")
    above = alt.Title(title, fontSize=12, fontWeight="normal", color=INK)
    height = 22 * (1 + (len(tokens) - 1) // ACROSS)
    return alt.LayerChart(layer=[cells, words], title=above).properties(width=WIDE, height=height)


def _effects(chosen: alt.Parameter, kept: alt.Parameter, most: float) -> alt.LayerChart:
    """A tick a prompt. Without ticks there is no axis either; what lies above 1 stands at 1, and its label says so."""
    seen = alt.expr(f"{kept.name} ? 1 : 0")
    axis: dict[str, Any] = {f"{part}Opacity": seen for part in ("tick", "domain", "title")}
    axis["gridOpacity"] = alt.expr(f"{kept.name} ? 0.5 : 0")
    beyond = "datum.value < 1 ? datum.label : '1 or more'" if most > 1 else "datum.label"
    axis["labelExpr"] = f"{kept.name} ? {beyond} : ''"
    title, ends = "relative change of p(right object), a line a prompt", alt.Scale(domain=[-1, 1], clamp=True)
    x = alt.X("effects:Q", title=title, scale=ends, axis=alt.Axis(**axis))
    base = alt.Chart().transform_filter(chosen).transform_flatten(["effects"])
    base = base.transform_calculate(effects="datum.effects / 1000")
    ticks = base.mark_tick(color=BLUE, thickness=1.5, opacity=0.6, size=28)
    ticks = ticks.encode(x=x, tooltip=[alt.Tooltip("effects:Q", format="+.2f", title="change")])
    zero = alt.Chart(alt.Data(values=[{"effects": 0}])).mark_rule(color=NEUTRAL, strokeDash=[4, 3], opacity=seen)
    return alt.LayerChart(layer=[zero.encode(x=x, **QUIET), ticks]).properties(width=WIDE, height=40)


def stepper(steps: pd.DataFrame, tokens: list[str]) -> alt.HConcatChart:
    """The circuit step by step on one prompt: where a group looks, and what becomes of the answer when it is replaced.

    `steps` is `looking.step_by_step`, a row a step. The first is the run as it is. The buttons below the figure work by
    keyboard too; without JavaScript the picture shows the last step, the group next to the answer.
    """
    names = list(steps["step"])
    chosen = alt.param(name="step", value=names[-1], bind=alt.binding_radio(options=names, name="Replaced: "))
    shown = alt.datum.step == chosen
    data = alt.Data(values=steps.to_dict("records"))
    base = alt.Chart().transform_filter(shown)
    said = base.mark_text(align="left", fontSize=13, color=INK, x=0, lineBreak="|", baseline="top")
    said = said.encode(text="words:N", **QUIET).properties(width=WIDE, height=52)
    x = alt.X("p:Q", title="probability among the seven objects", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("object:N", title=None, sort=list(steps["objects"].iloc[0]))
    bars = base.transform_flatten(["objects", "p", "clean", "right"], as_=["object", "p", "clean", "right"])
    tips = ["object:N", *(alt.Tooltip(f"{name}:Q", format=".2f") for name in ("p", "clean"))]
    colour = alt.condition("datum.right", alt.value(BLUE), alt.value(NEUTRAL))
    filled = bars.mark_bar(height=12).encode(x=x, y=y, color=colour, tooltip=tips)
    ends = bars.mark_tick(color=VERMILLION, thickness=3, size=18).encode(x="clean:Q", y=y, tooltip=tips)
    answer = alt.LayerChart(layer=[filled, ends]).properties(width=200, height=150)
    left = alt.VConcatChart(vconcat=[said, _strip(base, tokens)])
    right = steps["right"].iloc[0].index(True)
    told = "; ".join(f"{name}: {p[right]:.2f}" for name, p in zip(names, steps["p"], strict=True))
    words = f"The circuit on one prompt, a group replaced at a time. Probability of the right object: {told}."
    return alt.HConcatChart(hconcat=[left, answer], data=data, spacing=24, description=words).add_params(chosen)
