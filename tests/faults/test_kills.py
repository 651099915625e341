"""Killed with -9 at any moment and started again, everything is as if nobody had touched it, and nobody is left over.

KILLS says how many kills each case gets (default 10), KILLS_SEED when they come.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import tiny
from entity_book.claims import findings
from entity_book.training import adapters, finetune
from entity_circuits import models, sums
from entity_circuits.results import Store, digest
from safetensors import safe_open
from safetensors.torch import load_file
from small_book import PARAMETERS, add, executed, notebook, results

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

KILLS, SEED = int(os.environ.get("KILLS", "10")), int(os.environ.get("KILLS_SEED", "0"))

BOOK = """
import pathlib
from entity_book.build import book
if __name__ == "__main__":
    book.execute(root=pathlib.Path.cwd(), jobs=2)
"""
SITE = """
import pathlib
from entity_book.build import site
site.build(root=pathlib.Path.cwd())
"""
STORE = """
import pathlib, torch
from entity_circuits.results import Store
store = Store(pathlib.Path("results"))
for number in range(12):
    compute = lambda: {"x": torch.full((500_000,), float(number)), "y": torch.arange(number + 1)}
    kept = store.keep(f"tensor-{number}", {"number": number}, compute)
    assert torch.equal(kept["x"], torch.full((500_000,), float(number))), number
"""
TRAINING = """
import pathlib, tiny
from entity_book.training import adapters, finetune
from entity_circuits import results
recipe = finetune.Recipe("code", steps=12, batch=4, checkpoint=2, held_out=8, rank=4)
subject = tiny.subject("qwen2")
trained = finetune.train(subject, recipe, results.Store(pathlib.Path("results")))
if not pathlib.Path("adapter").exists():
    adapters.save(trained, subject, pathlib.Path("adapter"), "by hand")
"""
FETCH = """
from entity_circuits import models
models.fetch("tiny.gguf")
"""
SWEEP = """
import pathlib, tiny
from entity_circuits import path_patching, results
store = results.Store(pathlib.Path("results"))
found = path_patching.discover(tiny.subject("qwen2", layers=6), n=12, boxes=3, store=store)
found.circuit.save(pathlib.Path("kept", "circuit.json"))
"""

STUDY = """
import pathlib
from entity_book.studies import arithmetic
from entity_book.training.finetune import Recipe
from entity_book.training.plan import Run
arithmetic.CONTEXTS, arithmetic.SUMS = 2, 4
small = dict(steps=6, batch=4, held_out=4, checkpoint=2, rank=4)
runs = [Run("base", made="base"), *(Run("a", seed, "trained", Recipe("arithmetic", seed, **small)) for seed in (0, 1))]
arithmetic.go(runs=runs, base="base", out=pathlib.Path("rows"))
"""
MEASURING = """
import importlib, pathlib
from entity_circuits import places
home = pathlib.Path.cwd()
places.checkout = lambda: home  # the repository whose models are measured, and whose data are written
importlib.import_module("entity_circuits.models.registry").FILE = home / "models.toml"
from entity_book.build import cli
for command in (["measure-adapters"], ["measure-cmap", "code", "--contexts", "2", "--brief"]):
    assert cli.main(command) == 0, command
"""


def content(folder: Path, *left_out: str) -> dict[str, str]:
    """The files below a folder by their digests, without those whose names contain one of these words."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}
    return {name: digest for name, digest in named.items() if not any(word in name for word in left_out)}


def stored(folder: Path) -> dict[str, str]:
    """The results that a store holds by the digests of their tensors: the order of what a file says beside is free."""
    found = {path.name: load_file(path) for path in sorted((folder / "results").glob("*.safetensors"))}
    return {name: digest(*(tensors[key] for key in sorted(tensors))) for name, tensors in found.items()}


def marked(mark: str) -> list[str]:
    """The commands of all processes that were started with this mark in their environment and still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:
            continue
    return found


def start(folder: Path, script: str, mark: str) -> subprocess.Popen:
    environment = os.environ | {
        "ENTITY_CIRCUITS_CACHE": str(folder / "cache"),
        "ENTITY_CIRCUITS_RESULTS": str(folder / "results"),
        "MARK": mark,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    (folder / "script.py").write_text(script)
    with (folder / "log").open("w") as log:
        return subprocess.Popen([sys.executable, "script.py"], cwd=folder, env=environment, stdout=log, stderr=log)


def finished(folder: Path, script: str) -> float:
    """Run the script to its end and say how long it took."""
    clock = time.monotonic()
    assert start(folder, script, "undisturbed").wait() == 0, (folder / "log").read_text()
    return time.monotonic() - clock


@pytest.fixture
def survives(tmp_path: Path, record_property: Callable[[str, int], None]) -> Callable[..., None]:
    """Kills a script at random moments in copies of a folder, lets it end, and compares with an undisturbed run."""
    return partial(_survives, tmp_path, record_property)


def _survives(
    tmp_path: Path,
    record_property: Callable[[str, int], None],
    template: Path,
    script: str,
    state: Callable[[Path], object],
    name: str,
) -> None:
    chosen = random.Random(SEED)
    calm, tried = tmp_path / "calm", 0
    shutil.copytree(template, calm)
    seconds, wanted = finished(calm, script), state(calm)
    killed = ended = 0
    while tried < KILLS:
        folder, mark = tmp_path / f"kill-{tried}", uuid.uuid4().hex
        shutil.copytree(template, folder)
        for _ in range(min(chosen.randint(1, 3), KILLS - tried)):  # also the restart of a killed one
            process, clock = start(folder, script, mark), time.monotonic()
            try:
                process.wait(chosen.uniform(0.1, seconds))
                ended, seconds = ended + 1, min(seconds, max(1.0, time.monotonic() - clock))  # a busy machine is uneven
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
            tried += 1
        if Path("/proc/self/environ").exists():
            end = time.monotonic() + 5
            while (left := marked(mark)) and time.monotonic() < end:
                time.sleep(0.1)
            assert not left
        finished(folder, script)
        assert state(folder) == wanted
    record_property("kills", killed)
    print(f"\n{name}: {killed} kills, {ended} had ended before, all as undisturbed ({seconds:.1f} s)")


def house(folder: Path) -> Path:
    """A book of two chapters and one that sums up."""
    for name in ("chapters", "lib", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: chapters/01_one\n")
    (folder / "intro.md").write_text("# Title\n\n```{book-runs}\n```\n")
    (folder / "chapters" / "01_one.ipynb").write_text(
        notebook(PARAMETERS, "print(boxes)", "import time\ntime.sleep(0.5)")
    )
    keep = "from entity_book.claims import findings\nfindings.keep('accuracy/base', 0.774)"
    add(folder, "02_two", keep, "import time\nfor number in range(3):\n    print(number); time.sleep(0.1)")
    load = "from entity_book.claims import findings\nprint(findings.load())"
    add(folder, "07_sum", (load, ["reads-findings"]))
    return folder


def book_state(folder: Path) -> object:
    made = {path.name for path in (folder / "build").rglob("*") if path.is_file()}
    chapters = [results(folder, name) for name in ("01_one", "02_two", "07_sum")]
    assert all(executed(folder, name).is_file() for name in ("01_one", "02_two", "07_sum"))
    return chapters, findings.file(folder).read_text(), made


def test_a_book(tmp_path, survives):
    survives(house(tmp_path / "house"), BOOK, book_state, "book")


def test_a_site(tmp_path, survives):
    template = house(tmp_path / "house")
    settings = "title: Title\nonly_build_toc_files: true\nexecute: {execute_notebooks: 'off'}\nsphinx:\n"
    settings += "  extra_extensions: [sphinx.ext.autodoc, entity_book.build.sphinx_ext]\n"
    settings += "  config: {suppress_warnings: ['*'], html_last_updated_fmt: null}\n"
    (template / "_config.yml").write_text(settings)
    for path in (template / "chapters").glob("*.ipynb"):
        title = f'"cells": [\n  {{"cell_type": "markdown", "id": "t", "metadata": {{}}, "source": ["# {path.stem}"]}},'
        path.write_text(path.read_text().replace('"cells": [', title, 1))
    finished(template, BOOK)

    def state(folder: Path) -> object:
        return content(folder / "_build" / "html", ".buildinfo"), content(folder / "build")

    survives(template, SITE, state, "site")


def test_a_store(tmp_path, survives):
    template = tmp_path / "template"
    template.mkdir()
    survives(template, STORE, stored, "store")


def test_a_training(tmp_path, survives):
    template = tmp_path / "template"
    template.mkdir()
    # The card and the log say when and how long.
    survives(template, TRAINING, lambda folder: content(folder / "adapter", "README.md", "log.json"), "training")


def study_state(folder: Path) -> object:
    """The rows without what a clock said, and that nothing is left to resume from."""
    rows = {path.name: json.loads(sums.read(path)) for path in sorted((folder / "rows").glob("*.json"))}
    assert len(rows) == 3 and not list((folder / "results").glob("study-*"))
    return {name: {k: v for k, v in row.items() if k not in ("seconds", "measuring")} for name, row in rows.items()}


def test_a_study(tmp_path, survives):
    template = tmp_path / "template"
    (template / "rows").mkdir(parents=True)
    (template / "rows" / sums.NAME).touch()
    tiny.save(template / "base")
    survives(template, STUDY, study_state, "study")


def test_a_fetch(tmp_path, survives):
    template = tmp_path / "template"
    template.mkdir()
    tiny.save_gguf(template / "tiny.gguf")

    def state(folder: Path) -> object:  # `.checked` only spares a reading, and comes when files have stood for a while
        return sorted(content(folder / "cache", ".lock", ".checked").values())

    survives(template, FETCH, state, "fetch")


def measured_house(folder: Path) -> Path:
    """A repository of one tiny model, the book's default by its name, and an adapter on it, before any measurement."""
    base, data = "qwen2.5-coder-0.5b", folder / "data"
    for name in ("adapters", "circuits", "cmap"):
        (data / name).mkdir(parents=True)
        sums.seal(data / name)
    tiny.save(folder / "base")
    subject = replace(models.load(str(folder / "base")), name=base)
    recipe = finetune.Recipe("code", steps=4, batch=4, held_out=4, learning_rate=3e-2)
    adapters.save(finetune.train(subject, recipe, Store(None)), subject, data / "adapters" / "code", "by hand")
    entry = 'title = ""\narchitecture = "Qwen2"\nlicence = ""\ngate = "none"\nparameters = 1\nexecuted_here = true\n'
    tables = {base: 'path = "base"', "code": f'path = "data/adapters/code"\nbase = "{base}"'}
    text = "\n".join(f'[models."{name}"]\n{entry}{where}\n' for name, where in tables.items())
    (folder / "models.toml").write_text(f'{text}\n[pairs.code]\nbase = "{base}"\nfinetuned = "code"\n')
    return folder


def measured_state(folder: Path) -> object:
    """What was measured, as it is read: each file is what its list says, and holds the same numbers."""
    adapters_, cmap = folder / "data" / "adapters" / "accuracy.json", folder / "data" / "cmap" / "code.safetensors"
    for path in (adapters_, cmap):
        assert sums.listed(path.parent) == {path.name: sums.digest(path)}
    with safe_open(cmap, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        return adapters_.read_text(), file.metadata(), digest(*tensors.values()), list(tensors), stored(folder)


def test_the_measurements_of_adapters_and_of_what_is_patched(tmp_path, survives):
    survives(measured_house(tmp_path / "house"), MEASURING, measured_state, "measurements")


def test_a_sweep_and_the_circuit_that_is_kept_of_it(tmp_path, survives):
    template = tmp_path / "template"
    template.mkdir()
    survives(
        template,
        SWEEP,
        lambda folder: (stored(folder), content(folder / "kept", ".lock")),
        "sweep",
    )
