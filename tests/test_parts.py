"""Claim: how work is cut into parts changes no number; sizes are small here, as no tiny model fills the real ones."""

from dataclasses import replace

import families
import pytest
import tiny
import torch
from entity_circuits import bootstrap, runs, statistics
from entity_circuits.methods import metrics
from entity_circuits.runs import answers, blocks, replay
from entity_circuits.runs.edits import TIED, Edit, Read
from entity_circuits.tasks import boxes


def setting(dtype=torch.float64, n=6):
    subject = tiny.subject("qwen2", dtype=dtype)
    return runs.record(subject, boxes.prompts(subject, n, boxes=3))


def states(recording, dtype=torch.float64):
    """Hidden states of two variants (2, n, width), and targets of which one is the last word and one is missing."""
    hidden = tiny.recorded(recording, "residual")[-2:, :, -1]
    last = recording.subject.model.lm_head.weight.shape[0] - 1
    return hidden, torch.tensor([[last, 0, 7]] * (len(recording) - 1) + [[5, -1, last]])


@pytest.mark.parametrize(("rows", "words"), [(2048, 4096), (5, 64), (1, 7), (2048, 1)])
def test_the_vocabulary_is_read_in_blocks_of_words_and_rows_as_in_one(rows, words):
    recording = setting()
    hidden, targets = states(recording)
    body, head = recording.subject.model.model, recording.subject.model.lm_head
    logits = head(body.norm(hidden))
    right = logits.log_softmax(-1).gather(2, targets.clamp(min=0).expand(2, -1, -1)).masked_fill(targets < 0, torch.nan)
    found = blocks.readout(recording.subject, hidden, targets, (), rows=rows, words=words)
    assert torch.equal(found.top, logits.argmax(-1))
    assert torch.allclose(found.logprobs, right, atol=1e-11, equal_nan=True)
    assert len(set(found.top.flatten().tolist())) > 2


def test_without_the_vocabulary_there_are_the_same_logits_and_nothing_else():
    recording = setting()
    hidden, targets = states(recording)
    whole, few = (blocks.readout(recording.subject, hidden, targets, (), vocabulary=some) for some in (True, False))
    assert torch.allclose(few.logits, whole.logits, atol=1e-12, equal_nan=True)
    assert few.logprobs.shape == whole.logprobs.shape and few.logprobs.isnan().all()
    assert few.top.tolist() == [[-1] * len(recording)] * 2
    given = (hidden[:, :, None],)
    assert all(blocks.readout(recording.subject, hidden, targets, given, v).reads is given for v in (True, False))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_of_words_that_are_equally_likely_none_is_the_most_likely_one_in_any_block_and_by_definition(dtype):
    recording = setting(dtype)
    subject, prompts = recording.subject, recording.prompts
    targets = states(recording)[1]
    weight = subject.model.lm_head.weight
    before = runs.run(subject, prompts).top[0]
    best = int(before[before >= 0][0])
    far = 0 if best > len(weight) // 2 else len(weight) - 1
    for twin in (best + 1 if best + 1 < len(weight) else best - 1, far):
        kept = weight[twin].clone()
        weight[twin] = weight[best]
        literal = runs.run(subject, prompts).top[0]
        assert literal[before == best].unique().tolist() == [TIED]
        for words in (1, 4096):
            found = blocks.readout(subject, recording.stream(-1, prompts.last)[None], targets, (), words=words).top[0]
            assert found[literal == TIED].unique().tolist() == [TIED], words
        given = replace(prompts, answer_ids=before)
        assert not metrics.top(runs.run(subject, given), given)[:, before == best].any()
        weight[twin] = kept
    assert torch.equal(runs.run(subject, prompts).top[0], before)


def test_a_choice_that_ties_with_another_is_not_right():
    recording = setting()
    prompts = recording.prompts
    weight, (one, other) = recording.subject.model.lm_head.weight, prompts.choice_ids[0, :2].tolist()
    chosen = metrics.named("choice")
    given = replace(
        prompts.select([0, 0]),
        answer_ids=torch.tensor([one, one]),
        object_ids=torch.tensor([[one, other], [one, one]]),
    )
    for tied in (False, True):
        if tied:
            weight[other] = weight[one]
        outcome = runs.run(recording.subject, given, targets=chosen.targets(given))
        right = chosen.correct(outcome, given)[0].tolist()
        assert right == [not tied and bool(outcome.logits[0, 0, 0] > outcome.logits[0, 0, 2]), True]


def test_where_nothing_is_read_out_there_are_the_reads_and_no_number():
    recording = setting()
    read = [Read("z", 2, recording.prompts.last), Read("q", 1, recording.prompts.query)]
    edits = [[Edit("z", 1, (3,), recording.prompts.query, 0 * recording.span("z", 1)[:, 0, :1])], []]
    whole, reads = (replay.replay(recording, edits, read=read, answer=answer) for answer in (True, False))
    for one, other in zip(whole.reads, reads.reads, strict=True):
        assert torch.equal(one, other)
    assert reads.logits.shape == reads.logprobs.shape == whole.logits.shape
    assert reads.logits.isnan().all() and reads.logprobs.isnan().all() and (reads.top == -1).all()
    alone = replay.replay(recording, edits[1:], read=read, answer=False)
    assert alone.logits.isnan().all() and alone.top.tolist() == [[-1] * len(recording)]


@pytest.mark.parametrize("words", [4096, 7])
def test_in_half_precision_the_logits_of_targets_are_those_that_the_sum_is_over(words):
    recording = setting(torch.bfloat16)
    hidden, targets = states(recording)
    logits = recording.subject.model.lm_head(recording.subject.model.model.norm(hidden)).float()
    found = blocks.readout(recording.subject, hidden, targets, (), rows=5, words=words)
    right = logits.gather(2, targets.clamp(min=0).expand(2, -1, -1)).masked_fill(targets < 0, torch.nan)
    assert torch.allclose(found.logits, right, equal_nan=True, atol=0.02)
    assert torch.allclose(found.logprobs, right - logits.logsumexp(-1, keepdim=True), atol=0.02, equal_nan=True)


@pytest.mark.parametrize("family", ["Qwen2", "Cohere", "Mixtral", "Gemma2"])
def test_an_mlp_takes_its_rows_in_parts_as_together(family):
    subject = families.subject(family)
    hidden, middle = torch.randn(2, 3, 5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = blocks.fed(subject, 1, hidden, middle)
    assert torch.allclose(blocks.fed(subject, 1, hidden, middle, rows=4), whole, atol=1e-12)


def test_answers_are_read_a_few_rows_at_a_time_as_together(monkeypatch):
    subject = tiny.subject("qwen2", dtype=torch.float64)
    prompts = boxes.prompts(subject, 21, boxes=7)
    whole = answers.evaluate(subject, prompts)
    monkeypatch.setattr(answers, "ROWS", 4)
    parts = answers.evaluate(subject, prompts)
    assert whole.said == parts.said
    assert torch.equal(whole.rank, parts.rank)
    assert torch.allclose(whole.object_logprob, parts.object_logprob, atol=1e-6)


def test_medians_are_resampled_in_parts_as_together(monkeypatch):
    values, groups = torch.randn(40, generator=torch.Generator().manual_seed(1)), torch.arange(40) // 4
    whole = statistics.estimate(values, groups, statistic="median")
    monkeypatch.setattr(bootstrap, "CHUNK", 100)
    assert statistics.estimate(values, groups, statistic="median") == whole


def test_gradients_of_a_mask_come_through_parts_as_together():
    base = setting()
    every, found = tuple(range(base.subject.heads)), []
    for memory in (1e9, 1.0):
        keep = torch.full((2, len(every)), 0.7, dtype=torch.float64, requires_grad=True)
        kinds = [
            [Edit("z", layer, every, base.prompts.query, 0 * base.at("z", layer, base.prompts.query), keep=keep[layer])]
            for layer in (0, 1)
        ]
        replay.replay(base, kinds, memory=memory).logprob.sum().backward()
        found.append(keep.grad)
    assert torch.allclose(*found, atol=1e-12)
