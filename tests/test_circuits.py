"""Claims about circuits as data: files that are whole and checked, and comparisons with what chance would give."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
from entity_circuits import circuits
from entity_circuits.circuits import files
from entity_circuits.circuits.files import Finding
from entity_circuits.heads import GROUPS, Circuit, Head
from entity_circuits.methods import path_patching

COMMAND = 'entity-circuits discover "tiny [model]" --n 6'


@pytest.fixture(scope="module")
def discovery():
    k = dict(zip(GROUPS, (8, 6, 4, 2), strict=True))
    return path_patching.discover(tiny.subject("qwen2", layers=6), n=6, boxes=3, k=k)


@pytest.fixture(scope="module")
def pair(discovery):
    """What was found, and what might have been found in a model not unlike it."""
    one, draw = circuits.finding(discovery, command=COMMAND), np.random.default_rng(0)
    scores = {
        kind: {group: (table + draw.normal(0, 0.1, table.shape)).round(6) for group, table in tables.items()}
        for kind, tables in one.scores.items()
    }
    groups = {}
    for group, table in scores["ratio_of_means"].items():
        order = np.argsort(table, axis=None)[: len(one.circuit.groups[group]) + 1]
        groups[group] = tuple(Head(*map(int, divmod(i, table.shape[1]))) for i in order)
    return one, Finding(Circuit(groups, {**one.circuit.about, "model": "another", "seed": 1}), scores)


def by_hand(groups=None, scores=None, shape=(3, 4), statistic="mean"):
    """A finding of these groups (numbers of heads, row by row) and scores; all heads have a path unless told."""
    about = {"model": "m", "fingerprint": "f", "n": 7, "boxes": 7, "seed": 0, "reach": "query", "command": "c"}
    heads = {group: tuple(Head(*divmod(i, shape[1])) for i in numbers) for group, numbers in (groups or {}).items()}
    tables = {group: np.linspace(-1, 0, shape[0] * shape[1]).reshape(shape) for group in GROUPS} | (scores or {})
    return Finding(Circuit(heads, {**about, "statistic": statistic, "code": "d"}), {"mean": tables})


# Files


def test_a_stored_circuit_comes_back_with_its_scores_to_six_digits(discovery, tmp_path):
    saved = circuits.save(discovery, tmp_path / "one" / "tiny.json", command=COMMAND)
    loaded = circuits.load(tmp_path / "one" / "tiny.json")
    assert loaded.circuit == saved.circuit
    assert loaded.circuit.groups == discovery.circuit.groups
    for statistic in ("mean", "ratio_of_means"):
        for group, scores in discovery.scores.items():
            exact = scores.statistic(statistic).numpy()
            assert np.array_equal(loaded.scores[statistic][group], saved.scores[statistic][group], equal_nan=True)
            assert np.allclose(loaded.scores[statistic][group], exact, atol=5.1e-7, rtol=0, equal_nan=True)
    assert np.isnan(loaded.scores["mean"]["structure_reader"]).any()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["tiny.json"]


def test_scores_however_small_keep_the_order_by_which_their_heads_were_chosen(discovery, tmp_path):
    scores = {name: replace(one, change=one.change * 1e-8) for name, one in discovery.scores.items()}
    found = circuits.save(replace(discovery, scores=scores), tmp_path / "small.json", command=COMMAND)
    for again in (found, circuits.load(tmp_path / "small.json")):
        for group, one in scores.items():
            assert list(again.rankings("mean")[group]) == list(one.ranking("mean"))


def test_the_file_says_all_that_it_came_from_and_is_strict_json(discovery, tmp_path):
    path = tmp_path / "tiny.json"
    circuits.save(discovery, path, command=COMMAND)

    def refused(word):
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(path.read_text(), parse_constant=refused)
    about = content["about"]
    assert about["command"] == COMMAND
    assert (about["n"], about["seed"], about["model"]) == (6, 0, "tiny-qwen2-0")
    assert about["fingerprint"] == discovery.recordings[0].subject.fingerprint
    assert re.fullmatch(r"[0-9a-f]{20}", about["code"])
    assert None in itertools.chain(*content["scores"]["mean"]["position_detector"])
    assert Circuit.from_json(path.read_text()).groups == discovery.circuit.groups
    assert len(path.read_text().splitlines()) < 100, "a row of scores a line, not a number a line"


def test_saving_again_what_was_loaded_gives_the_same_bytes(pair, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    circuits.save(pair[1], first)
    circuits.save(circuits.load(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(discovery, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    circuits.save(discovery, path, command=COMMAND)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="give `command`"):
        circuits.save(discovery, path)
    with pytest.raises(ValueError, match="L9H0"):
        circuits.save(by_hand({"value_fetcher": [36]}), path)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files.places.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        circuits.save(discovery, path, command=COMMAND)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


DAMAGE = {
    "cut off": (lambda text: text[:-200], "is not the file of a circuit"),
    "another format": (lambda text: text.replace('"format": 1', '"format": 2'), "its format is 2"),
    "a list": (lambda text: "[1, 2]", "is not the file of a circuit"),
    "no scores": (lambda text: text.replace('"scores"', '"score"'), "'scores' is missing"),
    "a round missing": (lambda text: text.replace('"structure_reader": [\n', '"x": [\n'), "'structure_reader'"),
    "an unknown group": (lambda text: text.replace('"groups": {', '"groups": {"copier": [],'), "copier"),
    "no head": (lambda text: re.sub(r"L\dH\d", "L1-H2", text, count=1), "L1-H2"),
    "a head beyond": (lambda text: re.sub(r"L\dH\d", "L1H8", text, count=1), "has L1H8, but"),
    "a head twice": (lambda text: re.sub(r'("L\dH\d"), "L\dH\d"', r"\1, \1", text, count=1), "a head twice"),
    "n as text": (lambda text: text.replace('"n": 6', '"n": "6"'), "must say 'n', as int"),
    "no command": (lambda text: text.replace('"command"', '"comment"'), "must say 'command'"),
    "a ragged table": (lambda text: text.replace("[null, ", "[", 1), "is not the file of a circuit"),
    "a word for a number": (lambda text: text.replace("[null, ", '["none", ', 1), "is not the file of a circuit"),
    "other scores": (lambda text: text.replace('"ratio_of_means": {', '"median": {'), "no scores by 'ratio_of_means'"),
    "format true": (lambda text: text.replace('"format": 1', '"format": true'), "its format is True"),
    "n below 1": (lambda text: text.replace('"n": 6', '"n": -5'), "n=-5"),
    "n of 0": (lambda text: text.replace('"n": 6', '"n": 0'), "n=0"),
    "no fingerprint": (lambda text: re.sub('"fingerprint": ".*"', '"fingerprint": ""', text), "'fingerprint', as str"),
    "a score that is true": (lambda text: text.replace("[null, ", "[true, ", 1), "null for a head without a path, not"),
    "a score in quotes": (lambda text: text.replace("[null, ", '["1.5", ', 1), "not '1.5'"),
    "a score that is no number": (lambda text: text.replace("[null, ", "[NaN, ", 1), "NaN is no number of JSON"),
    "a score beyond numbers": (lambda text: text.replace("[null, ", "[1e999, ", 1), "a score is infinite"),
    "groups twice": (
        lambda text: text.replace('"about": {', '"groups": {}, "about": {', 1),
        "'groups' stands there twice",
    ),
    "a position of no group": (
        lambda text: text.replace('"about": {', '"positions": {"value_fecher": "last"}, "about": {', 1),
        "'value_fecher'",
    ),
    "scores of no group": (lambda text: re.sub(r'"mean": \{', '"mean": {"copier": [[0]],', text), "'copier'"),
    "a head without a path": (
        lambda text: re.sub(r'("structure_reader": \[)"L\dH\d"', r'\1"L5H0"', text, count=1),
        "which has no score",
    ),
    "a group that is a number": (lambda text: text.replace('"value_fetcher": [', '"value_fetcher": 5, "x": [', 1), "5"),
    "an endless score": (lambda text: text.replace("[null, ", "[Infinity, ", 1), "infinite"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name_with_what_is_wrong(discovery, tmp_path, damage):
    path = tmp_path / "tiny.json"
    circuits.save(discovery, path, command=COMMAND)
    change, words = DAMAGE[damage]
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(ValueError, match=r"tiny\.json") as raised:
        circuits.load(path)
    assert words in str(raised.value)


def test_a_file_in_another_encoding_is_refused_by_its_name(discovery, tmp_path):
    path = tmp_path / "tiny.json"
    circuits.save(discovery, path, command=COMMAND)
    path.write_bytes(path.read_bytes().replace(b"tiny [", b"tin\xe9 ["))
    with pytest.raises(ValueError, match=r"tiny\.json is no text in UTF-8"):
        circuits.load(path)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"groups": []}', '{"groups": {"value_fetcher": "L3H5"}}'])
def test_a_text_that_is_no_circuit_is_refused_in_words(text):
    with pytest.raises(ValueError, match="list"):
        Circuit.from_json(text)


def test_a_circuit_that_is_not_there_is_missed_with_the_names_that_are(discovery, tmp_path, monkeypatch):
    monkeypatch.setattr(files.places, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="there are none here"):
        circuits.load("mine")
    circuits.save(discovery, circuits.folder() / "mine.json", command=COMMAND)
    assert circuits.load("mine").model == "tiny-qwen2-0"
    assert circuits.names() == ["mine"]
    with pytest.raises(FileNotFoundError, match=r"'yours'.*: mine"):
        circuits.load("yours")


# Comparisons


def test_a_circuit_shares_everything_with_itself(pair):
    table = circuits.compare(pair[0], pair[0]).set_index("group")
    assert (table["shared"] == table["one"]).all()
    assert (table[["of_one", "of_other"]] == 1).all(axis=None)
    assert np.allclose(table["spearman"].drop("all"), 1)
    assert table.loc["all", "one"] == len(pair[0].circuit)


def test_precision_and_recall_are_shares_of_the_one_and_of_the_other():
    one = by_hand({"value_fetcher": [0, 1, 2, 3], "position_detector": [5]})
    other = by_hand({"value_fetcher": [2, 3, 4], "position_detector": [6], "structure_reader": [1]})
    table = circuits.compare(one, other).set_index("group")
    row = table.loc["value_fetcher"]
    assert (row["one"], row["other"], row["shared"], row["of_one"], row["of_other"]) == (4, 3, 2, 0.5, 2 / 3)
    assert np.isnan(table.loc["structure_reader", "of_one"])
    assert (table.loc["structure_reader", "of_other"], table.loc["structure_reader", "p"]) == (0, 1)
    assert tuple(table.loc["all", ["one", "other", "shared"]]) == (5, 5, 2)


def drawn(one, other, able_one, able_other, shape, same_layers):
    """Shares of overlaps over every pair of sets that could have been drawn, by counting them all."""

    def sets(members, able):
        layers = sorted(i // shape[1] for i in members)
        for chosen in itertools.combinations(able, len(members)):
            if not same_layers or sorted(i // shape[1] for i in chosen) == layers:
                yield set(chosen)

    pairs = itertools.product(sets(one, able_one), list(sets(other, able_other)))
    overlaps = [len(a & b) for a, b in pairs]
    return np.bincount(overlaps, minlength=min(len(one), len(other)) + 1) / len(overlaps)


@pytest.mark.parametrize("holes", [((), ()), ((0, 7), (7, 3)), ((), (0, 1, 4))], ids=str)
def test_chance_is_what_counting_all_pairs_of_sets_gives(holes):
    shape, members = (3, 3), ([2, 5, 6], [2, 5, 8])
    tables = []
    for missing in holes:
        table = np.zeros(9)
        table[list(missing)] = np.nan
        tables.append(table.reshape(shape))
    found = [
        by_hand({"value_fetcher": sets}, dict.fromkeys(GROUPS, table), shape)
        for sets, table in zip(members, tables, strict=True)
    ]
    row = circuits.compare(*found).iloc[0]
    able = [[i for i in range(9) if i not in missing] for missing in holes]
    free, bound = (drawn(*members, *able, shape, same_layers) for same_layers in (False, True))
    assert row["shared"] == 2
    assert row["chance"] == pytest.approx(free @ np.arange(4))
    assert row["p"] == pytest.approx(free[2:].sum())
    assert row["layer_chance"] == pytest.approx(bound @ np.arange(4))
    assert row["layer_p"] == pytest.approx(bound[2:].sum())
    assert free[: row["chance_low"]].sum() < 0.025 <= free[: row["chance_low"] + 1].sum()
    assert free[: row["chance_high"]].sum() < 0.975 <= free[: row["chance_high"] + 1].sum() + 1e-9


def test_chance_for_all_groups_adds_up_over_them(pair):
    table = circuits.compare(*pair).set_index("group")
    for column in ("chance", "layer_chance"):
        assert table.loc["all", column] == pytest.approx(table[column].drop("all").sum())
    assert (table["layer_p"] > 0).all() and (table[["p", "layer_p"]] <= 1).all(axis=None)


def test_the_rank_correlation_is_over_heads_with_a_path_in_both():
    first, second = np.arange(12.0).reshape(3, 4), np.arange(12.0).reshape(3, 4) ** 3
    second[2, 3], first[0, 0], second[0, 1] = -5, np.nan, np.nan
    found = [by_hand(scores={"value_fetcher": table}) for table in (first, second)]
    table = circuits.compare(*found).set_index("group")
    # Ten heads, of which the last falls to the first rank and the nine others move up by one: 1 - 6 * 90 / 990.
    assert table.loc["value_fetcher", "spearman"] == pytest.approx(1 - 6 * (81 + 9) / (10 * 99))
    assert table.loc["value_fetcher", "ranked"] == 10


def test_models_of_different_shapes_and_missing_statistics_are_refused(pair):
    with pytest.raises(ValueError, match="3 layers of 4 heads"):
        circuits.compare(by_hand(), pair[0])
    with pytest.raises(ValueError, match="no scores by 'median'"):
        circuits.impact(*pair, statistic="median")


def test_impact_sorts_by_size_in_the_one_and_knows_the_groups_apart():
    scores = {
        "value_fetcher": np.array([[-0.1, 0.4], [-0.9, np.nan]]),
        "position_transmitter": np.array([[-0.5, 0.0], [np.nan, np.nan]]),
        "position_detector": np.full((2, 2), np.nan),
        "structure_reader": np.full((2, 2), np.nan),
    }
    turned = {group: -table for group, table in scores.items()} | {"position_transmitter": np.full((2, 2), np.nan)}
    one = by_hand({"value_fetcher": [2], "position_transmitter": [0]}, scores, (2, 2))
    other = by_hand({"value_fetcher": [0, 1]}, turned, (2, 2))
    table = circuits.impact(one, other)
    assert list(table["head"]) == ["L1H0", "L0H0", "L0H1", "L0H0", "L0H1"]
    assert list(table["score"]) == [-0.9, -0.5, 0.4, -0.1, 0.0]
    assert list(table["rank"]) == [1, 2, 3, 4, 5]
    assert np.array_equal(table["other"], [0.9, np.nan, -0.4, 0.1, np.nan], equal_nan=True)
    assert list(table["in_one"]) == [True, True, False, False, False]
    assert list(table["in_other"]) == [False, False, True, True, False], "L0H0 is in another group of the one"
    assert len(circuits.impact(one, other, top=3)) == 3


def test_the_report_names_both_models_their_commands_and_every_group(pair):
    text = circuits.report(*pair)
    table = circuits.compare(*pair).set_index("group")
    assert (
        "tiny-qwen2-0 (6 prompts" in text
        and "another (6 prompts, boxes 3, seed 1, reach query, by ratio_of_means)" in text
    )
    assert text.count(COMMAND) == 2
    lines = {line.split("  ")[0]: line for line in text.splitlines() if line}
    for letter, group in zip("ABCD", GROUPS, strict=True):
        cells = re.split(r"\s{2,}", lines[f"{letter} {group.replace('_', ' ')}"])
        assert cells[1:4] == [str(table.loc[group, size]) for size in ("one", "other", "shared")]
    assert "all" in lines
    assert max(map(len, text.splitlines())) < 150


def test_circuits_without_heads_or_paths_are_stored_and_compared_too(tmp_path):
    nothing = {group: np.full((3, 4), np.nan) for group in GROUPS}
    found = circuits.save(by_hand({}, nothing), tmp_path / "empty.json")
    table = circuits.compare(found, circuits.load(tmp_path / "empty.json"))
    assert (table["shared"] == 0).all() and (table["p"] == 1).all() and table["spearman"].isna().all()
    assert circuits.impact(found, found).empty
    assert "all" in circuits.report(found, found)


def test_a_stored_circuit_ranks_its_heads_as_the_discovery_did(discovery):
    found = circuits.finding(discovery, command="made by a test")
    for group, heads in found.rankings().items():
        scores = discovery.scores[group]
        assert sorted(heads) == sorted(scores.ranking())
        ranked = [float(scores.statistic(found.statistic)[head.layer, head.head]) for head in heads]
        assert ranked == pytest.approx(sorted(ranked), abs=2e-6)


def test_the_books_circuits_are_whole_and_say_of_which_model_and_by_which_command():
    assert circuits.names() != []
    for name in circuits.names():
        found = circuits.load(name)
        assert found.model.split("+")[-1] == name  # a fine-tuned model is called by its base and its own name
        assert found.circuit.about["command"].startswith(f"entity-circuits discover {name}")
        ranked = found.rankings()
        assert all(set(heads) <= set(ranked[group][: len(heads)]) for group, heads in found.circuit.groups.items())


def test_the_circuit_of_a_model_is_the_stored_one_of_these_very_weights_or_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "folder", lambda: tmp_path)
    subject, other = tiny.subject("qwen2"), tiny.subject("qwen2", seed=1)
    found = circuits.of(subject, n=7)
    assert found.circuit.groups == path_patching.discover(subject, n=7).circuit.groups
    kept = circuits.save(found, tmp_path / "mine.json")
    monkeypatch.setattr(path_patching, "discover", lambda *_, **__: pytest.fail("it is stored"))
    assert circuits.of(subject, n=7).circuit == kept.circuit
    with pytest.raises(pytest.fail.Exception, match="it is stored"):
        circuits.of(other, n=7)
