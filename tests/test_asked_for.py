"""What is loaded is what was asked for: fingerprint, folder, adapter and conversion; or a refusal that names why."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import peft
import pytest
import tiny
import torch
from entity_circuits import cmap, models, places
from entity_circuits.models import adapters, alike, conversion, identity, naming, pair, reading
from entity_circuits.models.subject import ModelCheckError
from entity_circuits.models.weights import FetchError
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

IDS = torch.arange(5, 30)[None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("qwen"), layers=2)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def with_config(folder: Path, target: Path, **fields) -> Path:
    """A copy of a model's folder with other fields in its config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **fields}))
    return target


def with_weights(folder: Path, target: Path, change) -> Path:
    """A copy of a model's folder with other tensors: what `change` made of them, in place."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


# Fingerprints


def rebuilt(**fields):
    """The tiny model with the same weights and other fields in its config."""
    made = tiny.model()
    for name, value in fields.items():
        setattr(made.config, name, value)
    new = type(made)(made.config)
    new.load_state_dict(made.state_dict())
    return models.wrap(new, tiny.tokenizer())


CHANGES = {
    "rotary base": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "rotary scaling": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "epsilon": {"rms_norm_eps": 1e-3},
    "activation": {"hidden_act": "gelu"},
    "window": {"layer_types": ["sliding_attention"] * 4, "use_sliding_window": True, "sliding_window": 4},
}


@pytest.mark.parametrize("given", [None, "these weights"])
def test_same_weights_under_another_config_have_another_fingerprint_also_where_one_is_given(given):
    known = [models.wrap(one.model, one.tokenizer, fingerprint=given) for one in [rebuilt()]]
    known += [
        models.wrap(one.model, one.tokenizer, fingerprint=given)
        for one in (rebuilt(**fields) for fields in CHANGES.values())
    ]
    assert len({one.fingerprint for one in known}) == 1 + len(CHANGES)


def test_another_tokenizer_attention_or_dtype_is_another_fingerprint_and_names_and_padding_are_not():
    model = tiny.model()
    first = models.wrap(model, tiny.tokenizer(), fingerprint="w").fingerprint
    other = tiny.tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    again = tiny.tokenizer()
    again(["a", "a dog"], padding=True, truncation=True, max_length=3)
    special = tiny.tokenizer()
    special.pad_token = "<unk>"
    assert models.wrap(model, again, name="mine", fingerprint="w").fingerprint == first
    model.config._name_or_path = model.name_or_path = "elsewhere"
    model.config.use_cache = False
    assert models.wrap(model, tiny.tokenizer(), fingerprint="w").fingerprint == first
    assert models.wrap(tiny.model(), tiny.tokenizer()).fingerprint == models.wrap(model, again).fingerprint
    found = [models.wrap(model, one, fingerprint="w").fingerprint for one in (other, special)]
    found.append(models.wrap(tiny.model(dtype=torch.bfloat16), again, fingerprint="w").fingerprint)
    model.set_attn_implementation("eager")
    found.append(models.wrap(model, again, fingerprint="w").fingerprint)
    assert len({first, *found}) == 5


def test_what_modules_hold_beside_their_weights_is_in_the_fingerprint_of_a_model_in_memory():
    def scaled(model):
        model.model.layers[1].self_attn.scaling *= 2

    def turned(model):
        model.model.rotary_emb.inv_freq *= 2

    def plain(model):
        pass

    found = []
    for change in (plain, scaled, turned):
        model = tiny.model()
        change(model)
        found.append(models.wrap(model, tiny.tokenizer()).fingerprint)
    assert len(set(found)) == 3


def test_two_loads_have_one_fingerprint_in_every_process_and_sdpa_and_eager_two(qwen):
    code = f"from entity_circuits import models; print(models.load({str(qwen)!r}).fingerprint)"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    here = models.load(str(qwen))
    assert there.stdout.strip() == here.fingerprint
    assert models.load(str(qwen), attention="eager").fingerprint != here.fingerprint


def test_a_folder_with_another_tokenizer_has_another_fingerprint(qwen, tmp_path):
    folder = shutil.copytree(qwen, tmp_path / "other")
    told = json.loads((folder / "tokenizer.json").read_text())
    told["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(told))
    assert models.load(str(folder)).fingerprint != models.load(str(qwen)).fingerprint


# Folders


def drop(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def add(tensors):
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)


def widen(tensors):
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.ones(64, 32)


def flip(tensors):  # the highest bit of an exponent
    bits = tensors["model.layers.0.mlp.up_proj.weight"].view(torch.int32)
    bits[0, 0] ^= 1 << 30


def nan(tensors):
    tensors["model.norm.weight"][3] = torch.nan


def ints(tensors):
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.ones(64, 64, dtype=torch.int8)


def eighths(tensors):
    weight = tensors["model.layers.0.self_attn.q_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.weight"] = weight.to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"the weights lack model\.layers\.1\.mlp\.up_proj\.weight"),
        (add, r"no place for model\.layers\.0\.self_attn\.q_norm\.weight"),
        (widen, r"another shape than that of model\.layers\.0\.self_attn\.q_proj\.weight"),
        (flip, r"model\.layers\.0\.mlp\.up_proj\.weight holds numbers from .*e\+3"),
        (nan, r"model\.norm\.weight holds numbers from nan"),
        (ints, r"q_proj\.weight in model\.safetensors holds I8, not floating numbers.*unquantised"),
        (eighths, r"q_proj\.weight in model\.safetensors holds F8_E4M3, not floating"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused_by_their_names(qwen, tmp_path, change, message):
    folder = with_weights(qwen, tmp_path / "changed", change)
    with pytest.raises(ModelCheckError, match=message):
        models.load(str(folder), check=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\).*unquantised model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\)"),
        ({"quantization_config": {"load_in_4bit": True}}, r"quantised \(an unnamed method\)"),
        ({"auto_map": {"AutoModelForCausalLM": "own.Model"}}, "asks for code of its own.*remove auto_map"),
        ({"tie_word_embeddings": True}, "ties the output matrix .* two that differ"),
        ({"num_hidden_layers": "two"}, "cannot read .*config.json"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(qwen, tmp_path, fields, message):
    with pytest.raises(ModelCheckError, match=message):
        models.load(str(with_config(qwen, tmp_path / "changed", **fields)), check=False)


def test_a_tokenizer_with_words_beyond_the_embedding_is_refused(qwen, tmp_path):
    folder = shutil.copytree(qwen, tmp_path / "foreign")
    other = tiny.tokenizer()
    other.add_tokens(["foreign"])
    other.save_pretrained(folder)
    with pytest.raises(ModelCheckError, match=r"'foreign' \(354\).*beyond the 354 rows"):
        models.load(str(folder))
    with pytest.raises(ModelCheckError, match="belongs to another model"):
        models.check(models.wrap(tiny.model(), other))


def test_a_folder_of_a_model_and_an_adapter_is_refused_and_so_are_files_elsewhere(qwen, tmp_path):
    both = shutil.copytree(qwen, tmp_path / "both")
    (both / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(qwen), "peft_type": "LORA"}))
    with pytest.raises(ModelCheckError, match="holds a model and an adapter_config"):
        models.load(str(both))
    away = shutil.copytree(qwen, tmp_path / "away")
    (away / "model.safetensors").rename(tmp_path / "outside.safetensors")
    shutil.copy(tmp_path / "outside.safetensors", away / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../outside.safetensors"}}
    (away / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FetchError, match=r"names '\.\./outside\.safetensors', which is no .* of that folder"):
        models.load(str(away))
    with pytest.raises(FetchError, match=r"names '\.\./outside"):
        reading.read(away, "away", torch.float32, "sdpa")


def test_only_files_that_are_read_are_part_of_the_fingerprint_and_a_folder_without_them_is_no_model(qwen, tmp_path):
    folder = shutil.copytree(qwen, tmp_path / "copy")
    shutil.copy(folder / "model.safetensors", folder / "optimizer.safetensors")
    assert models.load(str(folder), check=False).fingerprint == models.load(str(qwen), check=False).fingerprint
    (folder / "model.safetensors").unlink()
    with pytest.raises(FetchError, match=r"holds no config\.json with model\.safetensors or .*index\.json"):
        models.load(str(folder))


# Options and names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash_attention_2"}, "one of sdpa, eager.*ignore the masks"),
        ({"attention": "flex_attention"}, "one of sdpa, eager"),
        ({"dtype": torch.int8}, r"dtype torch\.int8 cannot be used"),
        ({"dtype": torch.float8_e4m3fn}, "cannot be used: it is one of"),
        ({"device": "gpu"}, "nothing can be computed on the device 'gpu'"),
        ({"device": "meta"}, "nothing can be computed on the device 'meta'"),
        ({"device": "cuda:99"}, "nothing can be computed on the device 'cuda:99'"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_fetched(monkeypatch, options, message):
    monkeypatch.setattr(models.loading, "_locate", lambda name: pytest.fail(f"{name} was looked for"))
    with pytest.raises(ValueError, match=message):
        models.load("arithmetic", **options)


def test_an_empty_name_is_no_folder(qwen, monkeypatch):
    monkeypatch.chdir(qwen)
    for use in (models.load, models.fetch, lambda name: pair.ready(".", name), lambda name: pair.ready(name, ".")):
        for name in ("", " "):
            with pytest.raises(ValueError, match=r"no name of a model\. The current folder is '\.'"):
                use(name)
    with pytest.raises(ValueError, match="no name of a model"):
        models.load(".", adapter="")
    assert models.load(".").name == "."


def test_home_relative_and_path_objects_name_the_same_model_and_an_unknown_home_is_told(qwen, monkeypatch):
    monkeypatch.setenv("HOME", str(qwen.parent))
    monkeypatch.chdir(qwen.parent)
    names = (f"~/{qwen.name}", qwen.name, f"./{qwen.name}/", qwen, str(qwen))
    assert len({models.load(name).fingerprint for name in names}) == 1
    assert isinstance(models.load(qwen).name, str)
    with pytest.raises(ValueError, match="'~nobody-of-this-name/x' is no path here"):
        models.load("~nobody-of-this-name/x")


def test_a_name_of_the_registry_is_its_entry_and_a_folder_of_that_name_is_had_by_its_path(qwen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(qwen, tmp_path / "smollm2-135m")
    monkeypatch.setattr(models.weights, "fetch", lambda name, *_: pytest.fail(f"entry {name}"))
    with pytest.raises(pytest.fail.Exception, match="entry smollm2-135m"):
        models.load("smollm2-135m")
    assert models.load("./smollm2-135m").name == "./smollm2-135m"


# Adapters


def tied(family="qwen2"):
    """A tiny model whose output matrix is its embedding."""
    config = tiny.model(family, layers=2).config
    config.tie_word_embeddings = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return type(tiny.model(family))(config).eval()


def adapter(folder: Path, base, *, seed: int = 1, **options):
    """A random LoRA adapter, saved; gives back the model with the adapter unmerged."""
    given = {"r": 4, "target_modules": ["q_proj", "o_proj"], "init_lora_weights": False, **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = peft.get_peft_model(base, peft.LoraConfig(**given)).eval()
        for name, parameter in made.named_parameters():  # what LoRA does not begin at random
            if parameter.requires_grad and ("lora_" not in name or "magnitude" in name):
                parameter.data += 0.1 * torch.randn_like(parameter)
    made.save_pretrained(str(folder))
    return made


def save(base, folder: Path) -> Path:
    base.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


KINDS = {
    "plain": {},
    "alpha": {"lora_alpha": 64},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "all biases": {"bias": "all"},
    "its biases": {"bias": "lora_only"},
    "some layers": {"layers_to_transform": [1]},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 32}},
    "a whole norm": {"modules_to_save": ["norm"]},
    "the output whole": {"modules_to_save": ["lm_head"]},
    "output": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "bias of its own": {"lora_bias": True},
    "words": {"trainable_token_indices": [5, 6]},
    "turned about": {"fan_in_fan_out": True},
}


REFUSED = ("bias of its own",)  # PEFT says that it cannot be merged into layers without a bias
REFUSED_IF_TIED = ("the output whole", "output", "embedding")  # PEFT warns


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_any_kind_merges_to_what_it_computes_or_is_refused(tmp_path, kind, ties):
    make = tied if ties else lambda: tiny.model(layers=2)
    base = save(make(), tmp_path / "base")
    before = models.load(str(base))
    try:
        unmerged = adapter(tmp_path / "adapter", make(), **KINDS[kind])
    except ValueError:
        pytest.skip("PEFT makes none of this kind")
    right = logits(peft.PeftModel.from_pretrained(make(), str(tmp_path / "adapter")).eval())
    try:
        merged = models.load(str(base), adapter=str(tmp_path / "adapter"))
    except ModelCheckError as error:
        if kind not in REFUSED and not (ties and kind in REFUSED_IF_TIED):
            raise
        refused = error
    if kind in REFUSED or (ties and kind in REFUSED_IF_TIED):
        assert refused.check == "adapter"
        return
    torch.testing.assert_close(logits(merged.model), right, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(logits(unmerged), right, atol=2e-4, rtol=1e-4)
    assert merged.fingerprint != before.fingerprint


def test_an_adapter_that_trains_the_output_of_a_tied_model_is_refused_by_name(tmp_path):
    save(tied(), tmp_path / "base")
    with pytest.warns(UserWarning, match="tie"):
        adapter(tmp_path / "adapter", tied(), target_modules=["q_proj", "lm_head"])
    with pytest.raises(ModelCheckError, match=r"base\+adapter fails the check 'adapter'.*(tie|merged and unmerged)"):
        models.load(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))


def test_a_merge_that_changes_what_is_computed_is_refused(qwen, tmp_path, monkeypatch):
    adapter(tmp_path / "adapter", tiny.model(layers=2))
    whole = LoraModel.merge_and_unload

    def badly(self, **options):
        merged = whole(self, **options)
        merged.model.layers[0].self_attn.q_proj.weight *= 1.01
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", badly)
    with pytest.raises(ModelCheckError, match="merged and unmerged model differ by"):
        models.load(str(qwen), adapter=str(tmp_path / "adapter"))


def test_an_adapter_with_parts_for_no_module_is_refused_by_their_names(qwen, tmp_path):
    adapter(tmp_path / "deep", tiny.model(layers=3))  # the first two layers of a deeper model would fit
    with pytest.raises(ModelCheckError, match=r"4 parts that no module .* takes: .*layers\.2\.self_attn"):
        models.load(str(qwen), adapter=str(tmp_path / "deep"))


def named(folder: Path, base: str) -> str:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    return str(folder)


def test_an_adapter_that_names_another_base_is_refused_by_both_names(qwen, tmp_path):
    other = shutil.copytree(qwen, tmp_path / "other")
    adapter(tmp_path / "adapter", tiny.model(layers=2))
    for base in (str(other), "qwen2.5-coder-0.5b"):
        with pytest.raises(ValueError, match=f"adapter is an adapter on {base}, not on .*base_model_name_or_path"):
            models.load(str(qwen), adapter=named(tmp_path / "adapter", base))
    with pytest.raises(ValueError, match=r"is an adapter on qwen2\.5-coder-0\.5b, not on smollm2-135m"):
        models.load("smollm2-135m", adapter=named(tmp_path / "adapter", "qwen2.5-coder-0.5b"))


def test_an_adapter_on_the_same_base_under_another_name_is_accepted_and_an_unknown_base_is_told(
    qwen, tmp_path, monkeypatch
):
    adapter(tmp_path / "adapter", tiny.model(layers=2))
    monkeypatch.chdir(qwen.parent)
    for base in (str(qwen), qwen.name, f"./{qwen.name}/", ""):
        models.load(str(qwen), adapter=named(tmp_path / "adapter", base), check=False)
    for base in ("/gone/elsewhere/model", "owner/model"):
        with pytest.warns(UserWarning, match=f"is an adapter on {base}; nothing here tells whether"):
            models.load(str(qwen), adapter=named(tmp_path / "adapter", base), check=False)


def test_an_adapter_beside_a_config_of_its_own_is_held_to_the_base_that_it_names_too(qwen, tmp_path):
    adapter(tmp_path / "adapter", tiny.model(layers=2))
    shutil.copy(qwen / "config.json", tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is an adapter on qwen2\.5-coder-0\.5b, not on"):
        models.load(str(qwen), adapter=named(tmp_path / "adapter", "qwen2.5-coder-0.5b"))


def test_a_damaged_adapter_is_refused_in_one_line(qwen, tmp_path):
    adapter(tmp_path / "adapter", tiny.model(layers=2))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, next(iter(tensors)): torch.full_like(next(iter(tensors.values())), torch.nan)}, file)
    with pytest.raises(ModelCheckError, match="'adapter'"):
        models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelCheckError, match="'adapter'") as caught:
        models.load(str(qwen), adapter=str(tmp_path / "adapter"))
    assert "\n" not in str(caught.value)
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(FetchError, match="cannot be read"):
        models.load(str(qwen), adapter=str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("llama-7b", "huggyllama/llama-7b@main", True),
        ("llama-7b", "decapoda-research/llama-7b-hf", False),
        ("qwen2.5-0.5b", "qwen2.5-1.5b", False),
        ("owner/model@main", "owner/model@abc", True),
        ("owner/model", "owner/other", False),
        ("owner/model", "/not/here", None),
    ],
)
def test_two_names_are_of_one_model_of_two_or_nobody_can_tell(one, other, same):
    assert adapters.same_model(one, other) is same
    assert adapters.same_model(other, one) is same


def test_the_shipped_adapters_name_the_base_that_the_registry_gives_them():
    for name, entry in models.registry().items():
        if entry.source.path and entry.base:
            assert adapters.same_model(entry.base, adapters.adapted(places.ROOT / entry.source.path)), name


# GGUF files


def written(file: Path, monkeypatch, change) -> Path:
    """A tiny GGUF file to which `change` adds keys and tensors."""
    write = gguf.GGUFWriter.write_header_to_file

    def more(self, *args, **options):
        change(self)
        return write(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(gguf.GGUFWriter, "write_header_to_file", more)
        tiny.save_gguf(file)
    return file


LOST = {
    "yarn": (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), r"qwen2\.rope\.scaling\.type = 'yarn'"),
    "linear": (lambda w: w.add_rope_scaling_factor(4.0), r"qwen2\.rope\.scaling\.factor = 4"),
    "frequencies": (
        lambda w: w.add_tensor("rope_freqs.weight", np.ones(4, np.float32)),
        r"holds rope_freqs\.weight, which no part of the model takes",
    ),
    "a bias": (
        lambda w: w.add_tensor("blk.0.attn_output.bias", np.ones(64, np.float32)),
        r"holds blk\.0\.attn_output\.bias",
    ),
    "soft cap": (lambda w: w.add_attn_logit_softcapping(50.0), r"attn_logit_softcapping = 50"),
    "last cap": (lambda w: w.add_final_logit_softcapping(30.0), r"final_logit_softcapping = 30"),
    "scale": (lambda w: w.add_attention_scale(0.5), r"attention\.scale = 0\.5"),
    "logit scale": (lambda w: w.add_logit_scale(0.5), r"logit_scale = 0\.5"),
    "residual scale": (lambda w: w.add_residual_scale(0.5), r"residual_scale = 0\.5"),
    "embedding scale": (lambda w: w.add_embedding_scale(12.0), r"embedding_scale = 12"),
    "experts": (lambda w: w.add_expert_count(8), r"expert_count = 8"),
    "window": (lambda w: w.add_sliding_window(64), r"attention\.sliding_window is 64, and the config says .* None"),
    "head size": (lambda w: w.add_key_length(16), r"attention\.key_length is 16, and the config says head_dim 8"),
    "part of a head": (lambda w: w.add_rope_dimension_count(4), r"rope\.dimension_count is 4"),
    "split": (lambda w: w.kv_data[0].update(_pre("own")), r"tokenizer\.ggml\.pre = 'own'"),
    "a start": (lambda w: w.add_add_bos_token(True), r"add_bos_token is True, and the tokenizer does otherwise"),
    "unknown": (lambda w: w.add_float32("qwen2.strange.thing", 2.0), r"qwen2\.strange\.thing = 2"),
}


def _pre(name):
    return {"tokenizer.ggml.pre": gguf.gguf_writer.GGUFValue(value=name, type=gguf.GGUFValueType.STRING)}


@pytest.mark.parametrize("what", LOST)
def test_what_a_gguf_file_says_and_unpacking_would_lose_is_refused_by_its_name(tmp_path, monkeypatch, what):
    change, message = LOST[what]
    with pytest.raises(FetchError, match=rf"m\.gguf .*{message}.*safetensors"):
        models.load(str(written(tmp_path / "m.gguf", monkeypatch, change)))
    assert not [one for one in (tmp_path / "cache" / "models").glob("*") if one.suffix != ".lock"]


def test_keys_that_say_nothing_or_what_the_config_says_are_no_reason_to_refuse(tmp_path, monkeypatch):
    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_expert_count(0)
        writer.add_key_length(8)
        writer.add_rope_dimension_count(8)
        writer.add_vocab_size(len(tiny.words()))
        writer.add_add_bos_token(False)
        writer.add_name("of no meaning")
        writer.add_string("quantize.imatrix.file", "elsewhere")

    subject = models.load(str(written(tmp_path / "m.gguf", monkeypatch, change)))
    assert max(subject.tokenizer.get_vocab().values()) == len(tiny.words()) - 1


@pytest.mark.parametrize("family", conversion.ARCHITECTURES)
def test_every_architecture_that_is_unpacked_computes_what_was_written(tmp_path, family):
    config = tiny.model(family, layers=2).config
    config.head_dim = 128 if family == "qwen3" else 8  # transformers reads no other head size for Qwen3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = type(tiny.model(family))(config).eval()
    tiny.write_gguf(tmp_path / "m.gguf", made)
    assert torch.equal(logits(models.load(str(tmp_path / "m.gguf")).model), logits(made))


def test_an_architecture_whose_conversion_is_not_tested_here_is_refused_by_name():
    with pytest.raises(FetchError, match=r"m\.gguf holds a model of the architecture gemma2.*safetensors"):
        conversion.require_known({"general.architecture": "gemma2"}, "m.gguf")
    with pytest.raises(FetchError, match="holds a adapter of the architecture llama"):
        conversion.require_known({"general.architecture": "llama", "general.type": "adapter"}, "m.gguf")


def test_the_two_gguf_models_that_were_run_here_say_nothing_that_would_be_lost():
    """What their files say, as read from them."""
    qwen = {
        **{"general.architecture": "qwen2", "general.type": "model", "qwen2.block_count": 24},
        **{"qwen2.context_length": 32768, "qwen2.embedding_length": 896, "qwen2.feed_forward_length": 4864},
        **{"qwen2.attention.head_count": 14, "qwen2.attention.head_count_kv": 2, "qwen2.rope.freq_base": 1e6},
        **{"qwen2.attention.layer_norm_rms_epsilon": 1e-6, "tokenizer.ggml.model": "gpt2"},
        **{"tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.eos_token_id": 151645, "tokenizer.chat_template": "{% if"},
        **{"tokenizer.ggml.add_bos_token": False, "general.quantization_version": 2},
    }
    smol = {
        **{"general.architecture": "llama", "llama.rope.dimension_count": 64, "llama.vocab_size": 49152},
        **{"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"},
        **{"tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.merges": 48900},
    }
    conversion.require_known(qwen, "qwen")
    conversion.require_known(smol, "smol")


# Pairs


@pytest.mark.parametrize(("what", "field"), [
    ("rotary base", r"rope_parameters\.rope_theta \(10000\.0 and 100\.0\)"),
    ("rotary scaling", r"rope_parameters\.factor \(None and 4\.0\)"),
    ("activation", r"hidden_act \(silu and gelu\)"),
    ("window", r"layer_types\[0\] \(full_attention and sliding_attention\)"),
])  # fmt: skip
def test_two_models_whose_heads_mean_other_things_are_refused_with_both_values(tmp_path, what, field):
    one, two = rebuilt(), rebuilt(**CHANGES[what])
    with pytest.raises(ValueError, match=rf"no twins: they differ in .*{field}"):
        cmap.require_twins(one, two)
    folders = [str(save(subject.model, tmp_path / name)) for name, subject in (("one", one), ("two", two))]
    with pytest.raises(ValueError, match=rf"cannot be compared head by head: they differ in .*{field}"):
        pair.ready(*folders)


def test_two_models_that_differ_in_an_epsilon_or_the_attention_alone_are_compared_with_a_warning(tmp_path):
    one, two, three = rebuilt(), rebuilt(rms_norm_eps=1e-5), rebuilt()
    with pytest.warns(UserWarning, match=r"differ in rms_norm_eps \(1e-06 and 1e-05\): all numbers shift"):
        cmap.require_twins(one, two)
    folders = [str(save(subject.model, tmp_path / name)) for name, subject in (("one", one), ("two", two))]
    with pytest.warns(UserWarning, match=r"rms_norm_eps \(1e-06 and 1e-05\)"):
        pair.ready(*folders)
    three.model.set_attn_implementation("eager")
    with pytest.warns(UserWarning, match=r"attention \(sdpa and eager\)"):
        cmap.require_twins(one, three)


@pytest.mark.filterwarnings("error")
def test_a_longer_vocabulary_context_or_another_end_make_no_other_heads(tmp_path):
    one, two = tiny.model(layers=2), tiny.model(layers=2)
    two.resize_token_embeddings(len(tiny.words()) + 1)
    two.config.update(
        {
            "head_dim": 8,
            "attention_bias": False,
            "some_version": "2",
            "rms_norm_eps": 9.999999974752427e-07,
            "max_position_embeddings": 4096,
            "eos_token_id": 0,
            "max_window_layers": 3,
        }
    )
    assert alike.apart(one.config, two.config) == ([], [])
    assert pair.ready(str(save(one, tmp_path / "one")), str(save(two, tmp_path / "two")))


def test_two_tokenizers_that_read_a_text_otherwise_are_no_pair(tmp_path):
    one, two = (save(tiny.model(layers=2), tmp_path / name) for name in ("one", "two"))
    told = json.loads((two / "tokenizer.json").read_text())
    told["normalizer"] = {"type": "Lowercase"}
    (two / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"head by head: they differ in tokenizer \(the text 'There is"):
        pair.ready(str(one), str(two))


def test_every_bookkeeping_field_leaves_the_logits_alone():
    plain = logits(tiny.model())
    changed = {"use_cache": False, "initializer_range": 0.9, "id2label": {0: "a"}, "problem_type": None}
    assert set(changed) <= identity.BOOKKEEPING
    assert torch.equal(logits(rebuilt(**changed).model), plain)


def test_names_are_text_or_paths():
    for name in (3, None, b"name"):
        with pytest.raises(TypeError):
            naming.text(name)
