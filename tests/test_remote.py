"""Models that run elsewhere: packed and unpacked as if, and served on the loopback where NDIF's package is at hand."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import families
import nnsight
import pytest
import tiny
import torch
from entity_circuits import boxes, knockout, models, path_patching, prompts, runs
from entity_circuits.heads import Head
from entity_circuits.runs import attention_inputs, remote, remote_paths
from entity_circuits.runs.edits import Edit, Read
from nnsight.modeling import huggingface
from transformers import AutoModelForCausalLM

PAGE = Path(__file__).parents[1] / "book" / "parts" / "remote.md"
KINDS: dict[str, dict[str, Any]] = {
    "answer": {"position": "last"},
    "queries": {"position": "last", "receivers": [Head(2, 1), Head(3, 0)], "composition": "q"},
    "values of one group and of two": {
        "position": "query",
        "receivers": [Head(2, 3), Head(2, 1), Head(1, 5), Head(3, 5)],
        "composition": "v",
    },
    "keys": {"position": "query", "receivers": [Head(2, 3), Head(3, 1)], "composition": "k"},
    "values seen by one": {
        "position": "prev",
        "receivers": [Head(2, 2), Head(3, 4)],
        "composition": "v",
        "reach": "query",
    },
}


def subject(family: Any = "qwen2") -> Any:
    """In float64, in which the definition here has no faster kernels of its own."""
    return tiny.subject(family, dtype=torch.float64)


def here(family: Any = "qwen2") -> tuple[Any, remote.Served]:
    mine = subject(family)
    return mine, remote.served(mine.model, "local")


def pair(mine: Any) -> tuple[Any, Any]:
    base = boxes.prompts(mine, 6, boxes=3)
    return base, boxes.noise(mine, base)


def edits(mine: Any, base: Any, source: Any) -> list[list[Edit]]:
    given = runs.record(mine, source).at("z", 1, source.last)
    return [
        [Edit("z", 1, (2, 3), base.last, given[:, [2, 3]], keep=torch.tensor([0.7, 0.2]))],
        [Edit("q", 2, (0,), base.last, given[:, [2]]), Edit("z", 3, (1,), base.query, given[:, [1]])],
        [],
    ]


def expected(mine: Any, base: Any, variants: list[list[Edit]], read: list[Read]) -> runs.Outcome:
    return runs.Outcome.joined([runs.run(mine, base, some, read=read) for some in variants], dim=0)


def same(one: runs.Outcome, other: runs.Outcome) -> bool:
    names = all(torch.equal(getattr(one, name), getattr(other, name)) for name in runs.Outcome.NUMBERS)
    return names and all(torch.equal(*both) for both in zip(one.reads, other.reads, strict=True))


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_run_elsewhere_is_the_definition_bit_for_bit(family):
    mine, there = here(family)
    base, source = pair(mine)
    asked, read = edits(mine, base, source), [Read("v", 3, base.last), Read("z", 0, base.query)]
    assert same(remote.run(there, base, asked, read=read), expected(mine, base, asked, read))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_path_patching_elsewhere_is_the_definition_bit_for_bit(family, kind):
    mine, there = here(family)
    base, source = pair(mine)
    asked = {"receivers": None, "composition": None, "reach": "all", **KINDS[kind]}
    both = (runs.record(mine, base), runs.record(mine, source))
    literal = path_patching.patched(*both, 0, (0, 3), **asked, method="definition")
    assert torch.equal(remote_paths.senders(there, base, source, 0, [0, 3], **KINDS[kind]), literal)
    assert not torch.equal(literal[0], literal[1])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"position": "query"}, "position must be 'last'"),
        (
            {"position": "query", "receivers": [Head(3, 0)], "composition": "q", "reach": "last"},
            "composition='k' or 'v'",
        ),
        ({"position": "query", "receivers": [Head(3, 0)], "composition": "v", "reach": "prev"}, "comes before it"),
        ({"position": "last", "answers": False}, "no right answer"),
    ],
)
def test_a_path_that_does_not_exist_is_refused_elsewhere_as_here(asked, says, monkeypatch):
    mine, there = here()
    base, source = pair(mine)
    if not asked.pop("answers", True):
        base = replace(base, answer_ids=torch.full_like(base.answer_ids, -1))
    monkeypatch.setattr(type(there.model), "session", None)
    with pytest.raises(ValueError, match=says):
        remote_paths.senders(there, base, source, 0, [0], **asked)


def test_the_gradients_of_a_mask_are_those_taken_here():
    mine, there = here()
    base, source = pair(mine)
    asked = edits(mine, base, source)[0]
    keep = asked[0].keep.clone().requires_grad_(True)
    own = runs.run(mine, base, [runs.Edit("z", 1, (2, 3), base.last, asked[0].value, keep=keep)])
    outcome, found = remote.slopes(there, base, asked)
    assert torch.equal(outcome.logprobs, own.logprobs.detach())
    assert torch.equal(found[0].float(), torch.autograd.grad(own.logits.sum(), keep)[0])


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_knockout_elsewhere_is_the_definition_bit_for_bit(family):
    mine, there = here(family)
    base = boxes.prompts(mine, 6, boxes=3)
    cuts = [knockout.cut(there, base.last, base.position("object"), start) for start in (0, 2, there.layers)]
    one = [Edit("score", 1, (0, 3), base.last, key=base.query), edits(mine, base, base)[1][0]]
    found = remote.run(there, base, [*cuts, one], read=[Read("z", 2, base.last)])
    assert same(found, expected(mine, base, [*cuts, one], [Read("z", 2, base.last)]))
    assert len(set(found.logprob[:, 0].tolist())) == 4


def test_prompts_of_several_lengths_are_padded_elsewhere_as_here():
    mine, there = here()
    texts = ["The dog is in Box F. Box F contains the", "The dog is in Box F, the cup is in Box F. Box F contains the"]
    base = prompts.from_texts(mine, texts, [" dog", " dog"])
    assert base.last[0] != base.last[1]
    variants = [[], knockout.cut(there, base.last, base.last - 1, 1)]
    assert same(remote.run(there, base, variants), expected(mine, base, variants, []))


def test_what_cannot_run_elsewhere_is_refused_before_anything_is_sent():
    mine, there = here()
    base, source = pair(mine)
    one = torch.zeros(6, 1, mine.head_size, dtype=torch.float64)
    for wrong, error, said in (
        (Edit("v", 1, (0,), base.last, one), NotImplementedError, "share their v"),
        (Edit("v", 1, (0,), base.query, one, seen_by=base.last), NotImplementedError, "seen by one position"),
        (Edit("z", 9, (0,), base.last, one), ValueError, "layers 0 to 3"),
        (Edit("score", 1, (2,), 0 * base.last, key=0 * base.last), ValueError, "head 2 of layer 1 nothing to attend"),
    ):
        with pytest.raises(error, match=said):
            remote.run(there, base, [[wrong]])
    with pytest.raises(ValueError, match="a slope is of a `keep`"):
        remote.slopes(there, base, [Edit("z", 1, (0,), base.last, one)])
    for asked, said in (
        ({"receivers": [Head(2, 1)]}, "given together"),
        ({"receivers": [Head(0, 1)], "composition": "q"}, "no receiver is above layer 0"),
        ({"receivers": [Head(2, 99)], "composition": "q"}, "99"),
    ):
        with pytest.raises(ValueError, match=said):
            remote_paths.senders(there, base, source, 0, [0], position="last", **asked)


def test_a_model_tried_here_is_held_to_what_a_run_of_it_is_held_to():
    mine, there = here()
    base, source = pair(mine)
    tried = (
        lambda: remote.run(there, base, [[]]),
        lambda: remote_paths.senders(there, base, source, 0, [0], position="last"),
    )
    for change, said in (
        (lambda: mine.model.train(), "training mode"),
        (lambda: setattr(mine.model.eval().config, "max_position_embeddings", 16), "was made for 16 at most"),
    ):
        change()
        for one in tried:
            with pytest.raises(ValueError, match=said):
                one()
    mine.model.config.max_position_embeddings = 512
    with pytest.raises(ValueError, match="targets are tokens from 0"):
        remote.run(there, base, [[]], targets=torch.tensor([[9999]] * len(base)))


def test_a_prompt_after_which_a_model_elsewhere_gives_no_numbers_is_named():
    mine, there = here()
    base, source = pair(mine)
    with torch.no_grad():
        mine.model.model.embed_tokens.weight[base.input_ids[1, 1]] = torch.nan
    for one in (
        lambda: remote.run(there, base, [[]]),
        lambda: remote_paths.senders(there, base, source, 0, [0], position="last"),
    ):
        with pytest.raises(ValueError, match="NaN or infinite after the prompt"):
            one()


@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Qwen2Moe", "Gemma3", "Cohere2", "Llama"])
def test_all_that_a_layer_hears_by_its_window_is_never_cut_neither_here_nor_elsewhere(family):
    mine = families.subject(family)
    there, base = remote.served(mine.model, "local"), boxes.prompts(mine, 3, boxes=3)
    width = base.input_ids.shape[1]
    for layer, given in enumerate(attention_inputs.of(mine, width)):
        back = range(int(attention_inputs.heard(given, width, base.last).sum(1).min()))
        every = [Edit("score", layer, (2,), base.last, key=base.last - far) for far in back]
        for run in (partial(runs.run, mine, base), lambda edits: remote.run(there, base, [edits])):
            with pytest.raises(ValueError, match="nothing to attend to"):
                run(every)
            assert run(every[1:]).logprob.isfinite().all()


# On the loopback


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Any]]:
    """A folder with a model, the address at which it is served, and what the server says of each request."""
    python = os.environ.get("NDIF_PYTHON")
    if not python:
        pytest.skip("NDIF_PYTHON names no interpreter that has the package ndif")
    folder = tmp_path_factory.mktemp("served")
    mine = subject()
    mine.model.save_pretrained(folder)
    mine.tokenizer.save_pretrained(folder)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = Path(__file__).with_name("ndif_server.py")
    process = subprocess.Popen([python, str(script), str(folder)], stdout=subprocess.PIPE, text=True, env=plain)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["knows_entity_circuits"] is False
        yield folder, f"http://127.0.0.1:{told['port']}", process.stdout
    finally:
        process.kill()
        process.wait()


@pytest.mark.ndif
def test_a_server_without_this_package_gives_the_numbers_of_the_definition(server, record_property, monkeypatch):
    folder, address, told = server
    monkeypatch.setitem(huggingface._ID_CACHE, str(folder), "tiny/served")  # the hub would be asked for its name
    view = nnsight.TransformersModel(str(folder), task="text-generation", tokenizer=tiny.tokenizer())
    there = remote.served(view, address)
    mine = plainly_loaded(folder)
    base, source = pair(there)  # made with its tokenizer alone
    asked = edits(mine, base, source)
    assert same(remote.run(there, base, asked), expected(mine, base, asked, []))
    shown = iter(PAGE.read_text(encoding="utf-8").splitlines()[2:])

    def counted() -> None:
        """The bytes on the page are these, but for the names of folders here."""
        came, went = json.loads(told.readline()).values()
        _, name, *numbers, _ = (cell.strip() for cell in next(shown).split("|"))
        record_property(name, f"{came} {went}")
        assert [int(number.replace(",", "")) for number in numbers] == pytest.approx([came, went], rel=0.1), name

    counted()
    both = (runs.record(mine, base), runs.record(mine, source))
    for name, kind in KINDS.items():
        literal = path_patching.patched(
            *both, 0, (0, 3), **{"receivers": None, "composition": None, "reach": "all", **kind}, method="definition"
        )
        assert torch.equal(remote_paths.senders(there, base, source, 0, [0, 3], **kind), literal), name
        counted()
    outcome, found = remote.slopes(there, base, asked[0])
    counted()
    cuts = [knockout.cut(there, base.last, base.position("object"), start) for start in (0, there.layers)]
    assert same(remote.run(there, base, cuts), expected(mine, base, cuts, []))
    counted()
    own, slopes = remote.slopes(remote.served(mine.model, "local"), base, asked[0])
    assert same(outcome, own)
    assert torch.equal(found[0], slopes[0])
    assert all(weight.is_meta for weight in view._module.parameters())  # and no weights were ever here


def plainly_loaded(folder: Path) -> Any:
    """The model as a server has it: the norms of its family, in the dtype of its file."""
    return models.wrap(AutoModelForCausalLM.from_pretrained(folder, dtype="auto"), tiny.tokenizer())
