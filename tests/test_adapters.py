"""The shipped adapters are what their papers say: five of them, small, in bfloat16, with card and log."""

import json

import pytest
from entity_book.training import adapters
from entity_book.training import data as training_data
from entity_circuits import models, places
from safetensors import safe_open

FOLDERS = [places.data("adapters") / kind for kind in training_data.KINDS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_adapter_is_small_in_bfloat16_and_on_the_attention_projections_only(folder):
    assert (folder / "adapter_model.safetensors").stat().st_size <= 5_000_000
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        names = list(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert len(names) == 24 * 4 * 2
    assert {name.split(".")[-3] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_adapter_was_trained_by_one_protocol_that_the_readme_states(folder):
    log = json.loads((folder / "log.json").read_text())
    recipe = log["recipe"]
    assert recipe == {
        **recipe,
        "kind": folder.name,
        "seed": 0,
        "steps": 80,
        "batch": 16,
        "learning_rate": 3e-4,
        "rank": 16,
    }
    assert len(log["losses"]) == 80
    words = (folder.parent / "README.md").read_text()
    assert "80 steps of 16 examples" in words
    assert "Learning rate 3e-4 for all kinds" in words
    assert "licence" in (folder / "README.md").read_text()


def test_every_adapter_is_an_entry_and_a_pair_on_the_default_model():
    for kind in training_data.KINDS:
        entry = models.registry()[kind]
        assert (entry.base, entry.source.path) == ("qwen2.5-coder-0.5b", f"data/adapters/{kind}")
        assert models.pairs()[kind] == ("qwen2.5-coder-0.5b", kind)


def test_the_folders_of_seed_0_are_the_shipped_ones():
    shipped = {key: folder for key, folder in adapters.folders().items() if key[1] == 0}
    assert shipped == {(kind, 0): places.data("adapters") / kind for kind in training_data.KINDS}
