"""Tables that have an accuracy have the object choice beside it, and chapters hand both over."""

from dataclasses import replace

import pytest
import test_tuning
from entity_book.claims import handing_over
from entity_book.studies import evaluation, improvement, patched, semantics, tracking, tuning
from entity_circuits.circuits import criteria
from entity_circuits.heads import LETTERS, POSITIONS
from entity_circuits.methods import ablation, cmap, interchange
from entity_circuits.results import Store
from test_cmap import CIRCUIT as PATCHED_CIRCUIT
from test_cmap import setting
from test_evaluation import CIRCUIT
from test_evaluation import settings as settings  # a fixture
from test_semantics import GROUPS, SIZES, biased


@pytest.fixture
def kept(monkeypatch):
    """What a chapter would hand over."""
    found = {}

    def keep(key, value, **more):
        found[key] = handing_over.findings.report(key, value, **more)

    monkeypatch.setattr(handing_over.findings, "keep", keep)
    return found


def test_the_choice_of_random_circuits_is_their_mean_and_its_ratio_is_to_the_model_s_choice(settings):
    one = settings[0]
    sure = replace(one.full, chosen=one.full.chosen | True)
    table = evaluation.table([replace(one, full=sure)], {"found": CIRCUIT}, baselines=["found"], draws=3)
    drawn = criteria.random_circuits(one.subject, CIRCUIT, 3, layers="same")
    answers = ablation.circuit_accuracy(one.subject, [CIRCUIT, *drawn], one.prompts, one.means)
    rows = table.set_index("circuit")
    assert rows.loc["found", "choice"] == pytest.approx(answers.choice(0).value)
    assert rows.loc["found: same layers", "choice"] == pytest.approx(answers.choice(slice(1, 4)).value)
    assert (rows["full_choice"] == 1).all()
    assert rows["choice_ratio"].tolist() == pytest.approx(rows["choice"].tolist())
    assert (rows["choice_low"] <= rows["choice"]).all() and (rows["choice"] <= rows["choice_high"]).all()
    weak = replace(one.full, chosen=one.full.chosen & False)
    assert evaluation.table([replace(one, full=weak)], {"found": CIRCUIT})["choice_ratio"].isna().all()


def test_every_table_of_circuits_has_the_choice(settings):
    one, ends = settings[0], ["choice", "choice_low", "choice_high"]
    few = evaluation.first(one, 2)
    assert few.full.chosen.tolist() == one.full.chosen[:, :14].tolist()
    whole = ablation.circuit_accuracy(one.subject, ablation.all_heads(one.subject), one.prompts, one.means)
    assert evaluation.steps(one, []).loc["three places", "choice"] == pytest.approx(whole.choice().value)
    assert evaluation.by_layers(few, ["last"], bands=2)[ends].notna().all(axis=None)
    scan = evaluation.scan_positions(few.subject, few.prompts, few.means, ["query+1"])
    assert scan[ends].notna().all(axis=None) and scan["chosen"].tolist() == [True, True]
    rankings = {group: list(some) for group, some in CIRCUIT.groups.items()}
    grown = criteria.growth(one.subject, CIRCUIT, rankings, one.prompts, one.means, scales=(1,), draws=2)
    found = ablation.circuit_accuracy(one.subject, CIRCUIT, one.prompts, one.means)
    assert grown[grown["kind"] == "ranking"]["choice"].tolist() == pytest.approx([found.choice().value])


@pytest.fixture(scope="module")
def swept():
    base, tuned, prompts = setting()
    return base, tuned, cmap.sweep(base, tuned, improvement.conditions(base, PATCHED_CIRCUIT, draws=2), prompts)


def test_kept_answers_have_their_choices_and_old_files_do_without(swept, tmp_path, monkeypatch):
    base, tuned, found = swept
    monkeypatch.setattr(improvement, "folder", lambda: tmp_path)
    improvement.keep(found, tmp_path / "one.safetensors", base, tuned, command="new")
    back = improvement.kept(base, tuned)
    assert back.chosen.tolist() == found.chosen.tolist() and back.base_chosen.tolist() == found.base_chosen.tolist()
    old = replace(found, chosen=None, base_chosen=None, tuned_chosen=None)
    improvement.keep(old, tmp_path / "one.safetensors", base, tuned, command="old")
    back = improvement.kept(base, tuned)
    assert back.chosen is None and back.correct.tolist() == found.correct.tolist()
    some = improvement.under(back, back.conditions[:2])
    assert some.chosen is None and improvement.under(found, found.conditions[:2]).chosen.tolist() == (
        found.chosen[:2].tolist()
    )


def test_choices_that_were_not_kept_are_those_of_the_page_with_their_own_n(swept):
    found = swept[2]
    old = replace(found, chosen=None, base_chosen=None, tuned_chosen=None)
    live = improvement.under(found, found.conditions[:5])
    table = improvement.with_choices(old.table().assign(n=2002), live)
    names = ["choice", "choice_low", "choice_change_high"]
    assert table[names].iloc[:5].equals(live.table()[names]) and table["choice_n"].iloc[:5].eq(6).all()
    assert table[names].iloc[5:].isna().all(axis=None) and table["choice_n"].iloc[5:].isna().all()
    own = improvement.with_choices(found.table().assign(n=2002), live)
    assert own[names].equals(found.table()[names]) and own["choice_n"].eq(2002).all()
    assert own.drop(columns=["choice_n"]).columns.tolist() == found.table().columns.tolist()


def test_the_objects_that_a_patched_model_says_are_those_of_either_prompt(tmp_path):
    study = semantics.study(biased(), GROUPS, store=Store(tmp_path), **SIZES)
    table = patched.among([study], draws=2)
    assert table["patched"].tolist() == ["no patch", "group", "other heads"] * 4
    assert table["group"].tolist() == [letter for letter in "ABCD" for _ in range(3)]
    rows = study.patch({"group": GROUPS["value_fetcher"]}, "last", "object")
    own = rows[rows["patched"] == "group"]
    first = table[(table["group"] == "A") & (table["patched"] == "group")].iloc[0]
    said = [first[name] for name in ("said", "chosen", "objects")]
    assert said == pytest.approx([own[name].mean() for name in ("hit", "chosen", "among")])
    assert (table["said"] <= table["chosen"] + 1e-12).all() and (table["said"] <= table["objects"] + 1e-12).all()
    shares = semantics.answers([study])
    for row in table.itertuples():
        group = next(name for name, letter in LETTERS.items() if letter == row.group)
        same = shares[
            (shares["group"] == group) & (shares["patched"] == row.patched) & (shares["answer"] == row.target)
        ]
        assert same["share"].iloc[0] == pytest.approx(row.said), (row.group, row.patched)
    assert POSITIONS["structure_reader"] == "prev" and set(table[table["group"] == "D"]["n"]) == {14}


def test_the_patches_of_the_page_are_not_computed_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    semantics.answers([semantics.study(biased(), GROUPS, store=store, **SIZES)])

    def refuse(*_, **__):
        raise AssertionError("something was recorded again")

    monkeypatch.setattr(interchange, "record", refuse)
    assert len(patched.among([semantics.study(biased(), GROUPS, store=store, **SIZES)])) == 12


def test_chapters_hand_over_choices_beside_accuracies_under_keys_of_their_own(kept, settings, swept):
    one = settings[0]
    full = replace(one.full, chosen=one.full.chosen | True, correct=one.full.correct | True)
    sure = replace(one, full=full)
    rows = evaluation.table([sure], {"found": CIRCUIT}, baselines=["found"], draws=2)
    handing_over.faithfulness(rows, rows, {"base": "one"}, "found")
    assert {"faithful/base", "choice/faithful/base", "choice/faithful/base-random"} <= set(kept)
    assert kept["choice/faithful/base"].value == pytest.approx(rows["choice_ratio"].iloc[0], abs=1e-5)

    old = replace(swept[2], chosen=None, base_chosen=None, tuned_chosen=None)
    handing_over.improvement(old, "code")
    assert "choice/cmap/gap" not in kept and "cmap/gap" in kept
    handing_over.improvement(old, "code", None, swept[2])
    gap = (swept[2].tuned_chosen.double() - swept[2].base_chosen.double()).mean()
    assert kept["choice/cmap/gap"].value == pytest.approx(float(gap), abs=1e-5)


def test_what_a_training_gains_is_handed_over_by_prompts_and_by_trainings(kept):
    frame = test_tuning.frame((0, 1, 2), base=0.4, arithmetic=0.41, code=0.6, shuffled=0.1)
    handing_over.gains(frame)
    handing_over.tracking(tracking.split(frame[frame["seed"] == 0]), "live")
    pooled, units = kept["gain/code"], kept["gain/code/trainings"]
    assert pooled.value == pytest.approx(units.value) and (pooled.low, pooled.high) != (units.low, units.high)
    seeds = tuning.summary(frame).query("kind == 'code'")["gain"]
    assert units.value == pytest.approx(seeds.mean(), abs=1e-5) and units.n == 700
    assert "mean of 3 trainings" in units.about
    assert kept["choice/gain/code"].value + kept["format/gain/code"].value == pytest.approx(seeds.iloc[0], abs=1e-5)
    assert "answers live" in kept["choice/gain/shuffled"].about
