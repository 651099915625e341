"""Claims: the nodes that a model needs are found where they were planted, by slopes that are the definition's."""

import pytest
import tiny
import torch
from entity_circuits import ablation, boxes, planted, runs, toy
from entity_circuits.circuits import curve, nodes
from entity_circuits.heads import Head
from entity_circuits.methods import chosen, kept
from entity_circuits.runs import mean_replay
from entity_circuits.runs.edits import TIED
from entity_circuits.tasks.planted import PLANS
from entity_circuits.tasks.prompts import Prompts

PLACES = ("last", "query+1", "query", "prev+1", "prev", "object")


def both() -> Prompts:
    """The two prompts of the toy, with both objects to choose among."""
    p = toy.prompts("apple", "cup")
    given = {name: getattr(p, name) for name in ("input_ids", "last", "answer_ids", "contexts", "positions")}
    return Prompts(**given, choice_ids=p.object_ids.flatten().expand(2, 2).contiguous())


def setting(family="llama"):
    subject = tiny.subject(family)
    p = boxes.prompts(subject, 21, split="evaluation")
    return subject, p, ablation.means(subject, n=5)


def slots(p: Prompts) -> torch.Tensor:
    return torch.stack([p.position(place) for place in PLACES], dim=1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_weights_of_nought_and_one_are_the_ablation_by_definition(family):
    subject, p, means = setting(family)
    draw = torch.Generator().manual_seed(0)
    weight = (torch.rand(subject.layers, len(PLACES), subject.heads, generator=draw) < 0.5).to(subject.dtype)
    found = mean_replay.weighted(subject, p, slots(p), weight, means, targets=p.choice_ids)
    circuit = {
        place: [Head(layer, head) for layer, head in weight[:, i].nonzero().tolist()] for i, place in enumerate(PLACES)
    }
    literal = runs.run(subject, p, kept.edits(subject, p, circuit, means), targets=p.choice_ids).logits[0]
    assert torch.allclose(found, literal, atol=1e-5 * float(literal.abs().max()))


def test_a_token_in_two_slots_and_a_missing_last_one_are_refused_with_and_without_weights():
    subject, p, means = setting()
    last, none = p.last[:, None], torch.full_like(p.last[:, None], -1)
    for some, words in ((torch.cat((last, last), dim=1), "no two slots"), (last - 1, "has to be the last token")):
        keep = torch.ones(subject.layers, some.shape[1], subject.heads)
        with pytest.raises(ValueError, match=words):
            mean_replay.weighted(subject, p, some, keep, means)
        with pytest.raises(ValueError, match=words):
            mean_replay.ablate(subject, p, some, keep.bool()[None], means)
    keep = torch.ones(1, subject.layers, 3, subject.heads).bool()
    spare = mean_replay.ablate(subject, p, torch.cat((none, last, none), dim=1), keep, means).logprob
    assert torch.allclose(spare, mean_replay.ablate(subject, p, last, keep[:, :, :1], means).logprob)


def test_effects_are_the_slopes_of_the_ablation():
    subject, p, means = setting("qwen2")
    keep = torch.rand(subject.layers, len(PLACES), subject.heads, generator=torch.Generator().manual_seed(1)) < 0.7
    found = nodes.effects(subject, p, means, PLACES, keep=keep)
    its = chosen.whole(subject, p).chosen[0]

    def value(weight: torch.Tensor) -> float:
        logits = mean_replay.weighted(subject, p, slots(p), weight, means, targets=p.choice_ids)
        return float(logits.double().log_softmax(-1).gather(1, its[:, None]).mean())

    for node in [(0, 4, 1), (1, 2, 3), (2, 0, 0), (3, 0, 5)]:
        step = torch.zeros(keep.shape)
        step[node] = 0.05
        slope = (value(keep.float() + step) - value(keep.float() - step)) / 0.1
        assert float(found[node]) == pytest.approx(slope, rel=0.05, abs=2e-5)
    top_elsewhere = found[-1, 1:]
    assert not top_elsewhere.any(), "in the top layer only `last` is read"


def test_what_circuits_say_is_what_their_ablation_says():
    subject, p, means = setting()
    circuits = [{"last": [Head(3, 5)], "query": [Head(0, 1)]}, {}]
    said = chosen.circuits(subject, circuits, p, means)
    known = ablation.circuit_accuracy(subject, circuits, p, means)
    assert torch.equal(said.right, known.chosen) and torch.equal(said.correct, known.correct)
    full = ablation.full_model(subject, p)
    whole = chosen.whole(subject, p)
    assert torch.equal(whole.right, full.chosen) and torch.equal(whole.correct, full.correct)


def test_what_circuits_say_is_kept_for_the_batches_that_it_was_said_in(tmp_path):
    subject, p, means = setting()
    for batch in (7, 21, 7):
        chosen.circuits(subject, [{"last": [Head(3, 5)]}], p, means, batch=batch, store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_several_means_serve_contexts_in_turn():
    subject, p, means = setting()
    zero = chosen.zeros(means)
    mixed = chosen.circuits(subject, [{"last": [Head(1, 1)]}], p, [means, zero])
    alone = [chosen.circuits(subject, [{"last": [Head(1, 1)]}], p, one) for one in (means, zero)]
    for context in range(3):
        rows = p.contexts == context
        assert torch.allclose(mixed.logprobs[:, rows], alone[context % 2].logprobs[:, rows], atol=1e-5)
    assert not torch.allclose(alone[0].logprobs, alone[1].logprobs, atol=1e-3)


def test_scores_by_hand():
    logprobs = torch.tensor([[[0.5, 0.3, 0.1], [0.2, 0.2, 0.1]], [[0.1, 0.6, 0.1], [0.3, 0.2, 0.1]]]).log()
    ids, answers = torch.tensor([[7, 8, 9], [7, 8, 9]]), torch.tensor([7, 7])
    both = chosen.Said(logprobs, torch.tensor([[7, TIED], [8, 7]]), ids, answers, torch.arange(2))
    first, second = both.rows([0]), both.rows([1])
    assert both.chosen.tolist() == [[0, -1], [1, 0]]
    assert both.right.tolist() == [[True, False], [False, True]]
    assert both.correct.tolist() == [[True, False], [False, True]]
    assert second.agreement(first).tolist() == [[False, False]] and first.agreement(first).tolist() == [[True, False]]
    wanted = torch.tensor([0.5, 0.3, 0.1]).log()
    assert float(first.difference[0, 0]) == pytest.approx(float(wanted[0] - (wanted[1] + wanted[2]) / 2))
    assert first.divergence(first).abs().max() == 0
    p, q = torch.tensor([0.5, 0.3, 0.1, 0.1]), torch.tensor([0.1, 0.6, 0.1, 0.2])
    assert float(second.divergence(first)[0, 0]) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_planted_nodes_come_first_with_full_precision_and_recall(plan, noise):
    subject, p = planted.subject(plan, noise=noise), both()
    means = ablation.means(subject, prompts=p)
    order = nodes.find(subject, p, means, ("last", "query", "prev"), least=1)
    true = {(plan.circuit.position(group), head) for group, some in plan.circuit.groups.items() for head in some}
    assert set(order.nodes[: len(true)]) == true
    size = nodes.fewest(subject, order, p, means)
    assert size is not None and size <= len(true)
    said = chosen.circuits(subject, [order.circuit(size), order.circuit(size - 1)], p, means)
    assert said.right.tolist()[0] == [True, True] and not said.right[1].all()


def test_with_much_noise_the_plan_is_not_found():
    subject, p = planted.subject(PLANS[0], noise=0.5, seed=1), both()
    order = nodes.find(subject, p, ablation.means(subject, prompts=p), ("last", "query", "prev"), least=1)
    true = {
        (PLANS[0].circuit.position(group), head) for group, some in PLANS[0].circuit.groups.items() for head in some
    }
    assert set(order.nodes[: len(true)]) != true


def test_the_path_says_what_its_circuits_say():
    subject, p, means = setting()
    order = nodes.find(subject, p, means, PLACES, drop=0.4, batch=10)
    assert order.path[0] == len(order) == subject.layers * subject.heads * len(PLACES) and order.path[-1] <= 8
    assert sorted(order.rank.flatten().tolist()) == list(range(len(order)))
    said = chosen.circuits(subject, [order.circuit(size) for size in order.path], p, means)
    assert torch.equal(said.right, order.right)
    assert torch.equal(said.agreement(chosen.whole(subject, p)), order.agree)
    assert ablation.size(order.circuit(20)) == 20 and order.circuit(0) == {}


def test_no_circuit_is_enough_where_not_even_all_nodes_are():
    subject, p, means = setting()
    order = nodes.find(subject, p, means, ("last",), drop=0.5)
    assert nodes.fewest(subject, order, p, means, agree=1.0) is None
    assert nodes.fewest(subject, order, p, means, right=0, agree=0) == 1


def test_the_curve_by_hand_and_its_areas():
    values, sizes = [[0.5, 0.5], [1.5, 1.5], [1, 1]], (0.25, 0.5, 1.0)
    found = curve.areas(values, none=[0, 0], whole=[1, 1], contexts=[0, 1], sizes=sizes)
    assert [found[f"{k:g}"].value for k in sizes] == [0.5, 1.5, 1.0]
    assert found["CPR"].value == pytest.approx(0.25 * 0.25 + 0.25 * 1.0 + 0.5 * 1.25)
    assert found["CMD"].value == pytest.approx(0.25 * 0.75 + 0.25 * 0.5 + 0.5 * 0.25)
    assert found["CPR"].low == found["CPR"].high == found["CPR"].value
    with pytest.raises(ValueError, match="as good as nothing"):
        curve.areas([[1, 0]], none=[1, 0], whole=[0, 1], contexts=[0, 1], sizes=(1.0,))


def test_a_gain_is_parted_and_has_a_share_only_where_there_is_one():
    low, high, half = torch.zeros(40), torch.ones(40), torch.tensor([1.0, 0.0] * 20)
    found = curve.gain((low, half), (low, high), contexts=torch.arange(40))
    assert (found["gain"].value, found["through"].value, found["beside"].value) == (1, 0.5, 0.5)
    assert found["share"].value == 0.5 and found["share"].low < 0.5 < found["share"].high
    assert "share" not in curve.gain((low, half), (half, half.flip(0)), contexts=torch.arange(40))


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (("query",), "`last` has to be"),
        (("last", "query+2"), "one token in some"),
        (("last", "prev+99"), "not one token"),
    ],
)
def test_places_that_are_no_nodes_are_refused(places, says):
    subject, p, means = setting()
    with pytest.raises(ValueError, match=says):
        nodes.find(subject, p, means, places)
