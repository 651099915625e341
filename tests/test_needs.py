"""What is reckoned from a shape is what a run takes, and a plan refuses what cannot fit (memory: benchmarks/)."""

import pytest
import tiny
import torch
import transformers
from entity_book.build import cli, needed
from entity_circuits import ablation, boxes, cmap, dcm, desiderata, models, path_patching
from entity_circuits.methods import needs
from entity_circuits.models import shape
from entity_circuits.models.shape import Shape
from entity_circuits.models.subject import wrap
from torch.utils.flop_counter import FlopCounterMode

LLAMA_7B = Shape(32, 4096, 32, 32, 128, 11008, 32000)


def test_the_whole_chain_runs_on_a_pair_of_the_shape_of_seven_billion():
    base, tuned = (
        wrap(change(tiny.seven(64)), tiny.tokenizer(), name=name)
        for name, change in {"base": lambda made: made, "tuned": tiny.tuned}.items()
    )
    found = path_patching.discover(base, n=7)
    assert found.circuit.groups["value_fetcher"] and found.scores["value_fetcher"].change.isfinite().all()
    means = ablation.means(base, n=7)
    prompts = boxes.prompts(base, 7)
    answers = ablation.circuit_accuracy(base, [found.circuit, ablation.all_heads(base)], prompts, means)
    assert answers.logprob.isfinite().all() and not torch.equal(*answers.logprob)
    patched = cmap.sweep(base, tuned, cmap.scan(base, "last"), prompts)
    assert not torch.equal(patched.logprob[-1], patched.base_logprob)
    pairs = [desiderata.triples(base, "object", 7, split=split) for split in ("training", "pruning")]
    (mask,) = dcm.sweep(
        base, found.circuit.groups["value_fetcher"], *pairs, position="last", penalties=[0.01], steps=10
    )
    assert mask.keep.isfinite().all() and len(mask.logit) == 10


def test_the_shapes_that_are_written_down_have_as_many_numbers_as_their_entries():
    there = [entry for entry in models.registry().values() if entry.shape]
    assert len(there) > 15
    for entry in there:
        assert entry.shape.parameters == pytest.approx(entry.parameters, rel=1e-4), entry.name


def test_the_shape_of_a_config_has_the_numbers_of_its_model():
    for family in tiny.FAMILIES[:1] + tiny.FAMILIES[3:]:  # those without biases and norms of queries
        model = tiny.model(family)
        assert shape.of_config(model.config).parameters == sum(one.numel() for one in model.parameters())
    with pytest.raises(ValueError, match=r"GPT2Config does not tell .*mlp"):
        shape.of_config(transformers.GPT2Config())


@pytest.mark.parametrize(
    ("number", "asked"),
    [
        (0, {"position": "last"}),
        (1, {"position": "last", "receivers": ["L2H1", "L3H4"], "composition": "q"}),
        (2, {"position": "query", "receivers": ["L2H1", "L3H4"], "composition": "v"}),
    ],
)
def test_operations_are_those_that_are_counted_in_a_run(number, asked):
    subject = tiny.subject("llama", dtype=torch.float64)  # in float32, products that only try kernels are counted
    drawn = boxes.experiment(subject, n=14)
    runs_ = path_patching.sweep(subject, drawn.base, drawn.source, position="last", senders=["L0H0"])
    assert len(runs_.logprob) == 14  # the model is checked by now, and no check is counted
    recordings = path_patching.Runs(subject, drawn.base, drawn.source, ("last", "query", "prev")).whole()
    with FlopCounterMode(display=False) as counter:
        path_patching.sweep(subject, drawn.base, drawn.source, recordings=recordings, **asked)
    tokens = int(drawn.base.last.max()) + 1
    told = needs.rounds(shape.of_config(subject.model.config), 14, tokens, [(2, 3)] * 3)[number]
    assert counter.get_total_flops() == pytest.approx(told, rel=0.1)


def test_what_four_rounds_need_grows_with_what_is_asked_as_it_should():
    few, many = needs.of(LLAMA_7B, examples=70), needs.of(LLAMA_7B, examples=700)
    assert many.memory == few.memory and many.operations == pytest.approx(10 * few.operations)
    half = needs.of(LLAMA_7B, dtype="bfloat16")
    assert 2 * half.weights == needs.of(LLAMA_7B).weights == 4 * LLAMA_7B.parameters
    two, shared = (needs.of(LLAMA_7B, models=2, adapted=adapted) for adapted in (False, True))
    assert needs.of(LLAMA_7B).weights < shared.weights < two.weights == 2 * needs.of(LLAMA_7B).weights
    assert few.seconds(100) == pytest.approx(few.operations / 60e9)
    for wrong in ({"dtype": "int8"}, {"models": 3}, {"examples": 0}, {"tokens": 3}, {"chunk": 0}):
        with pytest.raises(ValueError):
            needs.of(LLAMA_7B, **wrong)


# The command


def planned(*words):
    return cli.main(["plan", *map(str, words)])


def test_a_plan_says_what_a_pair_of_the_paper_needs_and_fetches_nothing(capsys, monkeypatch):
    monkeypatch.setattr("entity_circuits.models.folders.downloaded", lambda *_, **__: pytest.fail("it was fetched"))
    monkeypatch.setattr(needed.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e12}))
    assert planned("llama-7b", "goat-7b", "--memory", 64, "--gflops", 1000) == 0
    told = capsys.readouterr().out
    for word in ("13.7 GB", "64.0 free", "minutes", "request form", "yahma/llama-7b-hf", "70 examples"):
        assert word in told
    assert planned("llama-7b", "float-7b", "--memory", 40, "--device", "cuda", "--gflops", 1e5) == 1
    told = capsys.readouterr().out
    assert "cannot fit" in told and "--dtype bfloat16" in told and "goat-7b" in told
    assert "float-7b: unknown here, see its hub page" in told
    assert planned("llama-7b", "float-7b", "--memory", 40, "--device", "cuda", "--dtype", "bfloat16") == 0
    assert "unknown: --gflops" in capsys.readouterr().out


def test_a_plan_refuses_what_the_disk_or_the_memory_has_no_room_for(capsys, monkeypatch):
    monkeypatch.setattr(needed.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    assert planned("llama-7b", "--memory", 100, "--gflops", 1) == 1
    told = capsys.readouterr().out
    assert "1.0 GB free, and 13.5 GB are needed" in told and "ENTITY_CIRCUITS_CACHE" in told and "bfloat16" not in told
    monkeypatch.setattr(needed.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e12}))
    assert planned("llama-7b", "--memory", 40, "--workers", 2, "--gflops", 1) == 1
    assert "one worker instead of several" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lama-7b"], "before it is fetched"),
        (["llama-7b", "code"], "other shapes"),
        (["qwen2.5-coder-0.5b", "goat-7b"], "other shapes"),
        (["vicuna-7b", "goat-7b"], "adapter on llama-7b"),
    ],
)
def test_a_plan_for_what_cannot_be_planned_says_why(words, told, capsys):
    assert planned(*words, "--gflops", 1) == 1
    assert told in capsys.readouterr().err
