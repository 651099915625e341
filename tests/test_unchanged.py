"""A model that was changed after it was wrapped is refused by the name of a weight, wherever its past is relied on."""

import copy

import peft
import pytest
import tiny
import torch
from entity_book.training import finetune
from entity_circuits import boxes, models, replay, results, runs
from entity_circuits.models import unchanged
from entity_circuits.models.subject import put_back
from entity_circuits.runs.mean_replay import Means

NAME = "model.layers.1.self_attn.v_proj.weight"


def weight(model):
    return dict(model.named_parameters())[NAME]


def one_number(model):
    weight(model)[5, 7] += 1e-6


def behind_its_back(model):
    weight(model).data += 0.01


def another_tensor(model):
    weight(model).data = weight(model).detach() * 2


def a_cast(model):
    model.double()


def a_parameter_more(model):
    model.register_parameter("more", torch.nn.Parameter(torch.zeros(1)))


def a_merged_adapter(model):
    config = peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).merge_and_unload()


CHANGES = (one_number, behind_its_back, another_tensor, a_cast, a_parameter_more, a_merged_adapter)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_refused_by_the_name_of_a_weight_and_wrapped_anew_it_is_another(change):
    subject = tiny.subject(layers=2)
    p = boxes.prompts(subject, n=2, boxes=2)
    recording = runs.record(subject, p)
    means = Means(tiny.recorded(recording, "z").mean(1), 2, subject.fingerprint)
    change(subject.model)
    for refused in (
        lambda: results.key("entity_circuits.heads", subject),
        lambda: runs.record(subject, p),
        lambda: recording.require(subject, p),
        lambda: replay.replay(recording, [[]]),
        lambda: replay.recorded_answers(recording),
        lambda: runs.rerun(recording, [[]]),
        lambda: means.require(p, subject),
    ):
        with pytest.raises(ValueError, match=r"was changed after the model was wrapped.*Wrap it anew") as told:
            refused()
        where = {a_cast: "model.", a_parameter_more: "more", a_merged_adapter: "self_attn.v_proj.weight"}
        assert where.get(change, NAME) in str(told.value)
    again = models.wrap(subject.model, subject.tokenizer)
    again.require_unchanged()
    assert again.fingerprint != subject.fingerprint


def test_running_moving_copying_and_asking_for_gradients_change_nothing():
    subject = tiny.subject(layers=2)
    p = boxes.prompts(subject, n=2, boxes=2)
    runs.run(subject, p)
    replay.replay(runs.record(subject, p), [[]])
    subject.model.to("cpu").requires_grad_(True).requires_grad_(False)
    copied = copy.deepcopy(subject)
    for one in (subject, copied):
        one.require_unchanged()
    weight(copied.model).data[0, 0] += 1
    subject.require_unchanged()


@pytest.mark.parametrize("full", [False, True])
def test_a_model_that_was_trained_and_put_back_is_as_it_was(full):
    subject = tiny.subject()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    recipe = finetune.Recipe("code", steps=1, batch=2, held_out=2, rank=2, full=full)
    finetune.train(subject, recipe, results.Store(None))
    subject.require_unchanged()
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_what_is_not_a_number_is_itself_and_an_empty_model_has_no_weights():
    subject = tiny.subject(layers=2)
    weight(subject.model)[0, 0] = torch.nan
    put_back(subject)
    subject.require_unchanged()
    nothing = unchanged.seen(torch.nn.Identity())
    assert unchanged.changed(nothing, nothing) == ""
