"""The choice among a prompt's own answers: it stands beside top-1 wherever that is kept, and asks for less."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from entity_circuits import prompts as any_prompts
from entity_circuits import runs
from entity_circuits.heads import Head
from entity_circuits.methods import ablation, cmap, interchange, metrics, path_patching
from entity_circuits.models.subject import wrap
from entity_circuits.runs import answers, choices
from entity_circuits.tasks import boxes, desiderata

SUBJECT = tiny.subject("qwen2", dtype=torch.float64)
PROMPTS = boxes.prompts(SUBJECT, 12, boxes=3, split="evaluation")
MEANS = ablation.means(SUBJECT, n=7, boxes=3, batch=4)
KEPT = {"last": [Head(3, 1), Head(2, 0)], "query": [Head(1, 2)]}


def free():
    """Prompts without choices."""
    texts = ["The cup is in Box F. Box F contains the", "The apple is in Box Q. Box Q contains the"]
    return any_prompts.from_texts(SUBJECT, texts, [" cup", " apple"], positions={"query": -3})


def literally(logits, prompts):
    """By definition, prompt by prompt: the right answer before every other object of its context."""
    rows = zip(logits, prompts.choice_ids.tolist(), prompts.answer_ids.tolist(), strict=True)
    return [all(row[right] > row[other] for other in ids if other != right) for row, ids, right in rows]


def test_a_choice_asks_only_for_the_objects_and_a_tie_is_not_right():
    ids = torch.tensor([[5, 6, 7]] * 4)
    given = replace(PROMPTS.select(range(4)), object_ids=ids, answer_ids=torch.tensor([5, 5, 7, 6]))
    values = torch.tensor([[0.2, 0.1, 0.1], [0.2, 0.2, 0.1], [0.3, 0.2, 0.4], [0.3, 0.2, 0.4]])
    assert choices.right(values, given).tolist() == [True, False, True, False]
    said = answers.evaluate(SUBJECT, PROMPTS.select(range(4)))
    said = replace(said, prompts=given, object_logprob=values, top=torch.tensor([9, 5, 9, 9]))
    assert said.chosen.tolist() == [True, False, True, False]
    assert said.correct.tolist() == [False, True, False, False], "top-1 is another question"


def test_who_is_right_of_all_words_is_right_of_the_objects_and_the_choice_is_that_of_the_whole_run():
    found = answers.evaluate(SUBJECT, PROMPTS)
    vocabulary = torch.arange(SUBJECT.model.config.vocab_size).expand(len(PROMPTS), -1)
    logits = runs.run(SUBJECT, PROMPTS, targets=vocabulary).logits[0]
    assert found.chosen.tolist() == literally(logits, PROMPTS)
    assert 0 < int(found.chosen.sum()) < len(PROMPTS)
    sure = replace(found, top=PROMPTS.answer_ids, tied=torch.zeros(12).bool(), object_logprob=found.object_logprob)
    assert not (found.correct & ~found.chosen).any() and sure.correct.all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (free(), "a choice needs the answers to choose among"),
        (replace(PROMPTS, object_ids=PROMPTS.object_ids + 1000), "the right answer is not among the choices"),
        (boxes.noise(SUBJECT, PROMPTS), "no right answer"),
    ],
)
def test_where_there_is_no_choice_it_cannot_be_right(given, words):
    assert not choices.given(given)
    with pytest.raises(ValueError, match=words):
        choices.right(torch.zeros(len(given), 3), given)


def test_what_is_kept_of_a_run_is_the_metric_s_own_and_the_choice_beside_it():
    first, second = PROMPTS.object_ids[:, :2].unbind(1)
    given = replace(PROMPTS, wrong_ids=torch.where(first == PROMPTS.answer_ids, second, first))
    for metric in metrics.METRICS.values():
        outcome = runs.run(SUBJECT, given, targets=metrics.wanted(metric, given))
        own = runs.run(SUBJECT, given, targets=metric.targets(given))
        kept = metrics.answers(metric, outcome, given)
        assert torch.equal(kept["correct"], metric.correct(own, given)), metric.name
        assert torch.allclose(kept["logprob"], metric.value(own, given)), metric.name
        assert kept["chosen"][0].tolist() == answers.evaluate(SUBJECT, given).chosen.tolist(), metric.name


@pytest.mark.parametrize(
    ("value", "correct", "words"),
    [
        (lambda o, p: o.logprob[:, :1], metrics.top, r"value of the metric 'mine'.* \(1, 12\), not \(1, 1\)"),
        (lambda o, p: o.logprob.mean(), metrics.top, r"not \(\)"),
        (lambda o, p: o.top == p.answer_ids, metrics.top, "finite floats"),
        (lambda o, p: o.logprob * torch.nan, metrics.top, "finite floats"),
        (lambda o, p: o.logprob.tolist(), metrics.top, "Tensor is needed, not list"),
        (lambda o, p: o.logprob, lambda o, p: o.logprob, "correct of the metric 'mine'.*bools, not torch.float64"),
        (lambda o, p: o.logprob, lambda o, p: (o.top == p.answer_ids)[:, 0], r"not \(1,\)"),
    ],
)
def test_a_metric_that_gives_no_number_for_each_variant_and_prompt_is_refused(value, correct, words):
    mine = metrics.Metric("mine", lambda p: p.answer_ids[:, None], value, correct)
    for call in (
        lambda: ablation.full_model(SUBJECT, PROMPTS, metric=mine),
        lambda: path_patching.sweep(SUBJECT, PROMPTS, PROMPTS, position="last", metric=mine),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("method", ["replay", "definition"])
def test_a_metric_without_the_vocabulary_cannot_read_what_needs_it(method):
    def logit(outcome, prompts):
        return outcome.logits[..., 0]

    for name, value, correct in (
        ("top", logit, metrics.top),
        ("logprobs", lambda o, p: o.logprob, lambda o, p: logit(o, p) > 0),
    ):
        mine = metrics.Metric("mine", lambda p: p.answer_ids[:, None], value, correct, vocabulary=False)
        for call in (
            lambda mine=mine: ablation.circuit_accuracy(SUBJECT, KEPT, PROMPTS, MEANS, metric=mine, method=method),
            lambda mine=mine: path_patching.sweep(
                SUBJECT, PROMPTS, PROMPTS, position="last", senders=["L3H0"], metric=mine, method=method
            ),
        ):
            with pytest.raises(ValueError, match=rf"`{name}` of an outcome .*vocabulary=True"):
                call()


@pytest.mark.parametrize("method", ["replay", "definition"])
def test_a_circuit_s_choice_stands_beside_its_accuracy(method):
    found = ablation.circuit_accuracy(SUBJECT, [KEPT, {}], PROMPTS, MEANS, method=method)
    asked = ablation.circuit_accuracy(SUBJECT, [KEPT, {}], PROMPTS, MEANS, metric="choice", method="definition")
    assert torch.equal(found.chosen, asked.correct) and torch.equal(asked.chosen, asked.correct)
    assert found.choice(0).value == pytest.approx(float(asked.correct[0].double().mean()))
    both = float(asked.correct.double().mean())
    assert found.choice(slice(None)).value == pytest.approx(both), "several circuits: their mean"


def test_the_whole_model_s_choice_is_kept_and_is_that_of_its_behaviour():
    own = answers.evaluate(SUBJECT, PROMPTS).chosen
    assert torch.equal(ablation.full_model(SUBJECT, PROMPTS).chosen[0], own)
    assert torch.equal(ablation.full_model(SUBJECT, PROMPTS, metric="choice").chosen[0], own)
    without = ablation.full_without(SUBJECT, [{}, KEPT], PROMPTS, MEANS, batch=5)
    assert torch.equal(without.chosen[0], own)
    everything = ablation.circuit_accuracy(SUBJECT, {"everywhere": ablation.all_heads(SUBJECT)["last"]}, PROMPTS, MEANS)
    assert torch.equal(everything.chosen[0], own)


def test_rows_prompts_and_joined_answers_keep_the_choice():
    found = ablation.circuit_accuracy(SUBJECT, [KEPT, {}], PROMPTS, MEANS)
    assert torch.equal(ablation.Answers.joined([found.rows([1]), found.rows([0])]).chosen, found.chosen[[1, 0]])
    some = found.prompts(torch.tensor([0, 5]))
    assert torch.equal(some.chosen, found.chosen[:, [0, 5]]) and some.contexts.tolist() == [0, 1]
    with pytest.raises(ValueError, match="circuit"):
        found.choice(2)


def test_prompts_without_choices_have_accuracies_and_no_choice():
    prompts = free()
    means = ablation.means(SUBJECT, prompts=prompts)
    found = ablation.circuit_accuracy(SUBJECT, KEPT, prompts, means)
    assert found.chosen is None and found.rows([0]).chosen is None
    assert found.choice().value != found.choice().value and found.choice().n == 2
    assert ablation.full_model(SUBJECT, prompts).chosen is None
    assert ablation.full_without(SUBJECT, [KEPT], prompts, means).chosen is None
    patched = cmap.patch(SUBJECT, SUBJECT, {"last": [Head(1, 0)]}, prompts)
    assert patched.chosen is None and patched.table()["choice"].isna().all()


def tuned():
    model, draw = copy.deepcopy(SUBJECT.model), torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    return wrap(model, tiny.tokenizer(), name="tuned")


def test_the_choice_under_cross_model_patches_is_that_of_whole_runs():
    other = tuned()
    every = {"everywhere": ablation.all_heads(SUBJECT)["last"]}
    conditions = [cmap.Condition("last", {"last": KEPT["last"]}), cmap.Condition("all", every, into="tuned")]
    found, literal = (cmap.sweep(SUBJECT, other, conditions, PROMPTS, method=x) for x in ("replay", "definition"))
    assert torch.equal(found.chosen, literal.chosen)
    assert torch.equal(found.base_chosen, answers.evaluate(SUBJECT, PROMPTS).chosen)
    assert torch.equal(found.tuned_chosen, answers.evaluate(other, PROMPTS).chosen)
    assert not torch.equal(found.base_chosen, found.tuned_chosen)
    table = found.table()
    assert table["choice"].tolist() == pytest.approx(found.chosen.double().mean(1).tolist())
    moved = [
        found.chosen[0].double() - found.base_chosen.double(),
        found.chosen[1].double() - found.tuned_chosen.double(),
    ]
    assert table["choice_change"].tolist() == pytest.approx([float(x.mean()) for x in moved])
    assert (table["choice_low"] <= table["choice"]).all() and (table["choice"] <= table["choice_high"]).all()


def test_answers_kept_without_a_choice_have_none():
    found = cmap.sweep(SUBJECT, tuned(), [cmap.Condition("last", {"last": KEPT["last"]})], PROMPTS)
    old = replace(found, chosen=None, base_chosen=None, tuned_chosen=None)
    assert old.table()[["choice", "choice_low", "choice_change"]].isna().all(axis=None)
    assert old.table()["accuracy"].equals(found.table()["accuracy"])


def test_a_patched_answer_is_told_among_the_candidates_and_among_all_objects():
    triples = desiderata.triples(SUBJECT, "label", 9, 3, split="evaluation")
    rows = interchange.patch(SUBJECT, KEPT["last"], triples, position="last")
    pairs = interchange.record(SUBJECT, triples)
    found = interchange.answers(pairs, [[], KEPT["last"]], "last")
    for index, name in enumerate(("no patch", "these heads")):
        some = rows[rows["patched"] == name]
        both = torch.cat((triples.base.choice_ids, triples.source.choice_ids), dim=1)
        said = found.top[index].tolist()
        objects = [token in ids for token, ids in zip(said, both.tolist(), strict=True)]
        assert some["among"].tolist() == objects
        values = found.logprobs[index]
        place = (triples.candidates == triples.targets[:, None]).int().argmax(1)
        assert some["chosen"].tolist() == [
            all(row[at] > value for i, value in enumerate(row) if i != at)
            for row, at in zip(values, place, strict=True)
        ]
    assert rows["chosen"].any() and not rows["chosen"].all()
    assert not (rows["hit"] & ~rows["chosen"]).any() and not (rows["hit"] & ~rows["among"]).any()
