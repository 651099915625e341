"""Training adapters: seeded, resumable, put back afterwards; saved in a form that loads and says how it was made."""

import json

import pytest
import tiny
import torch
from entity_book.training import adapters, finetune
from entity_book.training import data as training_data
from entity_book.training.finetune import Recipe
from entity_circuits import models, results, sums
from safetensors import SafetensorError

SMALL = {"steps": 6, "batch": 4, "checkpoint": 2, "held_out": 8, "rank": 4}


@pytest.fixture(scope="module")
def subject():
    return tiny.subject("qwen2")


def same(one: finetune.Trained, other: finetune.Trained) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        torch.equal(value, other.weights[name]) for name, value in one.weights.items()
    )


def test_the_loss_falls_on_what_is_trained(subject):
    trained = finetune.train(subject, Recipe("code", **{**SMALL, "steps": 40, "learning_rate": 1e-2}))
    assert trained.losses[-10:].mean() < 0.8 * trained.losses[:10].mean()
    assert trained.held_out[-1, 1] < trained.held_out[0, 1]
    assert trained.held_out[:, 0].tolist() == list(range(0, 41, 2))


def test_the_loss_is_on_the_answer_only(subject):
    rows = [([5, 6, 7, 8, 9], 3)]
    losses, _, owner = finetune._losses(subject, rows)
    logits = subject.model(torch.tensor([[5, 6, 7, 8, 9]])).logits[0].log_softmax(-1)
    assert torch.allclose(losses, -torch.stack([logits[2, 8], logits[3, 9]]), atol=1e-5)
    assert owner.tolist() == [0, 0]


def test_padding_changes_no_loss(subject):
    short, long = ([5, 6, 7], 1), ([9, 8, 7, 6, 5, 4, 3], 4)
    together, _, owner = finetune._losses(subject, [short, long])
    alone, _, _ = finetune._losses(subject, [short])
    assert torch.allclose(together[owner == 0], alone, atol=1e-5)


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(subject):
    one, two = (finetune.train(subject, Recipe("arithmetic", **SMALL)) for _ in range(2))
    assert same(one, two)
    assert not same(one, finetune.train(subject, Recipe("arithmetic", seed=1, **SMALL)))


@pytest.mark.parametrize("full", [False, True])
def test_a_training_that_is_interrupted_and_started_again_ends_in_the_same_weights(
    subject, tmp_path, full, monkeypatch
):
    recipe = Recipe("arithmetic", full=full, **SMALL)
    monkeypatch.setenv("ENTITY_CIRCUITS_RESULTS", str(tmp_path / "own"))
    whole = finetune.train(subject, recipe)
    assert not (tmp_path / "own").exists(), "something was kept that nobody asked to keep"
    losses, calls = finetune._losses, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 6:  # inside the second segment
            raise KeyboardInterrupt
        return losses(*arguments)

    monkeypatch.setattr(finetune, "_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune.train(subject, recipe, results.Store(tmp_path))
    monkeypatch.setattr(finetune, "_losses", losses)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    resumed = finetune.train(subject, recipe, results.Store(tmp_path))
    assert same(resumed, whole)
    assert torch.equal(resumed.losses, whole.losses)


@pytest.mark.parametrize("full", [False, True])
def test_the_model_is_as_before_after_a_training(subject, full):
    before = {name: value.clone() for name, value in subject.model.named_parameters()}
    finetune.train(subject, Recipe("code", full=full, **SMALL))
    after = dict(subject.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(value.requires_grad for value in after.values())
    assert not subject.model.training


@pytest.fixture
def saved_base(tmp_path):
    folder = tmp_path / "base"
    tiny.model("qwen2").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_a_saved_adapter_loads_merged_and_computes_what_was_trained(saved_base, tmp_path):
    subject = models.load(str(saved_base), check=False)
    trained = finetune.train(subject, Recipe("code", **{**SMALL, "learning_rate": 3e-2}))
    folder = adapters.save(trained, subject, tmp_path / "adapter", "by hand")
    merged = models.load(str(saved_base), adapter=str(folder), check=False)
    held_out = training_data.examples("code", 8, 0, "held_out")
    assert finetune.evaluate(merged, held_out)[:, 0].mean() == pytest.approx(float(trained.held_out[-1, 1]), rel=0.01)
    assert float(trained.held_out[-1, 1]) < 0.9 * float(trained.held_out[0, 1])


def test_an_adapter_comes_with_a_card_and_a_log_and_no_path_of_this_machine(saved_base, tmp_path):
    subject = models.wrap(tiny.model("qwen2"), tiny.tokenizer(), name="some-base", fingerprint="0")
    trained = finetune.train(subject, Recipe("code", **SMALL))
    folder = adapters.save(trained, subject, tmp_path / "adapter", "entity-circuits finetune code")
    names = {"adapter_model.safetensors", "adapter_config.json", "README.md", "log.json", sums.NAME}
    assert {file.name for file in folder.iterdir()} == names
    log = json.loads((folder / "log.json").read_text())
    assert len(log["losses"]) == 6 and sums.whole(folder)
    for word in ("seed 0", "entity-circuits finetune code", "6 steps of 4", "Apache-2.0", "some-base"):
        assert word in (folder / "README.md").read_text()
    assert not [file for file in folder.glob("*.json") if str(tmp_path) in file.read_text()]


def test_nothing_is_overwritten_and_a_failed_save_leaves_nothing(saved_base, tmp_path, monkeypatch):
    subject = models.load(str(saved_base), check=False)
    trained = finetune.train(subject, Recipe("code", **SMALL))
    adapters.save(trained, subject, tmp_path / "adapter", "")
    with pytest.raises(FileExistsError, match="there already"):
        adapters.save(trained, subject, tmp_path / "adapter", "")
    monkeypatch.setattr(adapters, "_card", lambda log: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        adapters.save(trained, subject, tmp_path / "other", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_was_damaged_since_it_was_saved_is_refused_by_name(saved_base, tmp_path, name):
    subject = models.load(str(saved_base), check=False)
    folder = adapters.save(finetune.train(subject, Recipe("code", **SMALL)), subject, tmp_path / "adapter", "")
    content = bytearray((folder / name).read_bytes())
    content[-20] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(models.FetchError, match=rf"{name} is damaged or was changed"):
        models.load(str(saved_base), adapter=str(folder), check=False)
    (folder / sums.NAME).unlink()  # as one from elsewhere that has no list, and is cut off
    (folder / name).write_bytes(content[:60])
    with pytest.raises((models.FetchError, models.ModelCheckError)):
        models.load(str(saved_base), adapter=str(folder), check=False)
    with pytest.raises((models.FetchError, models.ModelCheckError)):
        models.load(str(folder), check=False)


def test_weights_that_are_not_finite_are_not_saved(saved_base, tmp_path):
    subject = models.load(str(saved_base), check=False)
    trained = finetune.train(subject, Recipe("code", **SMALL))
    next(iter(trained.weights.values()))[0] = torch.nan
    with pytest.raises(ValueError, match="not finite: try a lower learning rate"):
        adapters.save(trained, subject, tmp_path / "adapter", "")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_training_on_a_full_disk_ends_in_a_sentence(saved_base, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    subject = models.load(str(saved_base), check=False)
    trained = finetune.train(subject, Recipe("code", **SMALL))
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"adapter could not be written: .*No space left"):
        adapters.save(trained, subject, tmp_path / "adapter", "")


def test_all_weights_are_saved_as_a_model_that_loads(saved_base, tmp_path):
    subject = models.load(str(saved_base), check=False)
    trained = finetune.train(subject, Recipe("code", full=True, **{**SMALL, "learning_rate": 1e-3}))
    folder = adapters.save(trained, subject, tmp_path / "full", "")
    loaded = models.load(str(folder), check=False)
    held_out = training_data.examples("code", 8, 0, "held_out")
    assert finetune.evaluate(loaded, held_out)[:, 0].mean() == pytest.approx(float(trained.held_out[-1, 1]), rel=0.02)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(models.FetchError, match=r"model\.safetensors is damaged or was changed"):
        models.load(str(folder), check=False)


def test_a_recipe_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="called 'poetry': one of 'arithmetic'"):
        Recipe("poetry")
    with pytest.raises(ValueError, match="steps=0"):
        Recipe("code", steps=0)
