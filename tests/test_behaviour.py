"""What a model says: sharing a context changes nothing but the work, and every answer is sorted into the right kind."""

from dataclasses import replace
from types import SimpleNamespace

import families
import pandas as pd
import pytest
import tiny
import torch
import transformers
from entity_book.studies import behaviour
from entity_circuits import runs
from entity_circuits.models import wrap
from entity_circuits.results import Store
from entity_circuits.runs import answers
from entity_circuits.runs import prefix as sharing
from entity_circuits.tasks import boxes


@pytest.fixture(scope="module", params=["qwen2", "llama", "mistral"])
def subject(request):
    return tiny.subject(request.param, seed=0)


def plainly(subject, prompts):
    """By definition: one whole forward pass a prompt, no batch, no padding, no cache."""
    tops, logprobs = [], []
    with torch.no_grad():
        for row in range(len(prompts)):
            ids = prompts.input_ids[row : row + 1, : int(prompts.last[row]) + 1]
            logits = subject.model(input_ids=ids).logits[0, -1].log_softmax(-1)
            tops.append(logits.argmax())
            logprobs.append(logits)
    return torch.stack(tops), torch.stack(logprobs)


def agrees(subject, prompts, **options):
    """The behaviour, after checking it against the definition."""
    found = answers.evaluate(subject, prompts, **options)
    top, logprobs = plainly(subject, prompts)
    assert torch.equal(found.top, top)
    right = logprobs.gather(1, prompts.answer_ids.clamp(min=0)[:, None]).squeeze(1)
    known = prompts.answer_ids >= 0
    assert torch.allclose(found.answer_logprob[known], right[known], atol=3e-5, rtol=0)
    assert found.answer_logprob[~known].isnan().all()
    assert torch.allclose(found.object_logprob, logprobs.gather(1, prompts.object_ids), atol=3e-5, rtol=0)
    better = (logprobs > right[:, None] + 1e-5).sum(1)
    assert torch.equal(found.rank[known], better[known]) and (found.rank[~known] == -1).all()
    return found


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("template", sorted(boxes.TEMPLATES))
def test_both_ways_equal_the_plain_forward_pass(subject, share, template):
    agrees(subject, boxes.prompts(subject, n=21, template=template), share_context=share)


@pytest.mark.parametrize("batch", [1, 7, 10, 1000])
def test_the_batch_does_not_matter(subject, batch):
    prompts = boxes.prompts(subject, n=21)
    for share in (True, False):
        agrees(subject, prompts, share_context=share, batch=batch)


def test_prompts_and_prefixes_of_unequal_length_are_kept_apart(subject):
    drawn = boxes.prompts(subject, n=20, boxes=5)
    wordy = boxes.Template(statement="there is a {object} in Box {label}", query="In Box {label} there is the")
    templates = [*drawn.templates[:10], *[wordy] * 10]
    mixed = boxes.from_worlds(subject, drawn.worlds, drawn.queries, template=templates)
    assert len(set(mixed.last.tolist())) == 2
    assert len({batch.prefix for batch in sharing.batches(mixed, 70)}) == 2
    agrees(subject, mixed)


def test_continuations_of_unequal_length_are_read_each_at_its_own_last(subject):
    drawn = boxes.prompts(subject, n=6, boxes=3)
    templates = [boxes.Template(query="Box {label} " + ("holds a", "has")[row % 2]) for row in range(6)]
    mixed = boxes.from_worlds(subject, drawn.worlds, drawn.queries, template=templates)
    assert len(set(mixed.last.tolist())) == 2
    found = agrees(subject, mixed)
    assert found.tokens_computed < found.tokens_without_sharing / 1.5


def test_scattered_and_incomplete_contexts_come_back_in_their_rows(subject):
    prompts = boxes.prompts(subject, n=28)
    agrees(subject, prompts.select([20, 3, 27, 14, 4, 0, 21, 6, 15]), batch=3)


def test_prompts_without_an_answer_have_none(subject):
    noise = boxes.noise(subject, boxes.prompts(subject, n=7))
    found = agrees(subject, noise)
    assert found.answer_logprob.isnan().all() and (found.rank == -1).all()
    with pytest.raises(ValueError, match="7 of 7 prompts have no right answer"):
        _ = found.correct  # an accuracy of 0.00 would say that the model is wrong


def test_an_answer_that_is_as_likely_as_another_token_is_not_right(subject):
    """Two rows of the output matrix are made one: their logits tie, and index order would say which is right."""
    prompts = boxes.prompts(subject, n=7)
    plain = answers.evaluate(subject, prompts)
    assert not plain.tied.any()
    assert torch.equal(plain.correct, plain.top == prompts.answer_ids)
    prompts = replace(prompts, answer_ids=plain.top)
    assert answers.evaluate(subject, prompts).correct.all()
    weight = subject.model.get_output_embeddings().weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[-1] = weight[plain.top[0]]
        tied = answers.evaluate(subject, prompts)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert tied.tied[0] and not tied.correct[0] and tied.rank[0] == 0
    assert torch.equal(tied.correct, ~tied.tied)


def test_the_prefix_is_found_from_the_tokens_not_from_the_context_number(subject):
    """Prompts that are numbered alike but begin with different words share only what they have in common."""
    prompts = boxes.prompts(subject, n=14)
    mislabelled = replace(prompts, contexts=torch.zeros(14, dtype=torch.long))
    (batch,) = sharing.batches(mislabelled, 70)
    assert batch.prefix == 1  # "The"
    agrees(subject, mislabelled)


def test_the_tokens_of_shared_contexts_are_counted(subject):
    prompts = boxes.prompts(subject, n=21)
    whole, shared = (answers.evaluate(subject, prompts, share_context=share) for share in (False, True))
    assert whole.tokens_computed == whole.tokens_without_sharing == shared.tokens_without_sharing == 21 * 53
    assert shared.tokens_computed == 3 * (50 + 7 * 3)


def test_the_model_really_runs_fewer_tokens(subject, called):
    found = answers.evaluate(subject, boxes.prompts(subject, n=21))
    lowest = subject.model.model.layers[0]
    assert sum(given[0].shape[:2].numel() for module, given in called if module is lowest) == found.tokens_computed


def test_bad_requests_fail_before_the_model_runs(subject):
    prompts = boxes.prompts(subject, n=7)
    with pytest.raises(ValueError, match="batch=0"):
        answers.evaluate(subject, prompts, batch=0)


def test_a_model_that_does_something_else_to_its_logits_is_refused():
    subject = tiny.subject("qwen2")
    prompts = boxes.prompts(subject, n=7)

    class Doubled(type(subject.model)):
        def forward(self, *given, **options):
            out = super().forward(*given, **options)
            out.logits = 2 * out.logits
            return out

    subject.model.__class__ = Doubled
    with pytest.raises(RuntimeError, match="differs from its own logits"):
        answers.evaluate(subject, prompts)


@pytest.mark.parametrize("family", ["Cohere", "Gemma2", "Granite", "GPT2"])
def test_logits_that_a_family_scales_or_caps_are_read_so(family):
    subject = families.subject(family)
    prompts = boxes.prompts(subject, n=7, boxes=7)
    with families.exact(subject):
        assert torch.allclose(
            answers.evaluate(subject, prompts).answer_logprob.double(), runs.run(subject, prompts).logprob[0], atol=1e-5
        )


def said(prompts, *words):
    """A behaviour in which these words were the most likely ones."""
    tokenizer = tiny.tokenizer()
    top = torch.tensor([tokenizer(" " + word)["input_ids"][0] for word in words])
    logprob = torch.full((len(prompts),), 0.25).log()
    objects = torch.full((len(prompts), prompts.boxes), 0.1).log()
    said = tuple(f" {word}" for word in words)
    nothing = torch.zeros(len(prompts), dtype=torch.long)
    return answers.Behaviour(prompts, top, said, logprob, objects, nothing, nothing.bool(), 0)


def world_prompts():
    world = boxes.World(("apple", "cup", "bell"), ("F", "Q", "A"))
    reader = SimpleNamespace(tokenizer=tiny.tokenizer(), device=torch.device("cpu"))
    return boxes.from_worlds(reader, [world] * 3, [0, 1, 2])


def test_every_answer_is_sorted_into_its_kind_with_its_distance():
    table = behaviour.table(said(world_prompts(), "apple", "bell", "Q"))
    assert table["kind"].tolist() == ["the right object", "another object", "a label"]
    assert table["distance"].tolist()[:2] == [0, 1] and pd.isna(table["distance"][2])
    assert table["said_position"].tolist()[:2] == [1, 3]
    assert table["correct"].tolist() == [True, False, False]
    assert table["position"].tolist() == [1, 2, 3]
    assert table["answer_prob"].tolist() == pytest.approx([0.25] * 3)
    assert table["objects_prob"].tolist() == pytest.approx([0.3] * 3)
    other = behaviour.table(said(world_prompts(), "dog", "cup", "apple"))
    assert other["kind"].tolist() == ["something else", "the right object", "another object"]
    assert other["distance"].tolist()[1:] == [0, -2]


def test_a_guess_is_worked_out_for_the_prompts_that_went_wrong():
    table = behaviour.distances(behaviour.table(said(world_prompts(), "cup", "cup", "apple"))).set_index("distance")
    assert table["n"].to_dict() == {-2: 1, -1: 0, 1: 1, 2: 0}
    assert table["guess"].to_dict() == pytest.approx({-2: 0.25, -1: 0.25, 1: 0.25, 2: 0.25})
    assert table["share"].sum() == pytest.approx(1)


def test_distances_of_a_model_without_such_errors_are_zero():
    table = behaviour.distances(behaviour.table(said(world_prompts(), "apple", "cup", "bell")))
    assert (table[["n", "share", "guess"]] == 0).all(axis=None)


def test_the_saving_is_reported_with_the_agreement(subject):
    table = behaviour.sharing(subject, boxes.prompts(subject, n=14))
    assert table["tokens"].tolist() == [14 * 53, 2 * (50 + 7 * 3)]
    assert (table["same_answer"] == 1).all() and (table["largest_difference"] < 1e-5).all()
    assert (table["seconds"] > 0).all()


def test_both_accuracies_are_told_for_the_same_prompts():
    prompts = world_prompts()
    found = said(prompts, "dog", "cup", "apple")
    objects = torch.tensor([[0.3, 0.2, 0.1], [0.1, 0.2, 0.1], [0.2, 0.2, 0.2]]).log()
    table = behaviour.table(replace(found, object_logprob=objects))
    assert table["correct"].tolist() == [False, True, False]
    assert table["chosen"].tolist() == [True, True, False], "a tie is not right"
    assert table["answer_logprob"].tolist() == pytest.approx([torch.tensor(0.25).log().item()] * 3)
    both = behaviour.both(table, "boxes").set_index("measure")
    assert both["value"].to_dict() == pytest.approx({"top-1": 1 / 3, "object choice": 2 / 3})
    assert both["n"].tolist() == [3, 3]


def test_kept_answers_are_those_that_were_given_and_no_token_is_computed_again(tmp_path, monkeypatch):
    subject, store = tiny.subject("qwen2", seed=3), Store(tmp_path)
    prompts = boxes.prompts(subject, n=14)
    given = answers.evaluate(subject, prompts, store=store)
    monkeypatch.setattr(answers, "_final", lambda *_: pytest.fail("the model ran again"))
    again = answers.evaluate(subject, prompts, store=store)
    assert again.said == given.said and again.tokens_computed == given.tokens_computed
    for name in ("top", "answer_logprob", "object_logprob", "rank", "tied"):
        assert torch.equal(getattr(again, name), getattr(given, name))
    with pytest.raises(pytest.fail.Exception):
        answers.evaluate(subject, prompts.select(range(7)), store=store)


def test_answers_are_those_of_the_model_whatever_dtype_new_tensors_have():
    some = tiny.subject("qwen2")
    prompts = boxes.prompts(some, n=6, boxes=3)
    expected = answers.evaluate(some, prompts)
    torch.set_default_dtype(torch.float64)
    try:
        found = answers.evaluate(some, prompts)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.answer_logprob.dtype == torch.float32
    assert torch.allclose(found.answer_logprob, expected.answer_logprob, atol=1e-5)


def test_a_model_that_calls_no_part_of_itself_its_base_is_read_where_its_layers_are():
    """Llama 4 gives itself as its `base_model`."""
    config = transformers.Llama4TextConfig(
        vocab_size=len(tiny.tokenizer()), hidden_size=32, intermediate_size=32, intermediate_size_mlp=32,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2,
        pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    some = wrap(transformers.Llama4ForCausalLM(config), tiny.tokenizer())
    assert some.model.base_model is some.model
    agrees(some, boxes.prompts(some, n=6, boxes=3))


def test_a_hybrid_model_whose_states_cannot_be_shared_is_given_whole_prompts_by_itself():
    kinds = {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}
    made = transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**{**tiny.SHAPE, **kinds}))
    subject = wrap(made, tiny.tokenizer())
    found = agrees(subject, boxes.prompts(subject, n=7), share_context=True)
    assert found.tokens_computed == found.tokens_without_sharing
