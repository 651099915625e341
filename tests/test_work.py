"""Work is the same wherever it is done, and what cannot be done elsewhere is refused before anything starts."""

import contextlib
import errno
import importlib
import multiprocessing
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch
from entity_book.build import cli
from entity_circuits import (
    ablation,
    boxes,
    circuits,
    cmap,
    dcm,
    desiderata,
    edges,
    knockout,
    models,
    path_patching,
    results,
    runs,
)
from entity_circuits.methods import metrics, recorded, swept, work, workers
from entity_circuits.models import loading
from entity_circuits.results import Store


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two models that any process can load."""
    folders = [tiny.save(tmp_path_factory.mktemp("model"), "llama", seed=seed) for seed in (0, 1)]
    return tuple(models.load(str(folder)) for folder in folders)


@pytest.fixture(scope="module")
def prompts(pair):
    base = boxes.prompts(pair[0], 9, 3)
    return base, boxes.noise(pair[0], base)


@pytest.fixture
def executor():
    """A worker in this process: all that it does, it does with what it was sent."""
    work._once.cache_clear()
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture(scope="module")
def process():
    """A worker in a process of its own, as a user has it."""
    with workers.pool(1) as executor:
        yield executor


LAST = {"position": "last", "senders": ["L0H1", "L2H3"]}


def discovered(pair, prompts, **how):
    found = path_patching.discover(pair[0], boxes.experiment(pair[0], n=9, boxes=3), k=2, **how)
    return [scores.change for scores in found.scores.values()]


def mapped(pair, prompts, **how):
    asked = {"position": "last", "composition": "q", "senders": ["L0H1", "L1H2"], "receivers": ["L2H0", "L3H1"]}
    found = edges.sweep(pair[0], *prompts, **asked, metric="choice", **how)
    return [found.scores.change, found.scores.logprob]


def cut(pair, prompts, **how):
    found = knockout.sweep(pair[0], prompts[0], batch=4, starts=[0, 2, 4], **how)
    return [found.correct, found.logprob]


def ablated(pair, prompts, **how):
    means = ablation.means(pair[0], n=4, boxes=3)
    kept = [{"last": ["L3H5", f"L1H{head}"]} for head in range(4)] + [{"query": ["L2H2"]}]
    return [ablation.circuit_accuracy(pair[0], kept, prompts[0], means, **how).logprob]


def removed(pair, prompts, **how):
    means = ablation.means(pair[0], n=4, boxes=3)
    return [ablation.full_without(pair[0], [{"last": ["L3H5"]}], prompts[0], means, batch=4, **how).logprob]


def patched(pair, prompts, **how):
    conditions = [cmap.Condition("A", {"last": ["L3H5"]}), cmap.Condition("A", {"query": ["L1H2"]}, sites=("q", "v"))]
    found = cmap.sweep(*pair, conditions, prompts[0], batch=4, **how)
    return [found.logprob, found.base_logprob, found.tuned_correct]


def masked(pair, prompts, **how):
    pairs = [desiderata.triples(pair[0], "object", 6, 3, split=split) for split in ("training", "pruning")]
    asked = [
        dcm.Asked(None, "last", "object"),
        dcm.Asked(None, "query", "position"),
        dcm.Asked(None, "last", "position"),
    ]
    made = dcm.together(pair[0], asked, *pairs, steps=10, masks=1, **how)
    assert [mask.desideratum for mask in made] == ["object", "position", "position"]
    return [tensor for mask in made for tensor in mask.tensors().values()]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.double().nan_to_num(-7), b.double().nan_to_num(-7)) for a, b in zip(one, other, strict=True)
    )


METHODS = [discovered, mapped, cut, ablated, removed, patched, masked]


@pytest.mark.parametrize("method", METHODS)
def test_workers_give_the_very_bits_of_one_process_and_keep_them(
    method, pair, prompts, executor, tmp_path, monkeypatch
):
    for module in (recorded, swept):
        monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setattr(ablation, "SHARD", 2)
    here = method(pair, prompts)
    there = method(pair, prompts, executor=executor, store=Store(tmp_path))
    assert same(here, there)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1, "the work was no piece by piece"
    monkeypatch.setattr(work, "_work", lambda sent: pytest.fail("it is kept"))
    assert same(here, method(pair, prompts, executor=executor, store=Store(tmp_path)))
    assert same(here, method(pair, prompts, store=Store(tmp_path))), "one process finds what workers kept"


@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_its_own_gives_the_very_bits_of_this_one(method, pair, prompts, process, monkeypatch):
    here = method(pair, prompts)
    monkeypatch.setattr(work, "unpacked", lambda _: pytest.fail("what was sent was worked on here"))
    assert same(here, method(pair, prompts, executor=process))


def test_a_worker_loads_a_model_once_and_records_a_chunk_once(pair, prompts, executor, monkeypatch):
    loading.specified.cache_clear()
    loaded, made, load, record = [], [], loading.load, runs.record
    monkeypatch.setattr(loading, "load", lambda *given, **asked: loaded.append(given) or load(*given, **asked))
    monkeypatch.setattr(recorded.runs, "record", lambda *given, **asked: made.append(given) or record(*given, **asked))
    monkeypatch.setattr(recorded, "CHUNK", 5)
    monkeypatch.setattr(swept, "CHUNK", 5)
    path_patching.sweep(pair[0], *prompts, position="last", executor=executor)
    assert len(loaded) == 1
    assert len(made) == 2 * 2, "base and source of two chunks, for four layers of senders each"


def test_neither_weights_nor_recordings_are_sent_and_equal_things_are_sent_alike(pair, prompts):
    def part():
        return recorded.Runs(pair[0], *(one.select(range(9)) for one in prompts), ("last",)).part(torch.arange(9))

    runs_ = part().runs
    runs_.whole()
    sent = work.packed(runs_.part(torch.arange(9)))
    assert sent == work.packed(part())
    for tensor in (*pair[0].model.state_dict().values(), *runs_.whole()[0].z):
        assert tensor.contiguous().flatten()[:16].numpy().tobytes() not in sent
    unpacked = work.unpacked(sent)
    assert unpacked.runs.subject.fingerprint == pair[0].fingerprint and not unpacked.runs.made


def test_tensors_arrive_as_they_were_sent():
    some = [
        torch.arange(6).view(2, 3),
        torch.tensor(True),
        torch.rand(3).bfloat16(),
        torch.empty(0, 4),
        torch.rand(2, 3).T,
    ]
    for one in some:
        there = work.unpacked(work.packed(one))
        assert torch.equal(one, there) and (one.dtype, one.shape) == (there.dtype, there.shape)


# What is refused


class Nobody(Executor):
    def submit(self, *_, **__):
        pytest.fail("work was begun")


@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_memory_is_refused_with_the_way_out(method, prompts):
    pair = tiny.subject("llama"), tiny.subject("llama", seed=1)
    with pytest.raises(ValueError, match=r"wrapped in memory.*save_pretrained.*models\.load"):
        method(pair, prompts, executor=Nobody())


@pytest.mark.parametrize("method", METHODS)
def test_an_executor_that_cannot_work_is_refused(method, pair, prompts):
    with pytest.raises(ValueError, match="submit"):
        method(pair, prompts, executor=4)
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as copies,
        pytest.raises(ValueError, match=r"hang.*spawn.*workers\.pool"),
    ):
        method(pair, prompts, executor=copies)


def test_recordings_are_not_given_to_workers(pair, prompts):
    both = tuple(runs.record(pair[0], one) for one in prompts)
    with pytest.raises(ValueError, match="recordings, or an executor"):
        path_patching.sweep(pair[0], *prompts, **LAST, recordings=both, executor=Nobody())
    with pytest.raises(ValueError, match="recordings, or an executor"):
        knockout.sweep(pair[0], prompts[0], recording=both[0], executor=Nobody())
    pairs = dcm.interchange.record(pair[0], desiderata.triples(pair[0], "object", 6, 3))
    with pytest.raises(ValueError, match="recordings, or an executor"):
        dcm.learn(pair[0], None, pairs, pairs, position="last", executor=Nobody())


def test_a_metric_that_no_worker_could_have_is_refused(pair, prompts):
    own = metrics.Metric("own", lambda p: p.answer_ids[:, None], lambda o, _: o.logprob, metrics.top)
    with pytest.raises(ValueError, match="cannot be sent"):
        path_patching.sweep(pair[0], *prompts, **LAST, metric=own, executor=Nobody())


def test_a_metric_that_is_another_one_in_the_worker_is_refused(pair, prompts, tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "from entity_circuits.methods import metrics\nSCALE = 1.0\n"
        "def targets(p): return p.answer_ids[:, None]\ndef value(o, p): return SCALE * o.logits[..., 0]\n"
        "METRIC = metrics.Metric('own', targets, value, metrics.top)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.import_module("own_metric")
    sent = work.packed(own.METRIC)
    assert work.unpacked(sent) == own.METRIC
    monkeypatch.setattr(own, "SCALE", 3.0)  # as where the work was asked for the module stayed what it was
    with pytest.raises(ValueError, match="value of own_metric is another one in the worker"):
        work.unpacked(sent)


@pytest.mark.parametrize("fact", ["code", "torch", "device", "transformers"])
def test_a_worker_that_would_give_other_numbers_says_so(fact, pair, prompts, executor, monkeypatch):
    key = results.key

    def elsewhere(module, subject, **asked):
        return key(module, subject, **asked) | ({} if asked else {fact: "another"})

    monkeypatch.setattr(results, "key", elsewhere)
    with pytest.raises(ValueError, match=f"its {fact} is another"):
        path_patching.sweep(pair[0], *prompts, **LAST, executor=executor)


def test_a_model_whose_files_are_others_there_is_refused(tmp_path, prompts, executor):
    subject = models.load(str(tiny.save(tmp_path / "model", "llama", seed=2)))
    tiny.save(tmp_path / "model", "llama", seed=3)
    with pytest.raises(ValueError, match="another model here"):
        path_patching.sweep(subject, *prompts, **LAST, executor=executor)


# What is lost


class Dying(Executor):
    """Does a few pieces of work, then its workers are dead."""

    def __init__(self, pieces):
        self.pieces = pieces

    def submit(self, function, *given, **_):
        future = Future()
        self.pieces -= 1
        if self.pieces < 0:
            future.set_exception(BrokenProcessPool("a child process terminated abruptly"))
        else:
            future.set_result(function(*given))
        return future


def test_when_workers_die_it_is_said_and_what_they_finished_is_not_done_again(pair, prompts, tmp_path, monkeypatch):
    sweep = partial(path_patching.sweep, pair[0], *prompts, position="last", store=Store(tmp_path))
    with pytest.raises(RuntimeError, match=r"a worker died.*kept in .*the same again"):
        sweep(executor=Dying(3))
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    done, real = [], work._work
    monkeypatch.setattr(work, "_work", lambda sent: done.append(sent) or real(sent))
    found = sweep(executor=Dying(99))
    assert len(done) == 2, "of the base run and four layers, two pieces were left"
    assert same([found.change], [path_patching.sweep(pair[0], *prompts, position="last").change])
    with pytest.raises(RuntimeError, match="is lost, for want of a store"):
        path_patching.sweep(pair[0], *prompts, position="last", executor=Dying(0))


def test_a_full_disk_loses_nothing_that_was_computed(pair, prompts, executor, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "save_file", full)
    with pytest.warns(UserWarning, match="Make room"):
        found = path_patching.sweep(pair[0], *prompts, **LAST, executor=executor, store=Store(tmp_path))
    assert same([found.change], [path_patching.sweep(pair[0], *prompts, **LAST).change])


def test_after_an_error_no_more_work_is_begun(pair, prompts, executor, monkeypatch):
    begun = []

    def fails(sent):
        begun.append(sent)
        time.sleep(0.05)
        raise KeyError("a fault")

    monkeypatch.setattr(work, "_work", fails)
    with pytest.raises(KeyError, match="a fault"):
        path_patching.sweep(pair[0], *prompts, position="last", executor=executor)
    executor.shutdown()
    assert len(begun) < 5


def test_work_is_done_on_as_many_threads_as_where_it_was_asked_for(pair, prompts, executor):
    threads = torch.get_num_threads()
    unit = work.Unit("x", results.key(__name__, pair[0]) | {"threads": threads + 1}, _threads, __name__, (pair[0],))
    with pytest.raises(ValueError, match="threads"):  # of this one process, also asked for with others
        work._require_alike(results.key(__name__, pair[0]), unit.inputs)
    (found,) = work.done([unit], executor=executor)
    assert int(found["threads"]) == threads + 1 and torch.get_num_threads() == threads


def _threads():
    return {"threads": torch.tensor(torch.get_num_threads())}


def test_a_loaded_model_says_how_to_have_it_again(pair, tmp_path, monkeypatch):
    told = pair[0].specification
    assert told.fingerprint == pair[0].fingerprint and told.dtype == "float32"
    monkeypatch.chdir(tmp_path)
    folder = tiny.save(tmp_path / "mine", "llama")
    told = models.load("mine", attention="eager", dtype=torch.float64).specification
    assert (told.name, told.attention, told.dtype) == (str(folder), "eager", "float64")
    monkeypatch.chdir("/")
    assert loading.specified(told).fingerprint == told.fingerprint
    with pytest.raises(ValueError, match="another model here"):
        loading.specified(replace(told, fingerprint="0"))


def test_a_cluster_that_is_not_there_is_refused_in_words(tmp_path, monkeypatch):
    with pytest.raises((FileNotFoundError, ImportError), match=r"dask scheduler|entity-circuits\[cluster\]"):
        workers.cluster(tmp_path / "none.json").__enter__()
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="workers"):
            workers.pool(wrong).__enter__()


# The command


def test_discover_on_the_command_line_shares_its_work_and_finds_the_same(pair, tmp_path, monkeypatch, capsys):
    asked, threads = [], torch.get_num_threads()

    @contextlib.contextmanager
    def pool(count):
        asked.append(count)
        with ThreadPoolExecutor(1) as executor:
            yield executor

    monkeypatch.setattr(workers, "pool", pool)
    monkeypatch.setattr(workers, "cluster", pool)
    name, found = pair[0].specification.name, []
    try:
        for ways in ([], ["--workers", "2", "--threads", "1"], ["--cluster", "s.json"]):
            monkeypatch.setenv("ENTITY_CIRCUITS_RESULTS", str(tmp_path / f"results{len(found)}"))
            out = tmp_path / f"{len(found)}.json"
            assert cli.main(["discover", name, "--n", "7", "--out", str(out), *ways]) == 0
            found.append(circuits.load(str(out)).circuit.groups)
    finally:
        torch.set_num_threads(threads)
    assert asked == [2, "s.json"] and found[0] == found[1] == found[2]
    assert cli.main(["discover", "qwen2.5-coder-0.5b", "--adapter", "code"]) == 1
    assert "--out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["discover", name, "--workers", "2", "--cluster", "s.json"])
