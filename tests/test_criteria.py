"""Claim: faithfulness, completeness and minimality are what they say, on numbers that can be checked by hand."""

import math

import pandas as pd
import pytest
import tiny
import torch
from entity_book.studies import evaluation
from entity_circuits.circuits import criteria, growth
from entity_circuits.circuits.criteria import Minimality
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation, chosen, cmap, path_patching
from entity_circuits.methods.ablation import Answers
from entity_circuits.results import Store
from entity_circuits.tasks import boxes

BOXES = 3
GROUPS = {
    "value_fetcher": (Head(3, 1), Head(3, 6), Head(2, 0)),
    "position_transmitter": (Head(2, 5), Head(1, 7)),
    "position_detector": (Head(1, 2), Head(2, 2)),
    "structure_reader": (Head(0, 4), Head(0, 1)),
}


def setting(n=6):
    subject = tiny.subject("qwen2", dtype=torch.float64)
    prompts = boxes.prompts(subject, n, boxes=BOXES, split="pruning")
    return subject, prompts, ablation.means(subject, n=5, boxes=BOXES)


def bits(text):
    return torch.tensor([letter == "1" for letter in text])


# Faithfulness


def test_faithfulness_is_difference_and_ratio_of_unrounded_accuracies_over_contexts():
    contexts = torch.arange(12) // 3
    found = criteria.faithfulness(bits("110110110110"), bits("111111111111"), contexts, chance=1 / 7)
    assert found.difference.value == pytest.approx(-1 / 3)
    assert found.ratio is not None and found.ratio.value == pytest.approx(2 / 3)
    assert found.ratio.low == pytest.approx(2 / 3) and found.ratio.contexts == 4  # every context is alike
    uneven = criteria.faithfulness(bits("111111000000"), bits("111111110110"), contexts, chance=1 / 7)
    assert uneven.ratio is not None and uneven.ratio.value == pytest.approx(0.6)
    assert uneven.ratio.low < 0.3 < 0.9 < uneven.ratio.high


def test_a_ratio_to_a_model_that_is_not_above_chance_is_refused():
    contexts = torch.arange(12) // 3
    found = criteria.faithfulness(bits("110110110110"), bits("100000000000"), contexts, chance=1 / 7)
    assert found.ratio is None and found.difference.value == pytest.approx(7 / 12)
    answers = [Answers(bits(text)[None], torch.zeros(1, 12), contexts) for text in ("110110110110", "100000000000")]
    table = criteria.faithfulness_table({"ours": answers[0]}, {"weak": answers[1]}, 1 / 7)
    assert math.isnan(table["ratio"].iloc[0]) and table["accuracy"].iloc[0] == pytest.approx(2 / 3)


# Completeness


def test_completeness_compares_circuit_and_model_without_the_same_heads():
    subject, prompts, means = setting()
    circuit = Circuit(GROUPS)
    found = criteria.completeness(subject, circuit, prompts, means, draws=3)
    assert found.names == ("nothing", *criteria.ORDER, "random 1", "random 2", "random 3")
    assert found.removed[1] == {"prev": GROUPS["structure_reader"]}
    for index, gone in enumerate(found.removed):
        left = ablation.circuit_accuracy(subject, ablation.without(circuit, gone), prompts, means)
        assert torch.allclose(found.circuit.logprob[index], left.logprob[0], atol=1e-11)
        whole = ablation.full_without(subject, [gone], prompts, means, method="definition")
        assert torch.allclose(found.full.logprob[index], whole.logprob[0], atol=1e-9)
    assert torch.allclose(found.full.logprob[0], ablation.full_model(subject, prompts).logprob[0].double(), atol=1e-4)
    table = found.table()
    assert table["heads"].tolist()[:5] == [0, 2, 2, 2, 3]
    assert (table["incompleteness"] - (table["circuit"] - table["full"])).abs().max() < 1e-12


def test_random_sets_take_each_head_half_of_the_time(monkeypatch):
    nothing = Answers(torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(1))
    monkeypatch.setattr(criteria, "circuit_accuracy", lambda *rest, **options: nothing)
    monkeypatch.setattr(criteria, "full_without", lambda *rest, **options: nothing)
    found = criteria.completeness(None, Circuit(GROUPS), None, None, draws=400)
    taken = [sum(map(len, gone.values())) for gone in found.removed[5:]]
    assert 0.45 < sum(taken) / 400 / 9 < 0.55 and len({str(gone) for gone in found.removed[5:]}) > 200


# Minimality


def by_hand(removed: set[Head]) -> int:
    """Right answers of a made-up circuit of ten prompts: 1.1 and 1.2 stand in for each other, 2.1 is worth one."""
    count = 10
    if {Head(1, 1), Head(1, 2)} <= removed:
        count -= 6
    return count - (1 if Head(2, 1) in removed else 0)


@pytest.fixture
def made_up(monkeypatch):
    whole = {Head(1, 1), Head(1, 2), Head(2, 1), Head(3, 1)}
    seen = []

    def accuracy(subject, circuits, prompts, means, **rest):
        seen.append(len(circuits))
        counts = [by_hand(whole - {head for some in circuit.values() for head in some}) for circuit in circuits]
        correct = torch.stack([torch.arange(10) < count for count in counts])
        return Answers(correct, correct.double(), torch.arange(10) // 2)

    monkeypatch.setattr(criteria, "circuit_accuracy", accuracy)
    return {"last": tuple(sorted(whole))}, seen


def test_minimality_finds_stand_ins_and_what_a_head_is_worth_without_them(made_up):
    circuit, seen = made_up
    found = criteria.minimality(None, circuit, None, None)
    assert found.pairs["last"].tolist() == [[10, 4, 9, 10], [4, 10, 9, 10], [9, 9, 9, 9], [10, 10, 9, 10]]
    both = (Head(1, 1), Head(1, 2))  # without either, 2.1 is missed as ever: that is a positive loss
    assert found.stand_ins["last"] == ((Head(1, 2),), (Head(1, 1),), both, ())
    table = found.table().set_index("head")
    assert table.loc["L1H1", ["before", "after"]].tolist() == [10, 4]
    assert table.loc["L1H1", "ratio"] == pytest.approx(10 / 4 - 1)
    assert table.loc["L1H1", "loss"] == pytest.approx(0.6)
    assert table.loc["L2H1", "ratio"] == pytest.approx(4 / 3 - 1) and table.loc["L3H1", "ratio"] == 0
    assert table.loc["L3H1", "stand_ins"] == 0
    assert found.kept(0.01) == {"last": (Head(1, 1), Head(1, 2), Head(2, 1))}
    assert found.kept(0.0) == circuit
    assert sum(seen) <= criteria.minimality_cost(circuit) == 1 + 6 + 12


def test_both_heads_of_a_pair_are_removed_also_when_their_numbers_are_equal():
    pairs = torch.tensor([[5, 2], [2, 5]])  # two heads of one number: together they cost three
    assert criteria._stand_ins(pairs, (Head(1, 3), Head(2, 3)), 0.3) == [(Head(2, 3),), (Head(1, 3),)]
    subject, prompts, means = setting()
    circuit = {"last": (Head(2, 3), Head(3, 3), Head(1, 0))}
    found = criteria.minimality(subject, circuit, prompts, means)
    left = ablation.circuit_accuracy(subject, {"last": (Head(2, 3),)}, prompts, means)
    assert found.pairs["last"][0, 2] == int(left.correct.sum())


def test_zeros_are_counts_and_nothing_left_is_an_infinite_ratio():
    zero, one = bits("0000")[None], bits("1100")[None]
    answers = [Answers(x, x.double(), torch.arange(4)) for x in (one, zero)]

    def made(before, after):
        parts = {"heads": {"last": (Head(0, 0),)}, "pairs": {"last": torch.zeros(1, 1, dtype=torch.long)}}
        sides = {"before": {"last": before}, "after": {"last": after}}
        return Minimality(places={"last": "last"}, stand_ins={"last": ((),)}, whole=before, **parts, **sides)

    assert made(answers[0], answers[1]).table()["ratio"].tolist() == [math.inf]
    assert made(answers[1], answers[1]).table()["ratio"].tolist() == [0.0]
    assert made(answers[1], answers[0]).table()["ratio"].tolist() == [-1.0]
    pairs = torch.tensor([[4, 0], [0, 3]])
    assert criteria._stand_ins(pairs, (Head(0, 0), Head(0, 1)), 0.3) == [(Head(0, 1),), (Head(0, 0),)]


def test_minimality_of_a_model_is_that_of_its_circuits_and_resumes(tmp_path):
    subject, prompts, means = setting()
    circuit = Circuit(GROUPS)
    found = criteria.minimality(subject, circuit, prompts, means, store=Store(tmp_path))
    assert list(found.heads) == list(criteria.ORDER)
    part, place = "value_fetcher", "last"
    for index, head in enumerate(found.heads[part]):
        gone = found.stand_ins[part][index]
        for answers, removed in ((found.before, gone), (found.after, (*gone, head))):
            left = ablation.without(circuit, {place: removed})
            one = ablation.circuit_accuracy(subject, left, prompts, means, method="definition")
            assert torch.allclose(answers[part].logprob[index], one.logprob[0], atol=1e-9)
    files = set(tmp_path.iterdir())
    again = criteria.minimality(subject, circuit, prompts, means, store=Store(tmp_path))
    assert again.table().equals(found.table()) and set(tmp_path.iterdir()) == files


# Baselines and growth


def test_random_circuits_have_equal_sizes_no_head_twice_and_on_demand_equal_layers():
    subject, circuit = tiny.subject(), Circuit(GROUPS)
    whole = ablation.kept(circuit)
    for layers in ("any", "same"):
        found = criteria.random_circuits(subject, circuit, 20, layers=layers)
        assert len({str(one) for one in found}) > 10
        assert found == criteria.random_circuits(subject, circuit, 20, layers=layers)
        for one in found:
            assert {place: len(set(some)) for place, some in one.items()} == {k: len(v) for k, v in whole.items()}
    for one in found:
        for place, some in one.items():
            assert sorted(h.layer for h in some) == sorted(h.layer for h in whole[place])


def test_growth_takes_heads_off_the_top_of_the_rankings():
    subject, prompts, means = setting()
    found = path_patching.discover(subject, n=6, boxes=BOXES, k=dict.fromkeys(GROUPS, 2))
    rankings = {group: scores.ranking() for group, scores in found.scores.items()}
    circuit = criteria.grown(found.circuit, rankings, 2)
    for group, heads in circuit.groups.items():
        assert heads == tuple(found.scores[group].ranking()[:4])
    also = {"prev+1": [Head(1, 1)]}
    table = criteria.growth(subject, found.circuit, rankings, prompts, means, scales=(0.5, 2), draws=2, also=also)
    assert table["kind"].tolist() == ["ranking", "random", "same layers"] * 2
    wanted = {**ablation.kept(circuit), "prev+1": (Head(1, 1),)}
    expected = ablation.circuit_accuracy(subject, wanted, prompts, means).estimate()
    assert table[(table["scale"] == 2) & (table["kind"] == "ranking")]["accuracy"].tolist() == [expected.value]


def test_heads_kept_also_at_a_place_of_the_circuit_stand_beside_its_own():
    subject, prompts, means = setting()
    circuit, rankings = Circuit({"value_fetcher": (Head(3, 1),)}), {"value_fetcher": [Head(3, 1), Head(3, 6)]}
    also = {"last": ["L2H0"], "prev": ["L0H4"]}
    asked = []
    with pytest.MonkeyPatch.context() as patched:
        real = ablation.circuit_accuracy
        patched.setattr(
            growth, "circuit_accuracy", lambda s, given, *a, **k: asked.extend(given) or real(s, given, *a, **k)
        )
        table = criteria.growth(subject, circuit, rankings, prompts, means, scales=[1], draws=0, also=also)
    both = {"last": (Head(2, 0), Head(3, 1)), "prev": (Head(0, 4),)}
    assert asked == [both] == evaluation.kept_too([circuit], also) and table["heads"].tolist() == [1]


def test_heads_that_can_be_read_but_once_are_read_once():
    subject, prompts, means = setting()
    some = {"last": ["L1H1", "L2H2"], "query": ["L0H3"]}

    def once(names=some):
        return {place: iter(heads) for place, heads in names.items()}

    given = {"prompts": prompts, "means": means}
    found, expected = (criteria.completeness(subject, c, **given, draws=2).table() for c in (once(), some))
    pd.testing.assert_frame_equal(found, expected)
    found, expected = (criteria.minimality(subject, c, **given).table() for c in (once(), some))
    pd.testing.assert_frame_equal(found, expected)
    found, expected = (chosen.circuits(subject, [c], **given).logprobs for c in (once(), some))
    assert torch.equal(found, expected)
    assert criteria.random_circuits(subject, once(), 2) == criteria.random_circuits(subject, some, 2)
    circuit, rankings = Circuit({"value_fetcher": (Head(2, 1),)}), {"value_fetcher": [Head(2, 1), Head(2, 0)]}
    found, expected = (
        criteria.growth(subject, circuit, ranked, **given, scales=[1, 2], draws=1, also=also)
        for ranked, also in ((once(rankings), once({"query": ["L1H1"]})), (rankings, {"query": ["L1H1"]}))
    )
    pd.testing.assert_frame_equal(found, expected)


def test_minimality_of_some_parts_is_what_it_is_among_all():
    subject, prompts, means = setting()
    asked = {"last": (Head(3, 1), Head(2, 4), Head(2, 5)), "query": (Head(1, 3), Head(1, 4))}
    whole, one = (criteria.minimality(subject, asked, prompts, means, parts=parts) for parts in (None, ["last"]))
    table = whole.table()
    assert table[table["part"] == "last"].reset_index(drop=True).equals(one.table())
    assert set(table["part"]) == {"last", "query"}
    assert criteria.minimality_cost(asked, ["last"]) == 1 + 3 + 9 < criteria.minimality_cost(asked)
    with pytest.raises(ValueError, match="no part called 'prev': this circuit has last, query"):
        criteria.minimality(subject, asked, prompts, means, parts=["prev"])


ONCE = ("L1H1", "L2H2")


def asked_of(subject, prompts, means, some):
    """What is asked of heads at `last`: all calls that read a circuit more than once."""
    place = {"last": some()}
    ranking = {"value_fetcher": some()}
    circuit = Circuit({"value_fetcher": ("L2H2",)})
    growth = {"scales": (1, 2), "draws": 1, "also": {"query": some()}}
    yield lambda: criteria.completeness(subject, place, prompts, means, draws=1).table()
    yield lambda: criteria.minimality(subject, {"last": some()}, prompts, means).table()
    yield lambda: criteria.growth(subject, circuit, ranking, prompts, means, **growth)
    yield lambda: criteria.random_circuits(subject, {"last": some()}, 2)
    yield lambda: chosen.circuits(subject, [{"last": some()}], prompts, means).logprobs.tolist()
    yield lambda: cmap.inputs(circuit, sites=(x for x in ("q", "v")), origins=(x for x in ("run", "inputs")))
    yield lambda: cmap.Condition("A", {"last": some()}, (x for x in ("q", "v"))).words


def test_heads_that_can_be_read_only_once_are_those_of_a_list(tmp_path):
    subject, prompts, means = setting()
    listed = asked_of(subject, prompts, means, lambda: list(ONCE))
    once = asked_of(subject, prompts, means, lambda: (head for head in ONCE))
    for one, other in zip(listed, once, strict=True):
        assert str(one()) == str(other()) != "()"
    store = Store(tmp_path)
    for heads_ in (ONCE, ()):  # and what is stored of them is not what is stored of none
        kept = chosen.circuits(subject, [{"last": (head for head in heads_)}], prompts, means, store=store)
        assert torch.equal(kept.logprobs, chosen.circuits(subject, [{"last": heads_}], prompts, means).logprobs)
