"""Models on other devices than the CPU, and on several: pretended ones that refuse to be mixed (`pretend`)."""

import re
from collections.abc import Iterator
from pathlib import Path

import pretend
import pytest
import tiny
import torch
from entity_book.build import notebooks
from entity_circuits import boxes, models, runs
from entity_circuits.models import devices, precision
from every_method import METHODS, WITHOUT_EXECUTOR, Given
from torch import Tensor

ONE, TWO = torch.device("cuda", 0), torch.device("cuda", 1)
PARTS = {"model.embed_tokens": ONE, "model.rotary_emb": ONE, "model.norm": TWO, "lm_head": TWO}
PLACES: dict[str, dict[str, torch.device]] = {
    "one device": {"": ONE},
    "one of Apple's": {"": torch.device("mps", 0)},
    "two devices": {**PARTS, **{f"model.layers.{layer}": TWO if layer >= 2 else ONE for layer in range(4)}},
    "two devices in turn": {
        **PARTS,
        "lm_head": ONE,  # as where it is the embedding
        **{f"model.layers.{layer}": TWO if layer % 2 else ONE for layer in range(4)},
    },
}


def subject(place: str = "", seed: int = 0) -> models.Subject:
    made = tiny.subject("qwen2", seed=seed)
    if not place:
        return made
    if "" in PLACES[place]:
        model = pretend.move(made.model, PLACES[place][""])
    else:
        model = devices.spread(made.model, {name: str(device) for name, device in PLACES[place].items()})
    return models.wrap(model, made.tokenizer, name=made.name, fingerprint=f"tiny-{seed}")


@pytest.fixture(scope="module", autouse=True)
def _card() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
        yield


@pytest.fixture(scope="module")
def on_cpu() -> Given:
    return Given(subject(), subject(seed=1))


@pytest.fixture(scope="module", params=PLACES)
def placed(request: pytest.FixtureRequest) -> Given:
    with pretend.Pretending():
        return Given(*(subject(request.param, seed) for seed in (0, 1)))


def largest(one: Tensor, other: Tensor) -> float:
    assert torch.equal(one.isnan(), other.isnan())
    return float((one - other).abs().nan_to_num().max())


@pytest.mark.parametrize("method", ["replay", "definition"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_numbers_of_the_cpu_wherever_the_layers_are(
    name, method, on_cpu, placed, record_property
):
    expected = METHODS[name](on_cpu, method)
    with pretend.Pretending():
        found = METHODS[name](placed, method)
    assert found.device.type == "cpu"
    record_property("largest difference from the CPU", apart := largest(found, expected))
    assert apart < 2e-5


@pytest.mark.parametrize("name", WITHOUT_EXECUTOR)
def test_what_has_one_way_only_gives_the_numbers_of_the_cpu_too(name, on_cpu, placed, record_property):
    with pretend.Pretending():
        found = WITHOUT_EXECUTOR[name](placed)
    record_property("largest difference from the CPU", apart := largest(found, WITHOUT_EXECUTOR[name](on_cpu)))
    assert apart < 2e-5


def test_the_page_shows_every_method_with_its_largest_difference():
    page = (Path(__file__).parents[1] / "book" / "parts" / "devices.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    assert rows[0][2:] == list(PLACES)
    both = [[name, way] for name in METHODS for way in ("replay", "definition")]
    assert [row[:2] for row in rows[2:]] == [*both, *([name, ""] for name in WITHOUT_EXECUTOR)]
    assert all(float(cell) < 1e-5 for row in rows[2:] for cell in row[2:])


def test_what_is_recorded_of_a_layer_is_where_the_layer_is():
    with pretend.Pretending():
        there = subject("two devices")
        recording = runs.record(there, boxes.prompts(there, 3, boxes=3))
    assert [table.device for table in recording.z] == [ONE, ONE, TWO, TWO] == list(there.devices)
    assert [table.device for table in recording.residual] == [ONE, ONE, TWO, TWO, TWO]
    assert recording.index.device.type == "cpu"


def test_pretended_devices_refuse_to_be_mixed():
    with pretend.Pretending():
        here, there = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
        for wrong in (
            lambda: here + there,
            lambda: here + torch.ones(3),
            lambda: here[torch.tensor([0], device="cuda:1")],
            lambda: torch.ones(3)[torch.tensor([0], device="cuda:0")],
            lambda: torch.stack([here, there]),
            here.numpy,
        ):
            with pytest.raises(pretend.Mismatch):
                wrong()
        assert (here[torch.tensor([0, 1])] + there.to("cuda:0")[:2] + torch.tensor(1.0)).device == ONE


def test_every_chapter_that_loads_a_model_is_told_where_and_in_which_numbers():
    wanted = {"device": "cpu", "dtype": "float32", "attention": "sdpa"}
    loading = re.compile(r"(?:models\.load|evaluation\.setting)\(([^()]*)\)")
    for path in sorted((Path(__file__).parents[1] / "chapters").glob("*.ipynb")):
        calls = [call for cell in notebooks.code(path.read_text()) for call in loading.findall(cell)]
        declared = notebooks.parameters(path)
        given = ("**how", "device=device, dtype=dtype, attention=attention")
        loads = [call for call in calls if not call.startswith("first.subject")]  # this one is loaded already
        assert all(any(words in call for words in given) for call in loads), path.name
        assert {name: declared.get(name) for name in wanted} == (wanted if calls else dict.fromkeys(wanted)), path.name


def test_auto_is_the_best_device_there_is(monkeypatch):
    assert devices.chosen("auto") == torch.device("cpu")  # of this machine of tests
    with pretend.Pretending():
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert devices.chosen("auto").type == "mps"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert devices.chosen("auto").type == "cuda"


def test_a_device_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="nothing can be computed on the device 'cuda' here"):
        models.load("qwen2.5-coder-0.5b", device="cuda")
    with pytest.raises(ValueError, match="has no float64"):
        devices.require_dtype(torch.device("mps"), torch.float64)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("evenly", "no device map called"),
        ({}, "a device map is names"),
        ({"": "disk"}, "cannot|can be on 'disk'"),
        ({"model": "cpu", "lm_head": "meta"}, "of one kind"),
        ({"model": "cpu"}, "says nothing of lm_head"),
        ({"": "cpu", "model.layers.1.mlp": "cpu"}, "splits the layer model.layers.1"),
    ],
)
def test_a_device_map_that_cannot_work_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        devices.plan(tiny.model(), wrong)


def test_a_model_loads_by_the_name_of_a_dtype_and_with_a_device_map(tmp_path):
    tiny.save(tmp_path)
    loaded = models.load(str(tmp_path), dtype="float64", device="auto")
    spread = models.load(str(tmp_path), dtype="float64", device_map={"model": "cpu", "lm_head": "cpu"})
    p = boxes.prompts(loaded, 3, boxes=3)
    assert loaded.dtype == spread.dtype == torch.float64
    assert torch.equal(runs.run(loaded, p).logprob, runs.run(spread, p).logprob)
    with pytest.raises(ValueError, match="dtype float8 cannot be used"):
        models.load(str(tmp_path), dtype="float8")


def test_the_tolerance_follows_how_products_are_rounded(monkeypatch):
    assert precision.tolerance(torch.float32) == 1e-4
    monkeypatch.setattr(devices, "rounding", lambda device: 3e-4)  # as with TF32
    assert precision.tolerance(torch.float32) == pytest.approx(3e-3)
    assert precision.tolerance(torch.float64) == 1e-4
    assert precision.tolerance(torch.bfloat16) == 0.02


def test_rounding_to_ten_bits_is_measured(monkeypatch):
    assert devices.rounding(torch.device("cpu")) < 1e-6
    product = torch.Tensor.__matmul__

    def rounded(a: Tensor, b: Tensor) -> Tensor:
        if a.dtype == torch.float32:  # what TF32 keeps: ten bits behind the point
            a, b = ((one.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32) for one in (a, b))
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert 1e-4 < devices.rounding(torch.device("cpu")) < 1e-3
