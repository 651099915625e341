"""One flipped bit in a file that is cached, stored or shipped: what becomes of it. For `test_damage` and `faults`.

A `Case` has the files of one kind and an attempt to use them. The attempt says what happened: "error", where the file
is named; "repaired", where the right content was made again; "harmless", where what was read is what was written, bit
for bit. Anything else is an `AssertionError`, and a traceback of another kind is one that nobody foresaw.
"""

import random
import runpy
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tiny
import torch
from entity_book import paper
from entity_book.build import readme
from entity_book.studies import (
    arithmetic,
    improvement,
    kept_masks,
    node_answers,
    scale,
    scale_circuit,
    tuning,
    wiring,
)
from entity_book.training import adapters, finetune
from entity_book.training.data import KINDS
from entity_circuits import circuits, models, places, results, sums
from entity_circuits.methods import cmap
from entity_circuits.models import weights
from entity_circuits.models.weights import FetchError


@dataclass(frozen=True)
class Case:
    """`files` by what they are called in the counts, each with the part of it that is hit; `attempt` gets the file."""

    files: dict[str, tuple[Path, slice]]
    attempt: Callable[[Path], str]


@contextmanager
def flipped(file: Path, where: int, bit: int) -> Iterator[None]:
    """Inside, the file has one bit that is another one; then it is as it was, whatever became of it."""
    before = file.read_bytes()
    content = bytearray(before)
    content[where] ^= 1 << bit
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def counted(case: Case, flips: int, seed: int = 0) -> dict[str, Counter]:
    """What became of so many flips of each file, at places and bits that the seed decides."""
    found = {}
    for name, (file, part) in case.files.items():
        draw, size = random.Random(f"{seed}/{name}"), file.stat().st_size
        outcomes: Counter = Counter()
        for where in (draw.choice(range(size)[part]) for _ in range(flips)):
            bit = draw.randrange(8)
            with flipped(file, where, bit), warnings.catch_warnings(record=True):
                try:
                    outcomes[case.attempt(file)] += 1
                except AssertionError as error:
                    raise AssertionError(f"{name}, byte {where}, bit {bit}: {error}") from error
        found[name] = outcomes
    return found


ALL = slice(None)


def header(file: Path) -> slice:
    return slice(8 + int.from_bytes(file.read_bytes()[:8], "little"))


def data(file: Path) -> slice:
    return slice(header(file).stop, None)


def same(one: models.Subject, other: models.Subject) -> bool:
    """The same answers, tokens and fingerprint."""
    ids = torch.arange(30)[None]
    text = "The apple is in Box F, the cup is in Box Q."
    with torch.no_grad():
        logits = [subject.model(ids).logits for subject in (one, other)]
    told = [subject.tokenizer(text)["input_ids"] for subject in (one, other)]
    return torch.equal(*logits) and told[0] == told[1] and one.fingerprint == other.fingerprint


def named(file: Path, error: object, *others: str) -> str:
    """ "error", if it is told which file is not right (of a list: a file that it does not fit any more)."""
    assert any(name in str(error) for name in (file.name, *others)), f"the error names no file: {error!r}"
    return "error"


def fetched(folder: Path, monkeypatch) -> Case:
    """A fetched model, unpacked from a file of its own; the cache must be this test's own, too."""
    monkeypatch.setattr(sums, "_SETTLED", -1)  # the memory of what was found right is kept and hit, too
    gguf = folder / "tiny.gguf"
    tiny.save_gguf(gguf)
    right, home = models.load(str(gguf), check=False), models.fetch(str(gguf))
    memory = home.with_name(home.name + ".checked")
    contents = {file.name: file.read_bytes() for file in home.iterdir()}

    def attempt(file: Path) -> str:
        try:
            assert same(models.load(str(gguf), check=False), right), "another model was loaded"
            assert weights.manifest(home), "the folder was not repaired"
            return "harmless" if file == memory else "repaired"
        finally:
            for name, content in contents.items():
                (home / name).write_bytes(content)

    model = home / "model.safetensors"
    names = ["manifest.json", sums.NAME, "config.json", "tokenizer.json", "tokenizer_config.json"]
    files = {f"fetched {name}": (home / name, ALL) for name in names}
    files |= {"fetched header": (model, header(model)), "fetched weights": (model, data(model))}
    return Case(files | {"fetched memory": (memory, ALL)}, attempt)


def stored(folder: Path) -> Case:
    """A stored result."""
    made = {"logprob": torch.linspace(0, 1, 300, dtype=torch.float64), "same": torch.arange(40) % 3 == 0}
    made["half"] = torch.linspace(0, 1, 50, dtype=torch.bfloat16)
    store = results.Store(folder)
    store.keep("result", {"n": 1}, lambda: made)
    (file,) = folder.iterdir()

    def attempt(_: Path) -> str:
        computed = []

        def compute() -> dict[str, torch.Tensor]:
            computed.append(1)
            return made

        for _again in range(2):
            found = store.keep("result", {"n": 1}, compute)
            assert found.keys() == made.keys(), f"other names: {list(found)}"
            assert all(found[name].dtype == made[name].dtype and torch.equal(found[name], made[name]) for name in made)
        assert len(computed) < 2, "it is computed for ever"
        return "repaired" if computed else "harmless"

    return Case({"result header": (file, header(file)), "result tensors": (file, data(file))}, attempt)


def adapter(folder: Path) -> Case:
    """An adapter as it is shipped, on a tiny base."""
    base = folder / "base"
    tiny.save(base, "qwen2")
    tiny.tokenizer().save_pretrained(base)
    subject = models.load(str(base), check=False)
    recipe = finetune.Recipe("code", steps=1, batch=2, held_out=2, rank=2)
    home = adapters.save(finetune.train(subject, recipe), subject, folder / "adapter", "")
    right = models.load(str(base), adapter=str(home), check=False)

    def attempt(file: Path) -> str:
        try:
            found = models.load(str(base), adapter=str(home), check=False)
        except FetchError as error:
            return named(file, error, "adapter_config.json", "adapter_model.safetensors")
        assert same(found, right), "another adapter was loaded"
        return "harmless"

    model = home / "adapter_model.safetensors"
    return Case(
        {
            "adapter config": (home / "adapter_config.json", ALL),
            "adapter header": (model, header(model)),
            "adapter weights": (model, data(model)),
            "adapter list": (home / sums.NAME, ALL),
        },
        attempt,
    )


def answers(folder: Path, monkeypatch) -> Case:
    """Kept answers of two pairs; that of the other pair is never lost."""
    from test_cmap import CIRCUIT, changed, setting

    base, tuned, prompts = setting()
    found = cmap.sweep(base, tuned, improvement.few(CIRCUIT), prompts)
    other = changed(base, seed=6)
    monkeypatch.setattr(improvement, "folder", lambda: folder)
    (folder / "one.safetensors").touch()
    sums.seal(folder)
    improvement.keep(found, folder / "one.safetensors", base, tuned, command="one")
    improvement.keep(found, folder / "two.safetensors", base, other, command="two")
    right = improvement.kept(base, tuned)
    assert right is not None

    def attempt(file: Path) -> str:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            read = improvement.kept(base, tuned)
            if file.name != sums.NAME:
                assert improvement.kept(base, other) is not None, "the other pair is lost"
        if read is None:
            assert told, "left out without a word"
            return named(file, told[0].message, "one.safetensors")
        numbers = ("correct", "logprob", "contexts", "base_correct", "tuned_logprob")
        assert read.conditions == right.conditions
        assert all(torch.equal(getattr(read, name), getattr(right, name)) for name in numbers), "other answers"
        return "harmless"

    one = folder / "one.safetensors"
    files = {"answers header": (one, header(one)), "answers": (one, data(one))}
    return Case(files | {"answers list": (folder / sums.NAME, ALL)}, attempt)


def circuit(folder: Path) -> Case:
    """A circuit with its scores."""
    home = folder / "circuits"
    shutil.copytree(places.data("circuits"), home)
    file = home / "code.json"
    right = circuits.load(file)

    def attempt(hit: Path) -> str:
        try:
            found = circuits.load(file)
        except ValueError as error:
            return named(hit, error, "code.json")
        assert (
            found.circuit == right.circuit
            and replace(found, circuit=right.circuit).scores.keys() == right.scores.keys()
        )
        for kind, tables in right.scores.items():
            assert all(
                np.array_equal(found.scores[kind][group], table, equal_nan=True) for group, table in tables.items()
            )
        return "harmless"

    return Case({"circuit": (file, ALL), "circuit list": (home / sums.NAME, ALL)}, attempt)


READERS: dict[str, Callable[[Path], object]] = {
    "data": lambda file: readme.stored(file.parents[1]) if file.stem == "findings" else paper.paper(),
    "data/adapters": tuning.measured,
    **dict.fromkeys((f"data/adapters/{kind}" for kind in KINDS), lambda file: models.fetch(file.parent.name)),
    **dict.fromkeys(("data/circuits", "data/circuits/again"), circuits.load),
    **dict.fromkeys(("data/cmap", "data/draws", "data/exchange"), improvement.read),
    "data/edges": lambda file: wiring.kept(file.stem),
    "data/masks": lambda file: kept_masks.kept(file.stem, ()),
    "data/nodes": node_answers.read,
    "data/scale": lambda file: scale.table([file]),
    "data/scale/circuit": scale_circuit.table,
    "data/trainings": lambda file: arithmetic.rows(file.parent),
    "course/data": lambda file: runpy.run_path(str(file.parents[1] / "checks" / "stored.py"))["load"](file.stem),
}
"""What reads the files of each folder that is shipped."""


def shipped(folder: Path, monkeypatch) -> Case:
    """All files that are shipped, each by what reads it; their lists are hit in other cases."""
    for part in ("data", "course/data", "course/checks"):
        shutil.copytree(places.ROOT / part, folder / part)
    monkeypatch.setattr(places, "checkout", lambda: folder)
    every = [file for part in ("data", "course/data") for file in sorted((folder / part).rglob("*.*"))]
    files = {file.relative_to(folder).as_posix(): file for file in every if file.suffix in (".json", ".safetensors")}

    def attempt(file: Path) -> str:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                READERS[file.parent.relative_to(folder).as_posix()](file)
            except (ValueError, FetchError) as error:
                return named(file, error)
        assert told, "it was read"
        return named(file, told[-1].message)

    return Case({name: (file, ALL) for name, file in files.items()}, attempt)


def every(folder: Path, monkeypatch) -> Iterator[Case]:
    """All cases, each in a folder of its own, with a cache of their own."""
    monkeypatch.setenv("ENTITY_CIRCUITS_CACHE", str(folder / "cache"))
    for make in (fetched, answers):
        (folder / make.__name__).mkdir()
        yield make(folder / make.__name__, monkeypatch)
    for plain in (stored, adapter, circuit):
        (folder / plain.__name__).mkdir()
        yield plain(folder / plain.__name__)
    yield shipped(folder / "shipped", monkeypatch)
