"""A model that was changed after it was wrapped is refused by the name of what, wherever its past is relied on."""

import copy
import functools
import re
from concurrent.futures import ThreadPoolExecutor

import peft
import pytest
import tiny
import torch
import transformers
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from entity_book.training import finetune
from entity_circuits import boxes, models, replay, results, runs
from entity_circuits.models import unchanged
from entity_circuits.models.subject import put_back
from entity_circuits.runs import answers
from entity_circuits.runs.mean_replay import Means
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2 import modeling_qwen2

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


@pytest.mark.parametrize("columns", [slice(0, 8), slice(8, 16), slice(56, 64)])
def test_what_was_written_into_one_head_s_columns_or_rows_by_data_is_seen(columns):
    for part, index in (("o_proj", (slice(None), columns)), ("q_proj", (columns, slice(None)))):
        subject = tiny.subject(layers=2)
        getattr(subject.model.model.layers[1].self_attn, part).weight.data[index] = 0
        with pytest.raises(ValueError, match=f"layers.1.self_attn.{part}.weight of .* was changed"):
            subject.require_unchanged()


COMPUTING = {
    "a scaling that is a tensor": lambda model, by: setattr(
        model.model.layers[0].self_attn, "scaling", torch.tensor(0.3 * by)
    ),
    "an epsilon that is a tensor": lambda model, by: setattr(
        model.model.norm, "variance_epsilon", torch.tensor(0.1 * by)
    ),
    "a function": lambda model, by: setattr(
        model.model.norm, "own", torch.tanh if by == 1 else torch.nn.functional.relu
    ),
}


@pytest.mark.parametrize("what", COMPUTING)
def test_a_tensor_or_function_that_a_module_holds_is_part_of_the_model(what):
    made = []
    for by in (1, 1, 2):
        model = tiny.model(layers=2)
        COMPUTING[what](model, by)
        made.append(models.wrap(model, tiny.tokenizer()))
    assert made[0].fingerprint == made[1].fingerprint != made[2].fingerprint
    COMPUTING[what](made[0].model, 2)
    with pytest.raises(ValueError, match="was changed after the model was wrapped"):
        made[0].require_unchanged()


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


def a_scaling(model):
    model.model.layers[1].self_attn.scaling *= 2


def an_epsilon(model):
    model.model.norm.variance_epsilon = 0.5


def a_buffer_that_is_never_saved(model):
    model.model.rotary_emb.inv_freq[2] *= 1.01


def another_activation(model):
    model.model.layers[0].mlp.act_fn = torch.nn.ReLU().eval()


def a_setting_of_the_config(model):
    model.config.sliding_window = 4


SETTINGS = {
    a_scaling: "model.layers.1.self_attn.scaling",
    an_epsilon: "model.norm.variance_epsilon",
    a_buffer_that_is_never_saved: "model.rotary_emb.inv_freq",
    another_activation: "model.layers.0.mlp.act_fn",
    a_setting_of_the_config: "config.sliding_window",
}


@pytest.mark.parametrize("change", SETTINGS, ids=lambda change: change.__name__)
def test_a_model_is_more_than_its_weights_and_what_else_was_changed_is_named(change):
    subject = tiny.subject(layers=2)
    subject.require_unchanged()
    change(subject.model)
    with pytest.raises(ValueError, match=rf"^{re.escape(SETTINGS[change])} of tiny.*was changed after.*Wrap it anew"):
        subject.require_unchanged()
    models.wrap(subject.model, subject.tokenizer).require_unchanged()


def a_hook(model):
    model.model.layers[1].mlp.register_forward_hook(lambda module, given, output: 2 * output)


def a_hook_before(model):
    model.model.layers[1].register_forward_pre_hook(lambda module, given: None)


def a_hook_on_the_way_back(model):
    model.model.layers[0].mlp.register_full_backward_hook(lambda module, before, after: tuple(2 * x for x in before))


def a_forward_of_its_own(model):
    mlp = model.model.layers[0].mlp
    mlp.forward = functools.partial(functools.wraps(mlp.forward)(lambda own, x: 2 * own(x)), mlp.forward)


def training(model):
    model.train()


FOREIGN = {
    a_hook: "a hook on model.layers.1.mlp",
    a_hook_before: "a hook on model.layers.1",
    a_hook_on_the_way_back: "a hook on model.layers.0.mlp",
    a_forward_of_its_own: "a forward of its own in model.layers.0.mlp",
    training: "training mode in the model itself",
}


@pytest.mark.parametrize("begun", [False, True], ids=["before anything ran", "after"])
@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
def test_hooks_and_training_mode_are_refused_by_name_wherever_a_model_runs(change, begun):
    subject = tiny.subject(layers=2)
    p = boxes.prompts(subject, n=2, boxes=2)
    recording = runs.record(subject, p) if begun else None
    change(subject.model)
    calls = [lambda: runs.run(subject, p), lambda: answers.evaluate(subject, p), lambda: runs.record(subject, p)]
    calls.append(lambda: results.key("entity_circuits.heads", subject))
    if recording is not None:
        calls.append(lambda: replay.replay(recording, [[]]))
    for refused in calls:
        with pytest.raises(ValueError, match=f"has {FOREIGN[change]}, and is another model"):
            refused()
    if change is not training:
        with pytest.raises(models.ModelCheckError, match=f"'hooks': it has {FOREIGN[change]}"):
            models.wrap(subject.model, subject.tokenizer)


@pytest.mark.parametrize("way", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
def test_a_hook_for_all_modules_at_once_is_refused_while_it_is_there(way):
    subject = tiny.subject(layers=2)
    p = boxes.prompts(subject, n=2, boxes=2)
    held = getattr(torch.nn.modules.module, f"register_module_{way}")(lambda *given: None)
    with held:
        with pytest.raises(ValueError, match="has a hook for all modules, so also on the model itself"):
            runs.run(subject, p)
        with pytest.raises(models.ModelCheckError, match="hook for all modules"):
            models.wrap(subject.model, subject.tokenizer)
    runs.run(subject, p)


REPLACED = {
    "a forward of its own in the class Qwen2MLP": (modeling_qwen2.Qwen2MLP, "forward", lambda self, x: 0 * x),
    "a forward of its own in the class Linear": (torch.nn.Linear, "forward", lambda self, x: x @ self.weight.T),
    "a rotate_half of its own in transformers.models.qwen2": (modeling_qwen2, "rotate_half", lambda x: x),
    "a get_input_embeddings of its own in the class Qwen2Model": (
        transformers.Qwen2Model,
        "get_input_embeddings",
        lambda self: self.embed_tokens,
    ),
}


@pytest.mark.parametrize("says", REPLACED)
def test_code_put_into_transformers_or_torch_is_refused_while_it_is_there(says, monkeypatch):
    subject = tiny.subject(layers=2)
    p = boxes.prompts(subject, n=2, boxes=2)
    with monkeypatch.context() as patched:
        patched.setattr(*REPLACED[says])
        for refused in (lambda: runs.run(subject, p), lambda: results.key("entity_circuits.heads", subject)):
            with pytest.raises(ValueError, match=f"has {says}.*is another model"):
                refused()
        with pytest.raises(models.ModelCheckError, match=f"it has {says}"):
            models.wrap(tiny.model(layers=2), tiny.tokenizer())
    runs.run(subject, p)


@pytest.mark.parametrize("registered", [ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS])
def test_another_function_in_the_place_of_an_attention_of_transformers_is_refused(registered):
    subject = tiny.subject(layers=2)
    p = boxes.prompts(subject, n=2, boxes=2)
    own = registered["sdpa"]
    registered["sdpa"] = lambda *given, **options: own(*given, **options)
    try:
        with pytest.raises(ValueError, match="a function of its own for the attention 'sdpa' of transformers"):
            runs.run(subject, p)
    finally:
        registered["sdpa"] = own
    runs.run(subject, p)


def norm_by(rule, scale=1.0, table=0.0):
    """A model whose last norm is of a class written here: its rule is code, its scale a list, its table no buffer."""

    class Norm(torch.nn.Module):
        gain = 1.0

        def __init__(self, inner):
            super().__init__()
            self.inner, self.scale, self.table = inner, [scale], torch.tensor([table])

        def forward(self, x):
            return rule(self.inner(x)) * self.scale[0] * self.gain + self.table

    made = tiny.model(layers=2)
    made.model.norm = Norm(made.model.norm)
    return models.wrap(made, tiny.tokenizer(), fingerprint="the same weights")


def test_a_module_of_the_readers_own_class_is_told_by_its_code_and_by_all_that_it_holds():
    here = norm_by(torch.neg)
    assert here.fingerprint == norm_by(torch.neg).fingerprint
    others = [norm_by(torch.abs), norm_by(torch.neg, scale=2.0), norm_by(torch.neg, table=1.0), norm_by(lambda x: -x)]
    others += [norm_by(lambda x: -1 * x), tiny.subject(layers=2)]
    assert len({here.fingerprint, *(one.fingerprint for one in others)}) == 1 + len(others)


def changed_list(norm):
    norm.scale[0] = 2.0


def changed_table(norm):
    norm.table += 1


def changed_class(norm):
    type(norm).gain = 2.0


def changed_code(norm):
    type(norm).forward = lambda self, x: self.inner(x)


@pytest.mark.parametrize("change", [changed_list, changed_table, changed_class, changed_code])
def test_a_module_of_the_readers_own_class_that_changed_since_is_named(change):
    subject = norm_by(torch.neg)
    runs.record(subject, boxes.prompts(subject, n=2, boxes=2))
    subject.require_unchanged()
    change(subject.model.model.norm)
    with pytest.raises(ValueError, match=r"^model\.norm(\.table)? of in memory was changed after"):
        subject.require_unchanged()


def test_what_a_module_holds_of_which_nothing_can_be_told_makes_each_wrapping_another(tmp_path):
    subject = norm_by(torch.neg)
    with (tmp_path / "log").open("w") as subject.model.model.norm.log:
        first, second = (models.wrap(subject.model, subject.tokenizer, fingerprint="w") for _ in range(2))
        first.require_unchanged()
    assert first.fingerprint != second.fingerprint


def test_several_threads_may_use_one_model():
    subject = tiny.subject(layers=2)
    p = boxes.prompts(subject, n=4, boxes=2)
    recording = runs.record(subject, p)
    zero = torch.zeros(4, 1, subject.head_size)
    shared = runs.Edit("v", 1, (0,), p.last, zero)
    asked = [
        lambda: runs.run(subject, p, [shared]).logprob,
        lambda: runs.record(subject, p).at("z", 1, p.last),
        lambda: replay.replay(recording, [[runs.Edit("z", 0, (1,), p.last, zero)]]).logprob,
        lambda: answers.evaluate(subject, p).object_logprob,
    ]
    alone = [one() for one in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda index: asked[index % len(asked)](), range(8 * len(asked))))
    for index, one in enumerate(together):
        torch.testing.assert_close(one, alone[index % len(asked)], rtol=0, atol=1e-6)


def test_what_libraries_put_into_a_model_to_carry_it_is_not_foreign():
    model = tiny.model(layers=2)
    add_hook_to_module(model.model.layers[0], AlignDevicesHook(execution_device="cpu"))
    model.enable_input_require_grads()
    subject = models.wrap(model, tiny.tokenizer())
    runs.run(subject, boxes.prompts(subject, n=2, boxes=2))
    subject.require_unchanged()
    assert unchanged.foreign(torch.compile(model)) == ""


def test_a_model_that_was_wrapped_anew_is_checked_anew():
    made = tiny.model(layers=2)
    subject = models.wrap(made, tiny.tokenizer())
    p = boxes.prompts(subject, n=2, boxes=2)
    answers.evaluate(subject, p)
    made.__class__ = type("Half", (type(made),), {"forward": half})
    again = models.wrap(made, tiny.tokenizer())
    with pytest.raises(RuntimeError, match="differs from its own logits"):
        answers.evaluate(again, p)


def half(self, *given, **options):
    out = transformers.Qwen2ForCausalLM.forward(self, *given, **options)
    out.logits = out.logits / 2
    return out
