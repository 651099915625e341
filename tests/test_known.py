"""Claims: planted models are what their plan says, and methods find what was planted, the less so the more noise."""

import math

import pytest
import torch
from entity_book.studies import known
from entity_circuits import path_patching, planted, runs, toy
from entity_circuits.heads import Head
from entity_circuits.tasks.planted import PLANS, Plan

BOTH = toy.prompts("apple", "cup")
OTHERS = toy.prompts("cup", "apple")
CHEAP, DEAR = (f"masks, penalty {penalty}" for penalty in known.PENALTIES)


@pytest.fixture(scope="module")
def table():
    quiet = known.table(noises=[0.0])
    noisy = known.table(PLANS[:2], noises=[0.05, 0.2], seeds=2)
    return {"quiet": quiet, "noisy": noisy}


def test_without_noise_every_method_finds_every_planted_head_and_no_other(table):
    quiet = table["quiet"]
    assert set(quiet["method"]) == {"path patching", "its gradient estimate", DEAR, CHEAP}
    assert len(quiet) == len(PLANS) * 4 and set(quiet["models"]) == {1}
    assert (quiet["precision"] == 1).all() and (quiet["recall"] == 1).all()


def test_a_little_noise_costs_nothing_but_the_precision_of_masks_whose_heads_are_cheap(table):
    little = table["noisy"].query("noise == 0.05").groupby("method")[["precision", "recall"]].mean()
    assert (little["recall"] == 1).all()
    assert (little["precision"].drop(index=CHEAP) == 1).all()
    assert little.loc[CHEAP, "precision"] < 0.5


def test_more_noise_costs_every_method_recall_and_the_model_its_answers(table):
    little, much = (
        part.groupby("method")[["precision", "recall", "right"]].mean() for _, part in table["noisy"].groupby("noise")
    )
    assert (much[["recall", "right"]] < little[["recall", "right"]] - 0.15).all(axis=None)
    assert (much["precision"].drop(index=CHEAP) < little["precision"].drop(index=CHEAP) - 0.15).all()
    assert (much["recall"] > 0).all()


def test_shares_are_over_all_groups_and_models(monkeypatch):
    plan = PLANS[0]
    found = {"fetchers": [Head(2, 0), Head(2, 3)], "carriers": [], "readers": [Head(0, 0)]}
    nothing = dict.fromkeys(found, ())
    answers = iter([found, nothing, nothing, nothing])
    monkeypatch.setattr(known, "METHODS", (lambda *_: {"some": next(answers)},))
    first, second = (known.table([plan], noises=[noise], seeds=2).iloc[0] for noise in (0.1, 0.2))
    assert (first["precision"], first["recall"], first["models"]) == (2 / 3, 2 / 8, 2)
    assert math.isnan(second["precision"]) and second["recall"] == 0


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_without_noise_a_planted_model_answers_as_the_toy_whatever_the_seed(plan):
    of_the_toy, right = runs.run(toy.subject(), BOTH).logprob, 3.0 if plan.direct else 2.0
    for seed in (0, 1):
        found = runs.run(planted.subject(plan, seed=seed), BOTH).logprob
        assert torch.allclose(found.exp(), torch.tensor(math.exp(right) / (math.exp(right) + 4)).double())
        assert torch.allclose(found, of_the_toy) == bool(plan.direct)


def test_a_distractor_carries_the_object_to_the_end_and_matters_to_nobody():
    plan = PLANS[-1]
    subject = planted.subject(plan)
    ((layer, head),) = [(one.layer, one.head) for one in plan.distractors]
    base, source = (runs.record(subject, one) for one in (BOTH, OTHERS))
    z = [one.at("z", layer, one.prompts.last)[:, head] for one in (base, source)]
    assert (z[0] - z[1]).abs().max() == pytest.approx(1)
    change = path_patching.sweep(subject, BOTH, OTHERS, position="last", recordings=(base, source)).change
    assert change[layer, head].abs().max() < 1e-12
    assert change[layer, plan.direct[0].head].abs().min() > 0.1


def test_noise_is_the_size_of_what_a_head_writes_for_a_word():
    model = planted.subject(Plan("wide", 3, 16, "L0H0", "L1H0", "L2H0"), noise=0.3).model
    written = []
    for block in model.model.layers:
        v, o = (getattr(block.self_attn, f"{name}_proj").weight for name in "vo")
        per_head = zip(v.split(toy.SIZE), o.split(toy.SIZE, dim=1), strict=True)
        written += [(out @ value)[:, : len(toy.WORDS)] for value, out in list(per_head)[1:]]
    assert torch.stack(written).std().item() == pytest.approx(0.3, rel=0.05)


def test_one_seed_gives_one_model_and_another_another():
    weights = [planted.subject(PLANS[0], noise=0.1, seed=seed).model.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())
    assert not all(torch.equal(one, weights[2][name]) for name, one in weights[0].items())
    prints = {planted.subject(plan, noise=n, seed=s).fingerprint for plan in PLANS for n in (0.1, 0.2) for s in (0, 1)}
    assert len(prints) == 4 * len(PLANS)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (("L0H0", "L1H0", "L1H1"), "upwards"),
        (("L1H0", "L0H0", "L2H1"), "upwards"),
        (("L0H0", (), "L2H1"), "upwards"),
        (("L0H0", "L1H0", "L9H1"), "L9H1"),
        (("L0H0", "L1H0", "L2H1", "L2H1"), "two tasks"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(heads, message):
    with pytest.raises(ValueError, match=message):
        Plan("mine", 3, 2, *heads)


def test_the_heads_of_a_layer_divide_the_width_as_the_form_of_the_model_wants_it():
    with pytest.raises(ValueError, match="3 heads"):
        Plan("mine", 3, 3, "L0H0", "L1H0", "L2H1")


def test_noise_is_a_number_from_zero_up():
    with pytest.raises(ValueError, match="noise"):
        planted.subject(PLANS[0], noise=-0.1)
