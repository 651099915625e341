"""Models: the registry says what it must, loading gives the model that was saved, and unfit models are told apart."""

import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import families
import peft
import pytest
import tiny
import torch
import transformers
from entity_circuits import models, places
from entity_circuits.models import alike, conversion, loading, pair
from entity_circuits.models.subject import ModelCheckError
from entity_circuits.models.weights import FetchError
from entity_circuits.tasks import boxes, vocabulary
from safetensors.torch import load_file, save_file

PROMPT = "The apple is in Box A, the cup is in Box B. Box A contains the"
HEX = re.compile(r"[0-9a-f]{64}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("qwen"))


def logits(subject, model=None) -> torch.Tensor:
    ids = subject.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return (model or subject.model)(ids).logits


def make_adapter(folder: Path, base, *, seed: int = 1, **options):
    """A random LoRA adapter on q and o, saved; gives back the model with the adapter unmerged."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], init_lora_weights=False, **options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(base, config).eval()
    adapted.save_pretrained(str(folder))
    return adapted


# The registry


def test_every_entry_says_where_it_is_from_on_what_terms_and_whether_it_was_run():
    entries = models.registry()
    assert "qwen2.5-coder-0.5b" in entries
    for entry in entries.values():
        source = entry.source
        assert entry.title
        assert entry.architecture
        assert entry.licence
        assert entry.gate
        assert entry.parameters > 0
        assert entry.memory_gb > 0
        assert source.repo or source.wheels or source.path
        if source.file:
            assert HEX.fullmatch(source.sha256)
            assert source.size > 0
        for wheel in source.wheels:
            assert HEX.fullmatch(wheel.sha256)
            assert re.fullmatch(r"[\w.-]+==[\w.]+", wheel.requirement)
        assert not (entry.executed_here and not (source.sha256 or source.path)), "run here, but from an unpinned source"


def test_every_pair_is_two_entries_of_the_registry():
    for base, finetuned in models.pairs().values():
        assert {base, finetuned} <= set(models.registry())


def test_the_papers_four_models_are_entries_and_goat_is_an_adapter_on_llama():
    entries = models.registry()
    assert {"llama-7b", "vicuna-7b", "goat-7b", "float-7b"} <= set(entries)
    assert entries["goat-7b"].base == "llama-7b"
    assert entries["goat-7b"].memory_gb == entries["llama-7b"].memory_gb


def use_registry(monkeypatch, tmp_path, text: str) -> None:
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setattr(importlib.import_module("entity_circuits.models.registry"), "FILE", tmp_path / "models.toml")


ENTRY = 'title="t"\narchitecture="Qwen2"\nlicence="l"\ngate="none"\nparameters=1\nexecuted_here=false\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[models.a]\n{ENTRY}licens="MIT"', "a: .*licens"),
        ('[models.a]\ntitle="t"', "a: .*missing"),
        (f'[models.a]\n{ENTRY}base="b"', "adapter on b"),
    ],
)
def test_a_wrong_entry_of_the_registry_is_named(monkeypatch, tmp_path, text, message):
    use_registry(monkeypatch, tmp_path, text)
    with pytest.raises((TypeError, ValueError), match=message):
        models.registry()


def test_the_registry_as_a_table_has_a_row_for_each_entry_and_fetches_nothing():
    table = models.describe()
    assert list(table["name"]) == list(models.registry())
    assert not table.loc[table["name"] == "qwen2.5-coder-0.5b", "fetched"].item()


def test_an_unknown_name_or_pair_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no model 'qwen'.*qwen2\.5-coder-0\.5b"):
        models.load("qwen")
    with pytest.raises(ValueError, match=r"no pair 'x'\. Known pairs: .*goat-7b"):
        models.load_pair("x")


def test_a_misspelt_name_is_told_what_it_was_probably_meant_to_be(tmp_path):
    with pytest.raises(ValueError, match=r"no model 'qwen2\.5-codr-0\.5b'\. Did you mean 'qwen2\.5-coder-0\.5b'\?"):
        models.load("qwen2.5-codr-0.5b")
    with pytest.raises(ValueError, match=r"no pair 'goat7b'\. Did you mean 'goat-7b'\?"):
        models.load_pair("goat7b")
    with pytest.raises(ValueError, match=r"no pair 'Aritmetic'\. Did you mean 'arithmetic'\?"):
        pair.named("Aritmetic")
    with pytest.raises(ValueError, match=r"no model 'lama-7b'\. Did you mean 'llama-7b'\?"):
        pair.ready("lama-7b", "goat-7b")


def test_without_a_checkout_an_adapter_of_the_repository_is_refused_and_the_registry_is_read(monkeypatch):
    monkeypatch.setattr(places, "checkout", lambda: None)
    assert not models.describe().set_index("name").loc["arithmetic", "fetched"]
    with pytest.raises(FetchError, match=r"data/adapters/arithmetic does not come with the package.*clone"):
        models.fetch("arithmetic")
    monkeypatch.setattr(loading, "_locate", lambda name: pytest.fail(f"{name} was looked for"))
    with pytest.raises(FetchError, match="does not come with the package"):
        models.load("arithmetic")


# Loading


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folder_loads_as_the_model_that_was_saved(tmp_path, family):
    made = tiny.subject(family)
    loaded = models.load(str(tiny.save(tmp_path / "saved", family)))
    assert torch.equal(logits(loaded), logits(made))
    for field in ("layers", "heads", "kv_heads", "head_size"):
        assert getattr(loaded, field) == getattr(made, field)
    assert loaded.model.training is False
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer.padding_side == "right"
    assert loaded.tokenizer.pad_token is not None


def test_dtype_device_and_attention_are_what_was_asked_for(qwen):
    subject = models.load(str(qwen), dtype=torch.float64, attention="eager")
    assert (subject.dtype, subject.device.type) == (torch.float64, "cpu")
    assert subject.model.config._attn_implementation == "eager"
    assert models.load(str(qwen)).model.config._attn_implementation == "sdpa"
    models.load(str(qwen), dtype=torch.bfloat16)


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_file_gives_the_weights_it_was_made_from_tied_or_not(tmp_path, tied):
    file = tmp_path / "tiny.gguf"
    made = tiny.save_gguf(file, tied=tied)
    for name in (file, tmp_path):  # the file, or the folder that holds only it
        loaded = models.load(str(name), check=False)
        ids = torch.arange(25)[None]
        assert torch.equal(loaded.model(ids).logits, made(ids).logits)
        assert (loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight) == tied


def test_the_fingerprint_changes_with_the_weights_the_dtype_and_the_adapter_and_with_nothing_else(qwen, tmp_path):
    first = models.load(str(qwen)).fingerprint
    assert first == models.load(str(shutil.copytree(qwen, tmp_path / "copy"))).fingerprint
    nudged = shutil.copytree(qwen, tmp_path / "nudged")
    tensors = load_file(nudged / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nextafter(tensors["model.norm.weight"][0], torch.tensor(9.0))
    save_file(tensors, nudged / "model.safetensors", metadata={"format": "pt"})
    make_adapter(tmp_path / "one", tiny.model(), seed=1)
    make_adapter(tmp_path / "two", tiny.model(), seed=2)
    others = [
        models.load(str(nudged)),
        models.load(str(qwen), dtype=torch.float64),
        models.load(str(qwen), adapter=str(tmp_path / "one")),
        models.load(str(qwen), adapter=str(tmp_path / "two")),
    ]
    assert len({first, *(subject.fingerprint for subject in others)}) == 5


def test_a_model_in_memory_has_a_fingerprint_of_its_weights():
    assert tiny.subject(seed=0).fingerprint == tiny.subject(seed=0).fingerprint != tiny.subject(seed=1).fingerprint


def test_an_adapter_is_merged_into_plain_weights_that_compute_the_same(qwen, tmp_path):
    unmerged = make_adapter(tmp_path / "adapter", tiny.model())
    base = models.load(str(qwen))
    merged = models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    assert type(merged.model) is type(base.model)
    assert type(merged.model.model.layers[0].self_attn.o_proj) is torch.nn.Linear
    assert merged.name == f"{qwen}+adapter"
    torch.testing.assert_close(logits(merged), logits(merged, unmerged), atol=1e-4, rtol=1e-4)
    assert (logits(merged) - logits(base)).abs().max() > 0.1
    assert not any(parameter.requires_grad for parameter in merged.model.parameters())


def test_an_adapter_shares_all_that_it_leaves_unchanged_with_its_base_and_changes_nothing_there(qwen, tmp_path):
    make_adapter(tmp_path / "adapter", tiny.model())
    alone = models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    base = models.load(str(qwen))
    before = [weight.clone() for weight in base.model.parameters()]
    beside = models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    assert beside.fingerprint == alone.fingerprint
    assert all(map(torch.equal, before, base.model.parameters()))
    assert all(map(torch.equal, beside.model.state_dict().values(), alone.model.state_dict().values()))
    ids = torch.arange(12)[None]
    assert torch.equal(beside.model(ids).logits, alone.model(ids).logits)
    own = {
        name
        for name, weight in beside.model.named_parameters()
        if weight.data_ptr() != base.model.get_parameter(name).data_ptr()
    }
    assert {name.split(".")[-2] for name in own} == {"q_proj", "o_proj"}
    del base
    assert torch.equal(beside.model(ids).logits, alone.model(ids).logits)


WRITING = (  # ways in which PEFT writes into weights of the model that it is given
    {"target_modules": ["q_proj"], "bias": "lora_only"},
    {"target_modules": ["q_proj"], "bias": "all"},
    {"target_modules": ["q_proj"], "init_lora_weights": "olora"},
    {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate_proj.weight"]},
    {"target_modules": ["embed_tokens"]},
)


@pytest.mark.parametrize("options", WRITING, ids=str)
def test_an_adapter_that_writes_into_weights_leaves_those_of_its_loaded_base_alone(qwen, tmp_path, options):
    adapted = peft.get_peft_model(tiny.model(), peft.LoraConfig(**{"init_lora_weights": False, **options}))
    for name, weight in adapted.named_parameters():
        if weight.requires_grad and "lora_" not in name:
            weight.data += 0.3
    adapted.save_pretrained(str(tmp_path))
    base = models.load(str(qwen))
    before = [weight.clone() for weight in base.model.state_dict().values()]
    models.load(str(qwen), adapter=str(tmp_path))
    assert all(map(torch.equal, before, base.model.state_dict().values()))
    base.require_unchanged()


def window(model):
    model.config.layer_types, model.config.sliding_window = ["sliding_attention"] * 4, 4


CHANGED = {
    "a number": lambda model: model.model.layers[1].mlp.up_proj.weight.data[3, 5].add_(1),  # unseen by torch's count
    "all signs": lambda model: model.model.layers[1].self_attn.o_proj.weight.data.neg_(),
    "two heads": lambda model: model.model.layers[0].self_attn.q_proj.weight.data.copy_(
        model.model.layers[0].self_attn.q_proj.weight.data.roll(8, 0)
    ),
    "the order of a row": lambda model: model.model.layers[0].mlp.down_proj.weight.data.copy_(
        model.model.layers[0].mlp.down_proj.weight.data.flip(1)
    ),
    "the rotation": lambda model: model.model.rotary_emb.inv_freq.mul_(0.1),
    "the windows": window,
    "the attention": lambda model: model.set_attn_implementation("eager"),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_base_that_was_changed_after_it_was_loaded_is_not_shared(qwen, tmp_path, change):
    make_adapter(tmp_path / "adapter", tiny.model())
    alone = models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    base = models.load(str(qwen))
    change(base.model)
    again = models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    assert all(map(torch.equal, again.model.state_dict().values(), alone.model.state_dict().values()))
    assert again.fingerprint == alone.fingerprint
    assert torch.equal(logits(again), logits(alone))


def test_a_change_of_the_base_is_one_of_what_shares_its_memory(qwen, tmp_path):
    make_adapter(tmp_path / "adapter", tiny.model())
    base = models.load(str(qwen))
    tuned = models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    with torch.no_grad():
        base.model.model.layers[1].mlp.up_proj.weight[3, 5] += 1
    for subject in (base, tuned):
        with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight of .* was changed"):
            subject.require_unchanged()


def test_a_pair_loads_its_base_and_its_adapter_by_their_names(qwen, tmp_path, monkeypatch):
    make_adapter(tmp_path / "adapter", tiny.model())
    registry = (
        f'[models.base]\n{ENTRY}path="{qwen}"\n[models.tuned]\n{ENTRY}base="base"\npath="{tmp_path / "adapter"}"\n'
        f'[models.other]\n{ENTRY}path="{qwen}"\n[pairs.both]\nbase="base"\nfinetuned="tuned"\n'
    )
    with monkeypatch.context() as patched:
        use_registry(patched, tmp_path, registry)
        base, tuned = models.load_pair("both", check=False)
        assert (base.name, tuned.name) == ("base", "base+tuned")
        with pytest.raises(ValueError, match="tuned is no adapter on other but on base"):
            models.load("other", adapter="tuned")
        with pytest.raises(ValueError, match="one adapter at a time"):
            models.load("tuned", adapter="tuned")
    assert not torch.equal(logits(base), logits(tuned))


# What is refused at load


def test_pickled_weights_are_refused_with_the_way_to_convert_them(qwen, tmp_path):
    folder = shutil.copytree(qwen, tmp_path / "pickled")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(FetchError, match=r"no config\.json with model\.safetensors.*torch\.load"):
        models.load(str(folder))
    with pytest.raises(FetchError, match=r"neither a folder nor a GGUF file.*torch\.load"):
        models.load(str(folder / "pytorch_model.bin"))


def test_a_pickled_adapter_is_refused(qwen, tmp_path):
    make_adapter(tmp_path / "adapter", tiny.model())
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter" / "adapter_model.bin")
    file.unlink()
    with pytest.raises(FetchError, match=r"lacks adapter_model\.safetensors.*torch\.load"):
        models.load(str(qwen), adapter=str(tmp_path / "adapter"))


def test_an_adapter_of_another_kind_or_for_another_model_is_refused(qwen, tmp_path):
    make_adapter(tmp_path / "adapter", tiny.model("mistral"))
    with pytest.raises(ModelCheckError, match="does not fit this base model"):
        models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    peft.get_peft_model(
        tiny.model(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    ).save_pretrained(str(tmp_path / "prompt"))
    with pytest.raises(ModelCheckError, match="only LoRA"):
        models.load(str(qwen), adapter=str(tmp_path / "prompt"))


def test_an_adapter_with_missing_parts_is_refused(qwen, tmp_path):
    make_adapter(tmp_path / "adapter", tiny.model())
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[1:]), file)
    with pytest.raises(ModelCheckError, match=r"does not fit this base model.*missing adapter keys"):
        models.load(str(qwen), adapter=str(tmp_path / "adapter"))


def test_the_folder_of_an_adapter_is_no_model(tmp_path):
    make_adapter(tmp_path / "adapter", tiny.model())
    with pytest.raises(FetchError, match="is an adapter"):
        models.load(str(tmp_path / "adapter"))


def test_code_that_comes_with_a_model_is_not_run(qwen, tmp_path):
    folder = shutil.copytree(qwen, tmp_path / "code")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelCheckError, match="'loading'"):
        models.load(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["a weight is missing", "truncated"])
def test_weights_that_are_not_whole_are_refused(qwen, tmp_path, damage):
    folder = shutil.copytree(qwen, tmp_path / "damaged")
    file = folder / "model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        tensors = load_file(file)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelCheckError, match=r"up_proj" if damage != "truncated" else "'loading'"):
        models.load(str(folder))


def test_an_encoder_decoder_is_refused(tmp_path):
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tiny.tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelCheckError, match=r"'architecture'.*decoder-only"):
        models.load(str(tmp_path / "t5"))


# The checks: each fails on a model that breaks just what it tests


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_four_families_pass_all_checks(family, dtype):
    models.check(tiny.subject(family, dtype=dtype))


def failed(subject) -> str:
    with pytest.raises(ModelCheckError) as caught:
        models.check(subject)
    assert f"{subject.name} fails the check '{caught.value.check}'" in str(caught.value)
    return caught.value.check


def test_a_decoder_of_another_form_fails_the_architecture_check():
    config = transformers.BloomConfig(vocab_size=len(tiny.words()), hidden_size=16, n_layer=2, n_head=2)
    assert failed(models.wrap(transformers.BloomForCausalLM(config), tiny.tokenizer())) == "architecture"


def test_settings_that_make_a_model_another_one_are_refused_with_the_way_out():
    assert failed(families.subject("Cohere", use_qk_norm=True)) == "settings"
    assert failed(families.subject("StableLm", qk_layernorm=True)) == "settings"
    capped = families.subject("Gemma2", dtype=torch.float32)
    capped.model.config._attn_implementation = "sdpa"
    assert failed(capped) == "attention"
    models.check(families.subject("Gemma2", dtype=torch.float32))


def test_a_wrong_number_of_heads_fails_the_projections_check():
    assert failed(replace(tiny.subject(), kv_heads=4)) == "projections"
    assert failed(replace(tiny.subject(), head_size=16)) == "projections"


def test_an_adapter_left_unmerged_fails_the_projections_check(tmp_path):
    subject = tiny.subject()
    make_adapter(tmp_path, subject.model)
    assert failed(subject) == "projections"


def test_a_hook_that_adds_to_the_output_of_o_proj_fails_the_head_split_check():
    subject = tiny.subject()
    subject.model.model.layers[2].self_attn.o_proj.register_forward_hook(lambda _m, _a, out: out + 0.01)
    assert failed(subject) == "head split"


def test_weights_that_are_not_numbers_fail_the_head_split_check():
    subject = tiny.subject()
    subject.model.model.layers[0].self_attn.v_proj.weight[0, 0] = float("nan")
    assert failed(subject) == "head split"


def test_a_model_that_does_not_repeat_itself_fails_the_no_op_check():
    subject = tiny.subject()
    subject.model.model.layers[3].mlp.register_forward_hook(lambda _m, _a, out: out + 1e-3 * torch.randn_like(out))
    assert failed(subject) == "no-op edit"


@pytest.mark.parametrize("what", ["labels", "objects"])
def test_a_tokenizer_that_splits_labels_or_objects_is_fit_for_other_tasks_and_refused_by_the_boxes(monkeypatch, what):
    subject = tiny.subject()
    known = vocabulary.LABELS if what == "labels" else vocabulary.objects()
    words = [*known[:6], *(f"un{word}known" for word in known[6:])]
    if what == "labels":
        monkeypatch.setattr(vocabulary, "LABELS", tuple(words))
    else:
        monkeypatch.setattr(vocabulary, "objects", lambda: tuple(words))
    models.check(subject)
    with pytest.raises(ValueError, match=f"{what}: [78] words that are one token each are needed.*splits, for example"):
        boxes.prompts(subject, n=7, boxes=7)


def test_checking_leaves_no_hook_behind():
    subject = tiny.subject()
    models.check(subject)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())


# The tiny models themselves


def test_every_word_of_the_task_is_one_token_of_the_tiny_tokenizer():
    tokenizer = tiny.tokenizer()
    text = PROMPT + " apple, Box Z contains the cup. There is a dog, the"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert len(tokenizer(PROMPT)["input_ids"]) == 18
    assert vocabulary.token_ids(tokenizer, vocabulary.objects()).keys() == set(vocabulary.objects())
    assert vocabulary.token_ids(tokenizer, ["apple"])["apple"] == tokenizer(PROMPT)["input_ids"][1]


def test_tiny_models_are_made_by_their_seed_and_do_something():
    one, same, other = (logits(tiny.subject(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.std() > 0.5


def with_adapter(made):
    """The model with an adapter in it by transformers' own way, which leaves its class as it is."""
    made.add_adapter(peft.LoraConfig(r=2, target_modules=["o_proj"]))
    return made


def shared(made, path):
    """The model whose layer 1 is layer 0, or has a part of it."""
    made.model.layers.set_submodule(f"1.{path}".rstrip("."), made.model.layers.get_submodule(f"0.{path}".rstrip(".")))
    return made


WRONG = {
    "no decoder-only model": lambda made, _: (torch.nn.Linear(2, 2), tiny.tokenizer()),
    "a NoneType, and no model of transformers": lambda made, _: (None, tiny.tokenizer()),
    "a str, and no model of transformers": lambda made, _: ("qwen", tiny.tokenizer()),
    "needs its tokenizer beside it": lambda made, _: (made, None),
    "it is a PeftModel of PEFT.*merge_and_unload": lambda made, folder: (make_adapter(folder, made), tiny.tokenizer()),
    "layers.0.self_attn.o_proj is a Linear of PEFT.*adapter=": lambda made, _: (with_adapter(made), tiny.tokenizer()),
    "layers 0 and 1 are one module": lambda made, _: (shared(made, ""), tiny.tokenizer()),
    "layers 0.self_attn.o_proj and 1.self_attn.o_proj are one": lambda made, _: (
        shared(made, "self_attn.o_proj"),
        tiny.tokenizer(),
    ),
    "a Qwen2Model gives no logits": lambda made, _: (made.model, tiny.tokenizer()),
    "ForSequenceClassification gives no logits": lambda made, _: (
        transformers.Qwen2ForSequenceClassification(made.config),
        tiny.tokenizer(),
    ),
    "is no tensor of numbers": lambda made, _: (made.to("meta"), tiny.tokenizer()),
}


@pytest.mark.parametrize("says", WRONG)
def test_what_is_no_whole_language_model_with_its_tokenizer_is_not_wrapped(tmp_path, says):
    with pytest.raises(models.ModelCheckError, match=says):
        models.wrap(*WRONG[says](tiny.model(layers=2), tmp_path))


def retold(folder, **changed):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def windowed(folder, window):
    retold(folder, use_sliding_window=True, layer_types=["sliding_attention"] * 4, sliding_window=window)


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def said_twice(folder):
    file = folder / "config.json"
    file.write_text(file.read_text().rstrip().removesuffix("}").rstrip() + ', "rms_norm_eps": 0.5}')


def in_two_files(folder):
    parts = load_file(folder / "model.safetensors")
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    save_file(parts, folder / names[0])
    save_file({"lm_head.weight": 3 * parts["lm_head.weight"]}, folder / names[1])
    weight_map = dict.fromkeys(parts, names[0]) | {"model.norm.weight": names[1]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


DAMAGES = {
    "holds no tokenizer that knows a word": without_tokenizer,
    "says rms_norm_eps twice": said_twice,
    "lm_head.weight is in model-00001-of-00002.safetensors and in model-00002": in_two_files,
    "another last token moves logits before it": lambda folder: retold(folder, is_causal=False),
    "sliding_window is 0": lambda folder: windowed(folder, 0),
    "sliding_window is -3": lambda folder: windowed(folder, -3),
    "sliding_window is None": lambda folder: windowed(folder, None),
}


@pytest.mark.parametrize("says", DAMAGES)
def test_a_folder_that_would_load_as_something_else_is_refused(tmp_path, says):
    DAMAGES[says](tiny.save(tmp_path))
    with pytest.raises(models.ModelCheckError, match=says):
        models.load(str(tmp_path))


def test_an_adapter_that_is_quantised_or_asks_for_what_is_not_here_is_refused(qwen, tmp_path):
    make_adapter(tmp_path, tiny.model())
    file, told = tmp_path / "adapter_model.safetensors", (tmp_path / "adapter_config.json").read_text()
    for asked in ({"layer_replication": [[0, 9]]}, {"megatron_config": {"a": 1}, "megatron_core": "megatron.core"}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(json.loads(told) | asked))
        with pytest.raises(models.ModelCheckError, match="'adapter'"):
            models.load(str(qwen), adapter=str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(told)
    save_file({key: (9 * part).to(torch.int8) for key, part in load_file(file).items()}, file)
    with pytest.raises(models.ModelCheckError, match="holds int8, not floating numbers"):
        models.load(str(qwen), adapter=str(tmp_path))


def test_each_digit_stands_alone_where_a_gguf_file_says_so():
    for pre, pieces in (("smollm", ["1", "2"]), ("gpt-2", ["12"])):
        tokenizer = conversion.rebuilt(tiny.tokenizer(), {"tokenizer.ggml.pre": pre})
        assert [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12")] == pieces


def scaled(kind, room, **stated):
    rotation = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 256, **stated}
    shape = {**tiny.SHAPE, "max_position_embeddings": room}
    return transformers.LlamaConfig(**shape, rope_parameters=rotation)


def test_rotations_that_follow_from_the_longest_prompt_are_apart_where_that_differs():
    long = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    for kind, stated in (("longrope", long), ("yarn", {"factor": None}), ("dynamic", {"factor": 2.0})):
        differ, _ = alike.apart(scaled(kind, 512, **stated), scaled(kind, 4096, **stated))
        assert differ == ["max_position_embeddings, by which it rotates, (512 and 4096)"]
    assert alike.apart(scaled("yarn", 512, factor=2.0), scaled("yarn", 4096, factor=2.0)) == ([], [])
    differ, _ = alike.apart(*(transformers.LlamaConfig(**tiny.SHAPE, rms_norm_eps=eps) for eps in (1e-6, 0.5)))
    assert differ == ["rms_norm_eps (1e-06 and 0.5)"]
