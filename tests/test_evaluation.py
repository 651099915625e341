"""One circuit in several models, and the figures of mean ablation, on small random models."""

import pandas as pd
import pytest
import tiny
from entity_book.claims import findings, handing_over
from entity_book.claims.findings import report
from entity_book.figures import charts
from entity_book.figures import evaluation as figures
from entity_book.studies import enhanced, evaluation
from entity_book.studies.evaluation import Setting
from entity_circuits import statistics
from entity_circuits.circuits import criteria
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation
from entity_circuits.tasks import boxes

CIRCUIT = Circuit(
    {
        "value_fetcher": (Head(3, 1), Head(2, 4)),
        "position_transmitter": (Head(2, 0),),
        "position_detector": (Head(1, 3),),
        "structure_reader": (Head(0, 2),),
    },
    {},
)


@pytest.fixture(scope="module")
def settings():
    made = []
    for name, seed in (("one", 0), ("two", 1)):
        subject = tiny.subject("qwen2", seed=seed)
        prompts = boxes.prompts(subject, 28, split="evaluation")
        means = ablation.means(subject, n=8)
        made.append(Setting(name, subject, prompts, means, ablation.full_model(subject, prompts)))
    return made


def test_the_table_has_a_row_a_model_and_circuit_and_two_for_each_baseline(settings):
    table = evaluation.table(
        settings, {"found": CIRCUIT, "all": ablation.all_heads(settings[0].subject)}, baselines=["found"], draws=2
    )
    names = ["found", "found: same layers", "found: random", "all"]
    assert table["circuit"].tolist() == names * 2
    assert table["model"].tolist() == ["one"] * 4 + ["two"] * 4
    assert table["heads"].tolist()[:4] == [5, 5, 5, 3 * 32]
    alone = ablation.circuit_accuracy(settings[1].subject, CIRCUIT, settings[1].prompts, settings[1].means)
    assert table["accuracy"].iloc[4] == pytest.approx(alone.estimate().value)
    assert (table["difference"] - (table["accuracy"] - table["full"])).abs().max() < 1e-12


def test_a_model_that_is_not_above_chance_has_no_ratio(settings):
    table = evaluation.table(settings[:1], {"found": CIRCUIT})
    assert settings[0].full.estimate().low <= 1 / 7
    assert table["ratio"].isna().all()


def test_a_first_part_answers_as_the_whole_does(settings):
    one = evaluation.first(settings[0], 2)
    assert len(one.prompts) == 14
    assert one.full.correct[0].tolist() == settings[0].full.correct[0, :14].tolist()
    with pytest.raises(ValueError, match="5 contexts are asked for"):
        evaluation.first(settings[0], 5)


def test_no_circuit_at_these_places_is_asked_to_beat_a_ceiling_it_contains(settings):
    one = settings[0]
    every = ablation.circuit_accuracy(one.subject, ablation.all_heads(one.subject), one.prompts, one.means)
    assert evaluation.ceiling(one).correct.tolist() == every.correct.tolist()


def test_a_band_of_layers_that_is_taken_away_at_a_place_leaves_all_others(settings):
    one = settings[0]
    table = evaluation.by_layers(one, ["query", "last"], bands=2)
    assert table[["place", "layers"]].to_numpy().tolist() == [[p, b] for p in ("query", "last") for b in ("0-1", "2-3")]
    every = ablation.all_heads(one.subject, ["query", "last"])
    wanted = {**every, "last": tuple(head for head in every["last"] if head.layer < 2)}
    alone = ablation.circuit_accuracy(one.subject, wanted, one.prompts, one.means).estimate()
    assert table["accuracy"].iloc[3] == alone.value


def test_ceilings_step_by_step_are_those_of_the_places_so_far_also_in_words(settings):
    one, extra = settings[0], ["object", "prev+1", "query+1"]
    table = evaluation.steps(one, extra)
    assert table.index.tolist() == ["three places", "five", "six"]
    assert table["added"].tolist() == ["", "object and prev+1", "query+1"]
    for name, places in (("three places", []), ("five", extra[:2]), ("six", extra)):
        assert table["accuracy"][name] == evaluation.ceiling(one, places).estimate().value
    words = evaluation.steps_in_words(table)
    six = table.loc["six"]
    assert list(words) == ["three_places", "five", "six", "six_gap"]
    assert words["six"] == statistics.spoken(six.accuracy, six.low, six.high)
    assert words["six_gap"].startswith(f"{six.accuracy - one.full.estimate().value:+.2f} [")
    assert evaluation.steps(one, [])["added"].tolist() == ["", "none", "none"]


def test_one_circuit_of_a_table_is_said_as_its_row_has_it(settings):
    table = evaluation.table(settings, {"found": CIRCUIT, "none": {"last": ()}})
    row = table[(table["model"] == "two") & (table["circuit"] == "found")].iloc[0]
    assert evaluation.spoken(table, "two", "found") == statistics.spoken(row.accuracy, row.low, row.high)


def test_heads_that_are_kept_also_change_the_answers_and_not_the_count(settings):
    one, whole = settings[0], ablation.all_heads(settings[0].subject)
    table = evaluation.table([one], {"found": CIRCUIT}, also={"query+1": whole["query"]})
    both = {**ablation.kept(CIRCUIT), "query+1": whole["query"]}
    alone = ablation.circuit_accuracy(one.subject, both, one.prompts, one.means)
    assert table["heads"].tolist() == [5]
    assert table["accuracy"].tolist() == [alone.estimate().value]


def test_what_a_circuit_gained_and_what_the_rest_gained_add_up_to_what_the_model_gained(settings):
    base, tuned = settings
    asked = {"none": {"last": ()}, "found": CIRCUIT}
    rows = enhanced.compared(base, tuned, asked, "found")
    inside = [ablation.circuit_accuracy(one.subject, CIRCUIT, one.prompts, one.means).correct[0] for one in settings]
    over = statistics.difference(inside[1], base.full.correct[0], base.full.contexts)
    assert rows.loc["over-base", ["value", "low", "high", "n"]].tolist() == [over.value, over.low, over.high, over.n]
    assert rows["value"]["gained"] + rows["value"]["beside"] == pytest.approx(rows["value"]["whole-gained"])
    assert rows["value"]["over-base"] - rows["value"]["in-base"] == pytest.approx(rows["value"]["gained"])
    assert list(rows.index) == list(enhanced.COMPARED)


def test_what_a_circuit_gained_is_handed_over_in_accuracy_and_in_the_choice(settings, monkeypatch):
    kept = {}
    monkeypatch.setattr(findings, "keep", lambda key, value, **more: kept.update({key: report(key, value, **more)}))
    rows = enhanced.compared(*settings, {"found": CIRCUIT}, "found")
    handing_over.enhanced({"": rows, "room": rows}, "tuned")
    assert len(kept) == 4 * len(rows)
    for key, row in rows.iterrows():
        one, room = kept[f"circuit/{key}/choice"], kept[f"circuit/{key}/room/choice"]
        assert (one.value, one.low, one.high) == pytest.approx((row.choice, row.choice_low, row.choice_high), abs=1e-5)
        assert one.value == room.value and one.about.endswith("choice among the objects")
        assert kept[f"circuit/{key}"].value == pytest.approx(row.value, abs=1e-5)


def test_a_circuit_of_all_heads_agrees_with_its_model_and_one_of_none_does_not(settings):
    everything = ablation.all_heads(settings[0].subject)["last"]
    rows = enhanced.agreeing(settings, {"everywhere": everything})
    assert rows["model"].tolist() == ["one", "two"] and rows["agreement"].tolist() == [1.0, 1.0]
    assert rows["choice"].tolist() == rows["whole_choice"].tolist()
    nothing = enhanced.agreeing(settings[:1], {"last": ()}).iloc[0]
    assert nothing["agreement"] < 1 and 0 < nothing["independent"] < 1 and nothing["n"] == 28


def test_growth_with_further_places_is_set_beside_the_same_heads_without():
    accuracies = {"accuracy": [0.1, 0.3, 0.0, 0.2], "low": [0.0, 0.2, 0.0, 0.1], "high": [0.2, 0.4, 0.1, 0.3]}
    scales, kinds = [1, 2, 1, 2], ["ranking", "ranking", "random", "random"]
    grown = pd.DataFrame({"scale": scales, "kind": kinds, "heads": [5, 10, 5, 10], **accuracies, "n": 14})
    wide = grown[:2].assign(accuracy=[0.6, 0.5], low=[0.5, 0.4], high=[0.7, 0.6], heads=[69, 74])
    beside = evaluation.widened(grown, wide)
    assert beside.index.tolist() == [5, 10]
    assert beside["three places"].tolist() == [0.1, 0.3] and beside["five places"].tolist() == [0.6, 0.5]
    words = evaluation.widened_in_words(grown, wide)
    assert words == {
        "wide_best": statistics.spoken(0.6, 0.5, 0.7),
        "wide_heads": "5",
        "narrow_best": statistics.spoken(0.1, 0.0, 0.2),
    }


@pytest.fixture(scope="module")
def drawn(settings):
    one = settings[0]
    scan = evaluation.scan_positions(one.subject, one.prompts, one.means, ["object", "prev+1"], enough=2.0)
    growth = pd.DataFrame(
        {
            "kind": ["ranking", "ranking", "random"],
            "heads": [5, 10, 5],
            "accuracy": [0.1, 0.25, 0.0],
            "low": [0.05, 0.2, 0.0],
            "high": [0.2, 0.3, 0.1],
            "n": 28,
        }
    )
    complete = criteria.completeness(one.subject, CIRCUIT, one.prompts, one.means, draws=2)
    minimal = criteria.minimality(one.subject, CIRCUIT, one.prompts, one.means)
    return {
        "places": figures.places(scan),
        "growth": figures.growth(growth, {"full model": 0.5}),
        "completeness": figures.completeness(complete.table()),
        "minimality": figures.minimality(minimal.table()),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("places", "Most: "),
        ("growth", "0.10 with 5 heads; 0.25 with 10 heads. Lines: full model 0.50"),
        ("completeness", "over 2 random sets"),
        ("minimality", "of 5 cost nothing"),
    ],
)
def test_a_figure_says_its_numbers_in_words_and_can_be_drawn(drawn, name, words):
    spec = drawn[name].to_dict()
    assert words in spec["description"]
    assert spec["width"] <= 330
    assert charts.picture(spec, "svg").startswith(b"<svg")


def test_the_cost_of_an_evaluation_is_told_with_its_agreement(settings):
    table = evaluation.cost(settings[0], CIRCUIT, contexts=2).set_index("method")
    assert set(table.index) == {"replay", "definition"} and (table["n"] == 14).all()
    assert table.speedup["definition"] == 1 and table.largest_difference["definition"] == 0
    assert table.largest_difference["replay"] < 1e-3 and table.same_answers["replay"] == 1
    assert (table["seconds_per_100"] == 100 * table["seconds"] / 14).all()
