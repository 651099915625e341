"""Claims: what is measured of nodes comes back as it was kept, and its tables say what its answers say."""

from dataclasses import replace

import altair as alt
import pandas as pd
import pytest
import tiny
import torch
from entity_book.claims import findings, node_findings
from entity_book.figures import charts
from entity_book.figures import nodes as figures
from entity_book.studies import harm, improvement, node_answers, node_tables, nodes
from entity_circuits import sums
from entity_circuits.methods.ablation import Answers
from entity_circuits.tasks import boxes

SIZES = nodes.Sizes(means=4, pruning=1, evaluation=2, control=2, scan=1)


@pytest.fixture(scope="module")
def measured():
    base, tuned = tiny.subject(layers=2), tiny.subject(seed=3, layers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "DROP", 0.6)
        first = nodes.measure(base, sizes=SIZES, controls=True)
        return base, first, tuned, nodes.measure(tuned, first, SIZES)


@pytest.fixture
def kept(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(node_answers, "folder", lambda: tmp_path)
    node_answers.keep(measured[1], tmp_path / "one.safetensors", measured[0], command="as in a test")
    sums.seal(tmp_path)
    return tmp_path


def test_what_is_kept_comes_back(measured, kept):
    found, back = measured[1], node_answers.load("one")
    for task, said in found.answers.items():
        assert torch.equal(back.answers[task].logprobs, said.logprobs) and torch.equal(back.answers[task].top, said.top)
    assert {task: list(map(dict, rows)) for task, rows in back.asked.items()} == {
        task: list(map(dict, rows)) for task, rows in found.asked.items()
    }
    assert back.sizes == found.sizes and back.heads == found.heads
    for name, order in found.orders.items():
        assert back.orders[name].nodes == order.nodes and back.orders[name].path == order.path
    pd.testing.assert_frame_equal(node_tables.harmful(back, {}), node_tables.harmful(found, {}))
    assert node_answers.about("one")["command"] == "as in a test" and node_answers.names() == ["one"]
    assert node_answers.kept(measured[0]) is not None and node_answers.kept(measured[2]) is None


def test_a_changed_file_is_refused_and_a_missing_one_says_what_to_run(kept):
    path = kept / "one.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged or was changed"):
        node_answers.load("one")
    with pytest.raises(FileNotFoundError, match="measure-circuit two"):
        node_answers.load("two")


def test_every_circuit_stands_beside_the_whole_model_with_intervals(measured):
    table = node_tables.scores(measured[1]).set_index(["circuit", "ablation"])
    whole = table.loc["whole"].iloc[0]
    assert (whole["agreement"], whole["KL"], whole["of_whole"]) == (1, 0, 1)
    assert {("none", kind) for kind in ("mean", "zero", "resample")} <= set(table.index)
    assert table.loc[("random", "mean"), "draws"].item() == nodes.DRAWS
    for score in node_tables.SCORES:
        low, value, high = (table[f"{score}{end}"] for end in ("_low", "", "_high"))
        assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all()
    said = measured[1].rows(circuit="own", ablation="mean")
    assert table.loc[("own", "mean"), "choice"].item() == pytest.approx(float(said.right.double().mean()))


def test_curves_have_all_sizes_and_areas_for_each_ablation(measured):
    table = node_tables.curves(measured[1])
    part = table[(table["score"] == "logit difference") & (table["ablation"] == "mean")]
    assert list(part["k"][:2]) == ["CPR", "CMD"] and len(part) == 12 and part["nodes"].iloc[-1] == 96
    assert set(table["ablation"]) == {"mean", "zero", "resample"}


def test_success_is_judged_by_both_thresholds(measured):
    found = measured[1]
    whole, n = found.rows(circuit="whole"), len(found.answers["evaluation"].contexts)
    index = next(i for i, row in enumerate(found.asked["evaluation"]) if row["circuit"] == "own")
    said = found.answers["evaluation"]

    def with_own(own):
        logprobs = said.logprobs.clone()
        logprobs[index] = own
        return replace(found, answers={**found.answers, "evaluation": replace(said, logprobs=logprobs)})

    assert node_tables.verdict(with_own(whole.logprobs[0]))["success"]
    right = torch.full((n, 7), -3.0).scatter(
        1, (said.choice_ids == said.answer_ids[:, None]).int().argmax(1)[:, None], -1
    )
    assert not node_tables.verdict(with_own(right))["success"], "right everywhere is not what the model does"
    assert not node_tables.verdict(with_own(-whole.logprobs[0].abs().flip(1)))["success"]


def test_the_gain_is_that_of_the_models_and_its_parts_add_up(measured):
    _, first, _, second = measured
    (row,) = node_tables.carried(first, {"tuned": second}).to_dict("records")
    gain = second.rows(circuit="whole").right.double().mean() - first.rows(circuit="whole").right.double().mean()
    assert row["gain"] == pytest.approx(float(gain))
    assert row["through"] + row["beside"] == pytest.approx(row["gain"])
    assert row["circuit"] - row["in_base"] == pytest.approx(row["through"])
    (same,) = node_tables.carried(first, {"twin": _as_tuned(first)}).to_dict("records")
    assert same["gain"] == same["through"] == 0 and pd.isna(same["share"])


def _as_tuned(base):
    """The base as if it had been measured as a fine-tuned model: its own circuit is the base's."""
    rows = tuple({**row, "circuit": "base"} if row["circuit"] == "own" else row for row in base.asked["evaluation"])
    rows = tuple(
        row if row["ablation"] in (None, "mean") or row["circuit"] != "base" else {**row, "circuit": "x"}
        for row in rows
    )
    return replace(base, asked={"evaluation": rows})


def test_an_overlap_stands_beside_its_ceiling_and_chance(measured):
    _, first, _, second = measured
    table = node_tables.overlaps(first, {"tuned": second, "itself": first}, size=40).set_index("other")
    assert table.loc["itself", "of_base"] == 1
    assert (table["ceiling"] == table.loc["the base itself, other prompts", "of_base"]).all()
    assert table["chance"].iloc[0] == pytest.approx(40 / 96)
    assert (table["chance_low"] < table["chance"]).all() and (table["chance"] < table["chance_high"]).all()


def test_without_a_circuit_no_overlap_is_told_or_handed_over(measured, monkeypatch):
    _, first, _, second = measured
    kept = []
    monkeypatch.setattr(node_findings.findings, "keep", lambda key, value, **more: kept.append(key))
    none = replace(first, sizes={**first.sizes, "own": None})
    node_findings.overlaps(table := node_tables.overlaps(none, {"tuned": second}))
    assert table.empty and not kept
    node_findings.overlaps(node_tables.overlaps(first, {"tuned": second}, size=40))
    assert kept == ["nodes/overlap/ceiling", "nodes/overlap/tuned"]


def test_a_head_harms_only_if_its_effect_is_surely_above_nought(measured):
    first = measured[1]
    n, contexts = 30, torch.arange(30)
    draw = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(n, generator=draw, dtype=torch.float64)
    value = torch.stack([torch.zeros(n, dtype=torch.float64), noise + 0.5, noise - 0.5, noise])
    right = torch.zeros(4, n, dtype=torch.bool)
    found = replace(first, heads=first.heads[:3], effects=Answers(right, value, contexts, right))
    weak = replace(found, effects=Answers(right, value * torch.tensor([1, 0.2, 1, 1])[:, None], contexts, right))
    table = node_tables.harmful(found, {"tuned": weak})
    base, tuned = (table[table["model"] == name] for name in ("base", "tuned"))
    assert base["harms"].tolist() == [True, False, False]
    assert tuned["weaker"].tolist() == [True, False, False]
    assert tuned["change"].iloc[0] == pytest.approx(-0.4, abs=0.05)


def test_answers_run_again_are_those_that_were_kept(measured):
    base, first, _, _ = measured
    table = node_tables.again(base, first, contexts=1, sizes=SIZES)
    assert (table["same"] == 7).all() and (table["apart"] < 1e-4).all()
    with pytest.raises(ValueError, match="not the first of the prompts"):
        node_tables.again(base, first, contexts=3, sizes=SIZES)


def test_figures_are_described_narrow_and_drawable(measured):
    charts.enable()
    _, first, _, second = measured
    tuned = {"tuned": second}
    made = [figures.curve(node_tables.curves(first), 20), figures.carried(node_tables.carried(first, tuned))]
    for chart in (*made, figures.harmful(node_tables.harmful(first, tuned))):
        spec = chart.to_dict()
        assert len(charts.description(spec)) > 40 and "nan" not in spec["description"]
        assert spec["width"] <= 330 and charts.picture(spec, "svg").startswith(b"<svg")
    alt.renderers.enable("default")


def test_the_untrained_model_is_another_and_the_same_each_time(measured):
    base = measured[0]
    state = torch.random.get_rng_state()
    one, other = (nodes.untrained(base, SIZES) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.rows(circuit="whole").logprobs, other.rows(circuit="whole").logprobs)
    assert not torch.equal(one.orders["own"].rank, measured[1].orders["own"].rank)


def test_findings_are_the_numbers_of_the_tables(measured, monkeypatch):
    _, first, _, second = measured
    told = {}
    monkeypatch.setattr(node_findings.findings, "keep", lambda key, value, **more: told.update({key: (value, more)}))
    carried = node_tables.carried(first, {"tuned": second})
    harm = node_tables.harmful(first, {"tuned": second})
    node_findings.circuit(first, "one")
    node_findings.carried(carried)
    node_findings.overlaps(node_tables.overlaps(first, {"tuned": second}))
    node_findings.harmful(harm)
    for key, (value, more) in told.items():
        findings.report(key, value, **more)
    own = node_tables.scores(first).query("circuit == 'own' and ablation == 'mean'").iloc[0]
    assert told["nodes/one/agreement"][0] == own["agreement"] and told["nodes/one/of-whole"][0] == own["of_whole"]
    assert told["nodes/one/success"][0] in ("yes", "no") and {"nodes/one/CPR", "nodes/one/CMD"} <= told.keys()
    assert told["nodes/carry/tuned/through"][0] == carried["through"].item()
    head = harm["head"].iloc[0]
    assert told[f"nodes/harm/{head}"][0] == harm["effect"].iloc[0] and f"nodes/harm/{head}/tuned" in told
    words = node_findings.words(first)
    assert words["agreement"] == f"{own['agreement']:.0%} [{own['agreement_low']:.0%}, {own['agreement_high']:.0%}]"
    assert (
        set(node_findings.words(None).values()) == {"not measured"} and node_findings.words(None).keys() == words.keys()
    )
    assert f"{carried['through'].item():+.2f}" in node_findings.carried_words(carried)
    assert "measured" in node_findings.carried_words(node_tables.carried(first, {}))


def test_words_name_the_rows_that_a_table_has_and_no_others(measured):
    table = node_tables.scores(measured[1])
    told = node_findings.table_words(table)
    has = set(table["circuit"])
    for circuit, name in {"own": "(`own`)", "again": "(`again`)", "random": "random nodes at each place"}.items():
        assert (name in told["nodes_rows"]) == (circuit in has)
    assert set(told["nodes_ablations"].removesuffix(" ablation").split(" and ")) == set(table["ablation"].dropna())
    without = node_findings.table_words(table[table["circuit"].isin(["whole", "none"])])
    assert without["nodes_rows"] == "the whole model, nothing kept" and "Without a circuit" in without["nodes_random"]


def test_heads_are_said_to_be_weaker_only_in_models_that_were_measured():
    rows = [("L1H1", "base", True, None), ("L2H2", "base", False, None)]
    tuned = [("L1H1", "code", None, True), ("L2H2", "code", None, True)]
    tables = [pd.DataFrame(part, columns=["head", "model", "harms", "weaker"]) for part in (rows, rows + tuned)]
    words = [node_findings.weaker_words(table) for table in tables]
    assert "not asked" in words[0] and words[1] == "Surely weaker on the same prompts in code: L1H1 in code."


@pytest.mark.parametrize(
    ("share", "p", "says"),
    [
        ((0.4, 0.2, 0.6), 0.02, "a part of the gain"),
        ((0.05, -0.02, 0.12), 0.4, "is little"),
        ((0.2, -0.1, 0.5), 0.4, "stays open"),
        ((float("nan"),) * 3, 1.0, "no surely measured gain"),
    ],
)
def test_whether_the_gain_is_less_harm_is_judged_by_what_is_lost_beside_random_heads(share, p, says):
    row = {"condition": harm.NAMES["tuned"], **dict(zip(("share", "share_low", "share_high"), share, strict=True))}
    row |= {"random": 0.0, "random_low": -0.1, "random_high": 0.1, "p": p, "draws": 40}
    told = node_findings.exchange_words(pd.DataFrame([row]), "code")
    assert says in told["verdict"] and told["model"] == "code"


def test_without_a_model_that_gained_nothing_is_exchanged():
    assert node_findings.exchange_words(pd.DataFrame(), "")["lost"] == "no share"


def test_an_exchange_with_the_same_model_changes_nothing_and_has_draws_of_the_same_layers():
    subject = tiny.subject("qwen2")
    p = boxes.prompts(subject, n=6, boxes=3)
    found = harm.exchanged(subject, subject, ["L1H2", "L2H0"], p, draws=3)
    assert (found.correct == found.base_correct).all()
    assert [one.draw for one in found.conditions] == [None, None, 0, 1, 2]
    assert {one.into for one in found.conditions[2:]} == {"tuned"}
    assert harm.shares(found)["draws"].tolist()[0] == 3
    assert {tuple(head.layer for head in one.heads["last"]) for one in found.conditions} == {(1, 2)}
    assert not any({"L1H2", "L2H0"} & set(map(str, one.heads["last"])) for one in found.conditions[2:])


def test_a_kept_exchange_is_read_for_these_models_and_heads_alone(tmp_path, monkeypatch):
    base, tuned = tiny.subject("qwen2"), tiny.subject("qwen2", seed=1)
    monkeypatch.setattr(harm, "folder", lambda: tmp_path)
    made = harm.of(base, tuned, ["L1H2", "L2H0"], contexts=1)
    assert sum(one.draw is not None for one in made.conditions) == 20
    improvement.keep(made, tmp_path / "mine.safetensors", base, tuned, command="by hand")
    ran = []
    monkeypatch.setattr(harm, "exchanged", lambda *given, **_: ran.append(given[2]))
    assert harm.of(base, tuned, ["L2H0", "L1H2"], contexts=1).conditions == made.conditions and not ran
    harm.of(base, tuned, ["L1H2", "L2H1"], contexts=1)
    harm.of(tuned, base, ["L1H2", "L2H0"], contexts=1)
    assert len(ran) == 2


def test_an_exchange_made_again_gives_the_answers_that_are_kept():
    base, tuned = tiny.subject("qwen2"), tiny.subject("qwen2", seed=1)
    made = harm.exchanged(base, tuned, ["L1H2", "L2H0"], boxes.prompts(base, n=14, split="evaluation"), draws=2)
    again = harm.again(base, tuned, made, contexts=1)
    assert again["same"].tolist() == again["n"].tolist() == [7, 7]
    other = replace(made, correct=~made.correct)
    assert harm.again(base, tuned, other, contexts=1)["same"].tolist() == [0, 0]


def test_which_heads_are_exchanged_follows_from_what_was_measured_of_the_base():
    found = node_answers.load("qwen2.5-coder-0.5b")
    table = node_tables.harmful(found, {})
    assert [str(head) for head in harm.harmful(found)] == table.loc[table["harms"], "head"].tolist()
    with pytest.raises(ValueError, match="no pair 'nobody'"):
        harm.measure("nobody")
    with pytest.raises(FileNotFoundError, match="llama-7b is not measured yet"):
        harm.measure("goat-7b")


def test_what_an_exchange_does_is_kept_as_findings(monkeypatch):
    told = {}
    monkeypatch.setattr(node_findings.findings, "keep", lambda key, value, **more: told.update({key: (value, more)}))
    table = harm.shares(improvement.read(harm.folder() / "code-binding.safetensors")[1])
    node_findings.exchanged(table, "code-binding")
    for key, (value, more) in told.items():
        findings.report(key, value, **more)
    assert told["nodes/exchange/lost"][0] == table["share"].iloc[0]
    assert told["nodes/exchange/p"][0] == table["p"].iloc[0]
    assert told["nodes/exchange/brought"][0] == table["share"].iloc[1]
    node_findings.exchanged(pd.DataFrame(), "")
    assert len(told) == 3
