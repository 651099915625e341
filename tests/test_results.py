"""Claims about stored results and circuits: served only for the same inputs, whole or not at all."""

import ast
import contextlib
import errno
import importlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import platformdirs
import pytest
import tiny
import torch
from entity_circuits import digests, heads, places, results, values
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation, metrics
from entity_circuits.tasks import boxes
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

LIB = sorted(path for path in (places.ROOT / "lib").rglob("*.py") if ".keep(" in path.read_text(encoding="utf-8"))


def test_a_result_is_computed_once_and_again_when_any_input_changes(tmp_path):
    store, calls = results.Store(tmp_path), []

    def compute():
        calls.append(1)
        return {"x": torch.arange(3) + len(calls)}

    first = store.keep("x", {"model": "a", "n": 1}, compute)["x"]
    assert torch.equal(store.keep("x", {"n": 1, "model": "a"}, compute)["x"], first)
    assert len(calls) == 1
    assert not torch.equal(store.keep("x", {"model": "b", "n": 1}, compute)["x"], first)
    assert len(calls) == 2


def test_others_may_read_a_stored_file_as_the_umask_says(tmp_path):
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        try:
            results.Store(tmp_path / f"{umask}").keep("x", {}, lambda: {"x": torch.ones(2)})
            places.write(tmp_path / f"{umask}" / "text", "words")
        finally:
            os.umask(before)
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / f"{umask}").iterdir()} == {0o666 & ~umask}


def test_what_is_being_written_has_a_name_of_its_own(tmp_path):
    with places.writing(tmp_path / "x") as one, places.writing(tmp_path / "x") as other:
        assert one != other
        assert {socket.gethostname() in part.name and str(os.getpid()) in part.name for part in (one, other)} == {True}
        one.write_text("one")
        other.write_text("other")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "one")]


def test_without_a_checkout_results_go_to_the_users_folder_and_its_data_are_missed_with_what_to_do(monkeypatch):
    monkeypatch.delenv("ENTITY_CIRCUITS_RESULTS", raising=False)
    monkeypatch.setattr(places, "checkout", lambda: None)
    assert places.results() == Path(platformdirs.user_cache_dir("entity-circuits")) / "results"
    with pytest.raises(FileNotFoundError, match="clone that"):
        _ = places.ROOT
    with pytest.raises(FileNotFoundError, match=r"paper\.json.*clone that"):
        places.data("paper.json")


def test_a_damaged_file_is_computed_anew(tmp_path):
    store = results.Store(tmp_path)
    store.keep("x", {}, lambda: {"x": torch.ones(1000)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(store.keep("x", {}, lambda: {"x": torch.zeros(2)})["x"], torch.zeros(2))
    assert torch.equal(store.keep("x", {}, lambda: pytest.fail("computed twice"))["x"], torch.zeros(2))


def test_a_file_written_for_other_inputs_is_never_served(tmp_path):
    store = results.Store(tmp_path)
    store.keep("x", {"n": 1}, lambda: {"x": torch.ones(2)})
    (ones,) = tmp_path.iterdir()
    content = ones.read_bytes()
    ones.unlink()
    store.keep("x", {"n": 2}, lambda: {"x": torch.zeros(2)})
    (zeros,) = tmp_path.iterdir()
    zeros.write_bytes(content)
    assert torch.equal(store.keep("x", {"n": 2}, lambda: {"x": torch.zeros(2)})["x"], torch.zeros(2))


WRITES_FOR_EVER = """
import sys, itertools, torch
from pathlib import Path
from entity_circuits import results
for n in itertools.count():
    results.Store(Path(sys.argv[1])).keep("big", {"n": n}, lambda: {"x": torch.ones(2_000_000)})
"""


def test_a_process_killed_while_writing_leaves_no_half_result(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path)])
    try:
        while len(list(tmp_path.glob("*.safetensors"))) < 3:
            assert process.poll() is None, "the writer ended"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) >= 3
    assert all(file.stat().st_size > 8_000_000 for file in files)


def test_code_and_tensors_are_part_of_what_identifies_a_result():
    one = torch.arange(4.0)
    assert values.digest(one) == values.digest(one.clone())
    assert values.digest(one) != values.digest(one.view(2, 2))
    assert values.digest(one) != values.digest(one + 1e-6)
    one, other = "entity_circuits.heads", "entity_circuits.results"
    assert results.code(one) == results.code(one) != results.code(other)


def package(folder, **sources):
    """A package of these modules, importable from here on, under a name that no other test uses."""
    name = f"made_{folder.name.replace('-', '_')}"
    for module, text in {"__init__": "", **sources}.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{module}.py").write_text(text.replace("PACKAGE", name))
    return name


FIRST = "from . import second\nfrom PACKAGE.third import THREE\n"
SECOND = "def two():\n    from . import fourth\n    return fourth.FOUR\n"


def code_of(folder, monkeypatch, **changed):
    sources = {"first": FIRST, "second": SECOND, "third": "THREE = 3\n", "fourth": "FOUR = 4\n", "alone": "ONE = 1\n"}
    name = package(folder, **(sources | changed))
    monkeypatch.syspath_prepend(str(folder))
    digests._read_module.cache_clear()
    return results.code(f"{name}.first")


@pytest.mark.parametrize(
    "changed", [{"second": SECOND + "X = 1\n"}, {"third": "THREE = 4\n"}, {"fourth": "FOUR = 5\n"}]
)
def test_code_that_is_reached_by_imports_counts_however_far_away(tmp_path, monkeypatch, changed):
    assert code_of(tmp_path, monkeypatch) != code_of(tmp_path, monkeypatch, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"third": '"""Words."""\nTHREE = 3  # a comment\n'},
        {"third": 'THREE = 3\n"""What it is."""\n'},
        {"alone": "ONE = 2\n"},
    ],
)
def test_words_about_code_and_modules_that_are_not_imported_do_not_count(tmp_path, monkeypatch, changed):
    assert code_of(tmp_path, monkeypatch) == code_of(tmp_path, monkeypatch, **changed)


@pytest.mark.parametrize(
    "module",
    [
        *(f"entity_circuits.methods.{name}" for name in ("path_patching", "ablation", "knockout", "cmap")),
        "entity_book.studies.semantics",
    ],
)
def test_the_code_of_a_method_holds_itself_and_all_that_runs_it(module):
    reached = {name.removeprefix("entity_circuits.") for name in digests._reached([module])}
    runs = {f"runs.{name}" for name in ("edits", "recording", "definition", "replay", "blocks", "prefix")}
    assert {module.removeprefix("entity_circuits."), "models.precision", "heads", *runs} <= reached


def test_threads_device_and_every_parameter_are_part_of_what_identifies_a_result(monkeypatch):
    subject = tiny.subject()
    p = boxes.prompts(subject, n=6, boxes=3)

    def key(**asked):
        return json.dumps(results.key("entity_circuits.runs", subject, **asked), sort_keys=True)

    one = key(prompts=p, seed=0, heads=(Head(1, 2),))
    assert one == key(prompts=p.select(range(6)), seed=0, heads=[Head(1, 2)])
    assert one not in (key(prompts=p.select(range(5))), key(prompts=p, seed=1), key(prompts=p, seed=0, heads=()))
    for place, name, other in (
        (torch, "get_num_threads", lambda: 77),
        (torch.backends.cpu, "get_cpu_capability", lambda: "another"),
        (torch, "__version__", "0"),
        (results, "version", lambda _: "0"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(place, name, other)
            assert one != key(prompts=p, seed=0, heads=(Head(1, 2),)), name
    assert one == key(prompts=p, seed=0, heads=(Head(1, 2),))


def key_of(value):
    return json.dumps(results.key("entity_circuits.heads", (), asked=value), sort_keys=True)


def test_what_is_asked_is_told_apart_by_its_content():
    def more(n):
        return lambda x: x + n

    frame = pd.DataFrame({"a": [1, 2]})
    apart = [
        *(more(1), more(2), lambda x: x * 2, lambda x: x - 2, metrics.LOG_PROBABILITY, metrics.CHOICE),
        replace(metrics.LOG_PROBABILITY, value=lambda o, _: o.logprob * 2),
        *(1, 1.0, "1", None, (3,), {"a": 1}, {"b": 1}, Head(1, 2), [Head(1, 2)], np.array([1, 2]), np.array([1.0, 2])),
        *(frame, frame.assign(a=[1, 3])),
    ]
    keys = [key_of(value) for value in apart]
    assert len(set(keys)) == len(apart)
    assert keys[:-2] == [key_of(value) for value in apart][:-2]
    assert key_of({"b", "a"}) == key_of(frozenset("ab")) == key_of(["a", "b"])
    assert key_of(more(1)) == keys[0], "another function of the same code"
    assert key_of(frame) != keys[-2], "a value that is not understood is like nothing else"


def test_answers_by_a_metric_of_ones_own_are_not_served_for_another_of_the_same_name(tmp_path):
    subject, store = tiny.subject(), results.Store(tmp_path)
    p = boxes.prompts(subject, n=6, boxes=3)
    for factor in (1, 2, 3):
        own = replace(metrics.LOG_PROBABILITY, value=lambda o, _, by=factor: o.logprob * by)
        stored = ablation.full_model(subject, p, store, metric=own).logprob
        assert torch.equal(stored, ablation.full_model(subject, p, metric=own).logprob)


def written(text, **names):
    """What a page of a reader makes of this text."""
    space = {"__name__": "__main__", "dataclass": dataclass, "math": math, **names}
    exec(textwrap.dedent(text), space)
    return space


@dataclass(frozen=True)
class Times:
    by: float

    def __call__(self, outcome, prompts):
        return outcome.logprob * self.by


@dataclass(frozen=True)
class Plus(Times):
    def __call__(self, outcome, prompts):
        return outcome.logprob + self.by


def test_a_function_is_another_one_if_what_it_names_is():
    page = "def helper(x): return x * scale\ndef value(o, p): return helper(o) + math.pi + abs(scale)\n"
    one, same, scaled, other = (
        values.plain(written(text, scale=scale)["value"])
        for text, scale in ((page, 1.0), (page, 1.0), (page, 2.0), (page.replace("x * scale", "x + scale"), 1.0))
    )
    assert one == same and len({json.dumps(x) for x in (one, scaled, other)}) == 3


def test_a_function_of_a_readers_module_is_another_one_if_that_is_changed():
    mine = ModuleType("mine")
    mine.scale, mine.other = 1.0, 5.0
    value = written("def value(o, p): return o * mine.scale", mine=mine)["value"]
    one, mine.other = values.plain(value), 6.0
    assert values.plain(value) == one
    mine.scale = 2.0
    assert values.plain(value) != one


@pytest.mark.parametrize(
    "text",
    [
        "def value(o):\n    from PACKAGE.helpers import value as f\n    return f(o)",
        "def value(o):\n    import PACKAGE.helpers as h\n    return h.value(o)",
        "def value(o):\n    from .helpers import value as f\n    return [f(x) for x in o]",
        "def value(o):\n    def g():\n        from . import helpers\n        return helpers.value(o)\n    return g()",
    ],
)
def test_what_a_function_imports_when_it_runs_counts_like_what_its_module_imports(tmp_path, monkeypatch, text):
    name = package(tmp_path, metric=text, helpers="SCALE, OTHER = 1, 1\ndef value(x): return x * SCALE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    value = importlib.import_module(f"{name}.metric").value
    one, helpers = values.plain(value), importlib.import_module(f"{name}.helpers")
    helpers.OTHER = 7
    assert values.plain(value) == one, "found again, also where its helpers were not yet imported"
    helpers.SCALE = 7
    assert values.plain(value) != one


def test_an_import_of_what_is_not_there_is_told_apart_and_found_again():
    text = "def value(o):\n    try: from {} import f\n    except ImportError: f = abs\n    return f(o)"
    one, again, other = (values.plain(written(text.format(name))["value"]) for name in ("no_a", "no_a", "no_b"))
    assert one == again != other


def test_two_functions_that_name_other_things_of_one_module_depend_on_both():
    mine = ModuleType("mine")
    mine.a, mine.b = 1.0, 1.0
    pair = [written(f"def value(x): return x * mine.{name}", mine=mine)["value"] for name in "ab"]
    one, mine.b = values.plain(pair), 2.0
    assert values.plain(pair) != one


def test_functions_that_name_themselves_and_each_other_are_told_apart():
    page = "def a(x): return b(x - 1) if x else 0\ndef b(x): return a(x) + BY\n"
    one, same, other = (values.plain(written(page, BY=by)["a"]) for by in (1, 1, 2))
    assert one == same != other
    f, g = (written(f"def value(x): return x + {by}")["value"] for by in (1, 2))
    assert values.plain([f, g, f]) != values.plain([f, g, g])


def test_what_a_function_names_and_nobody_can_tell_is_never_found_again():
    value = written("def value(o, p): return it(o)", it=object())["value"]
    assert values.plain(value) != values.plain(value)


def test_callables_of_two_classes_with_equal_fields_are_two():
    assert values.plain(Times(2.0)) == values.plain(Times(2.0)) != values.plain(Plus(2.0))
    one, other = (
        written(f"@dataclass\nclass Mine:\n    by: int\n    def __call__(self, x): return x {sign} self.by")["Mine"](2)
        for sign in "+*"
    )
    assert values.plain(one) == values.plain(type(one)(2)) != values.plain(other)


OWN = {
    "a method of a dataclass": ("@dataclass\nclass W:\n    k: float\n    def of(self, x): return x * 2{}", "W(2.0)"),
    "a property": ("@dataclass\nclass W:\n    k: float\n    @property\n    def of(self): return 2{}", "W(2.0)"),
    "what is made after the fields": (
        "@dataclass\nclass W:\n    k: float\n    def __post_init__(self): self.j = self.k{}",
        "W(2.0)",
    ),
    "how a class begins": ("class W:\n    def __init__(self): self.k = 2{}", "W"),
    "an operator": ("class W:\n    def __mul__(self, x): return 2 * x{}", "W"),
    "an item": ("class W:\n    def __class_getitem__(cls, x): return 2 * x{}", "W"),
    "a named tuple's method": (
        "from typing import NamedTuple\nclass W(NamedTuple):\n    k: float\n    def of(self): return 2{}",
        "W(1.0)",
    ),
    "a mapping's method": ("class W(dict):\n    def of(self): return 2{}", "W(k=1)"),
    "a number's method": ("class W(float):\n    def of(self): return 2{}", "W(1.0)"),
    "a default that is made": (
        "from dataclasses import field\n@dataclass\nclass W:\n    k: list = field(default_factory=lambda: [2{}])",
        "W",
    ),
    "a digest of its own": ("class W:\n    digest = 'v1'\n    def of(self): return 2{}", "W()"),
    "what a function carries": ("def f(x): return f.k * x\nf.k = 2{}", "f"),
    "the order of a dict": ("def f(x): return next(iter(D))\nD = dict(a=1) if 2{} == 2 else 0", "f"),
}


@pytest.mark.parametrize("kind", OWN)
def test_what_a_readers_own_class_does_and_holds_is_told(kind):
    page, named = OWN[kind]
    text = page + "\ndef value(o): return HELP\nHELP = " + named
    one, same, other = (values.plain(written(text.format(more))["value"]) for more in ("", "", " + 5"))
    assert one == same != other


def test_keys_of_a_mapping_are_told_by_kind_and_order():
    tables = [{1: 2.0}, {"1": 2.0}, {1: 2.0, "a": 3.0}, {"a": 3.0, 1: 2.0}]
    assert len({json.dumps(values.plain(table)) for table in tables}) == len(tables)


def test_code_that_looks_names_up_by_itself_is_never_found_again():
    value = written("K = 2\ndef value(o): return globals()['K'] * o")["value"]
    assert values.plain(value) != values.plain(value)


@pytest.mark.parametrize("name", ["../mine", "a/b", "/etc/x", "..", "x" * 300, "é" * 200, "\0"])
def test_no_name_of_a_result_leaves_the_folder_or_is_too_long(tmp_path, name):
    store = results.Store(tmp_path / "inside")
    store.keep(name, {"n": 1}, lambda: {"x": torch.ones(1)})
    assert store.keep(name, {"n": 1}, dict)["x"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert all(path.is_file() for path in (tmp_path / "inside").iterdir())


def test_a_folder_is_taken_for_a_store_and_what_is_none_is_refused(tmp_path):
    subject = tiny.subject()
    p = boxes.prompts(subject, n=3, boxes=3)
    ablation.full_model(subject, p, tmp_path / "path")
    ablation.means(subject, prompts=p, store=str(tmp_path / "text"))
    ablation.circuit_accuracy(subject, {}, p, ablation.means(subject, prompts=p), store=tmp_path / "work")
    assert all(list((tmp_path / name).glob("*.safetensors")) for name in ("path", "text", "work"))
    with pytest.raises(ValueError, match="store: Store or Path or str"):
        ablation.full_model(subject, p, 3)


def test_nothing_is_kept_that_was_rounded_by_autocast(tmp_path):
    subject = tiny.subject()
    p = boxes.prompts(subject, n=3, boxes=3)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=r"autocast.*models.load"):
        ablation.full_model(subject, p, tmp_path)


def test_prompts_that_differ_in_a_position_alone_are_other_prompts():
    p = boxes.prompts(tiny.subject(), n=6, boxes=3)
    assert p.digest == replace(p, prev=p.prev.clone()).digest != replace(p, prev=p.prev - 1).digest


def test_a_circuit_survives_json_and_unknown_groups_are_refused(tmp_path):
    circuit = Circuit({"value_fetcher": (Head(21, 3), Head(20, 14))}, {"seed": 0})
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.from_json((tmp_path / "circuit.json").read_text()) == circuit
    assert [file.name for file in tmp_path.iterdir()] == ["circuit.json"]
    with pytest.raises(ValueError, match="value_fetcher"):
        Circuit({"fetcher": ()})


def test_a_text_that_cannot_be_written_leaves_the_old_file_and_no_part_of_the_new(tmp_path):
    path = tmp_path / "folder" / "note.txt"
    places.write(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        places.write(path, "new \ud800\n")
    assert path.read_text() == "old\n"
    assert list(path.parent.iterdir()) == [path]


def test_heads_are_written_and_read_the_same_way():
    assert str(Head.parse("L14H5")) == "L14H5"
    assert heads.by_layer([Head(2, 3), Head(1, 0), Head(2, 1)]) == {1: (0,), 2: (1, 3)}
    for wrong in ("14.5", "L1", "L-1H2", ""):
        with pytest.raises(ValueError, match="L14H5"):
            Head.parse(wrong)


def damaged(file, how):
    """The same file with one value, one name or one shape changed, still one that safetensors reads."""
    with safe_open(file, framework="pt") as opened:
        about, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if how == "value":
        tensors["x"][3] += 1
    elif how == "name":
        tensors["y"] = tensors.pop("x")
    elif how == "missing":
        del tensors["x"]
    elif how == "shape":
        tensors["x"] = tensors["x"].view(2, -1)
    else:
        tensors["x"] = tensors["x"].view(torch.int32)
    save_file(tensors, file, about)


@pytest.mark.parametrize("how", ["value", "name", "missing", "shape", "dtype"])
def test_tensors_that_are_not_those_that_were_written_are_computed_anew(tmp_path, how):
    store, made = results.Store(tmp_path), {"x": torch.arange(10.0), "other": torch.ones(2)}
    store.keep("x", {}, lambda: made)
    (file,) = tmp_path.iterdir()
    damaged(file, how)
    calls = []
    for _ in range(2):
        again = store.keep("x", {}, lambda: calls.append(1) or made)
        assert again.keys() == made.keys() and all(torch.equal(again[name], made[name]) for name in made)
    assert len(calls) == 1, "it is computed once, and the right one is kept"


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"file/results cannot be written to: .*ENTITY_CIRCUITS_RESULTS"):
        results.Store(tmp_path / "file" / "results").keep("x", {}, lambda: pytest.fail("computed first"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("os error 28")])
def test_a_result_that_cannot_be_stored_is_given_back_with_a_warning(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(results, "save_file", full)
    with pytest.warns(
        UserWarning, match=r"x was computed and is given back, but could not be kept in .*: .*(28|space)"
    ):
        found = results.Store(tmp_path).keep("x", {}, lambda: {"x": torch.ones(2)})
    assert torch.equal(found["x"], torch.ones(2)) and list(tmp_path.iterdir()) == []


@pytest.fixture
def little_room(tmp_path):
    """A folder with room for one megabyte."""
    folder = tmp_path / "little"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here: that takes Linux and root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount here")
def test_a_result_that_the_disk_has_no_room_for_is_given_back_and_takes_none(little_room):
    store, large = results.Store(little_room), {"x": torch.ones(500_000)}
    with pytest.warns(UserWarning, match=r"x was computed and is given back, but could not be kept in .*Make room"):
        assert torch.equal(store.keep("x", {}, lambda: large)["x"], large["x"])
    assert list(little_room.iterdir()) == []
    store.keep("small", {}, lambda: {"x": torch.ones(50_000)})
    assert len(store.keep("small", {}, lambda: pytest.fail("it was kept"))["x"]) == 50_000


def test_tensors_that_share_their_memory_are_stored(tmp_path):
    whole = torch.arange(6.0)
    made = {"whole": whole, "again": whole, "part": whole[2:], "turned": whole.view(2, 3).T}
    store = results.Store(tmp_path)
    store.keep("x", {}, lambda: made)
    again = store.keep("x", {}, lambda: pytest.fail("was not stored"))
    assert again.keys() == made.keys() and all(torch.equal(again[name], made[name]) for name in made)


def test_threads_that_need_one_result_all_get_it(tmp_path):
    def one(_):
        made = lambda: (time.sleep(0.05), {"x": torch.ones(200_000)})[1]  # noqa: E731
        return results.Store(tmp_path).keep("x", {}, made)["x"].sum().item()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [200_000] * 8
    assert len(list(tmp_path.iterdir())) == 1


BOTH_WRITE = """
import sys, torch
from pathlib import Path
from entity_circuits import results
for n in range(40):
    found = results.Store(Path(sys.argv[1])).keep("x", {"n": n}, lambda: {"x": torch.full((50_000,), float(n))})
    assert bool((found["x"] == n).all()), n
"""


def test_processes_that_need_the_same_results_all_get_them(tmp_path):
    both = [subprocess.Popen([sys.executable, "-c", BOTH_WRITE, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    for n in range(40):
        results.Store(tmp_path).keep("x", {"n": n}, lambda: pytest.fail("was not stored"))
    assert len(list(tmp_path.iterdir())) == 40


def test_what_a_killed_writer_left_goes_after_a_day_and_nothing_else_does(tmp_path):
    old = time.time() - 2 * places.OLD
    names = {"left": "x.safetensors.somehost-17-0a1b2c3d.part", "folder": "code.some.host-18-0a1b2c3d.part"}
    (tmp_path / names["left"]).write_text("half")
    (tmp_path / names["folder"]).mkdir()
    (tmp_path / names["folder"] / "adapter_config.json").write_text("half")
    (tmp_path / "film.mkv.part").write_text("a download of this reader's own")
    (tmp_path / "y.somehost-17-0a1b2c3d.part").write_text("being written now")
    for name in (*names.values(), "film.mkv.part"):
        os.utime(tmp_path / name, (old, old))
    places.write(tmp_path / "note.txt", "new")
    left = {"film.mkv.part", "y.somehost-17-0a1b2c3d.part", "note.txt"}
    assert {file.name for file in tmp_path.iterdir()} == left


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with contextlib.suppress(ZeroDivisionError), places.making(tmp_path / "made") as part:
        (part / "one").write_text(f"{1 / 0}")
    assert list(tmp_path.iterdir()) == []
    with places.making(tmp_path / "made") as part:
        (part / "one").write_text("one")
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["one"]


def test_a_full_disk_is_told_with_the_file_that_was_not_written(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device, so that nothing was written: .*note\.txt"):  # noqa: SIM117
        with places.writing(tmp_path / "note.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


OF_UNITS = ("unit.compute", "partial(_result, there)")


def keeps(tree):
    """The calls of `Store.keep` in a module, each with the function around it; `findings.keep` is of a module. What
    `work` keeps are units: where these are made, they have their inputs."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    modules = {alias.asname or alias.name for node in imports for alias in node.names}
    for scope in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for call in ast.walk(scope):
            named = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "keep"
            unit = isinstance(call, ast.Call) and ast.unparse(call.func) == "work.Unit"
            if unit or (
                named and ast.unparse(call.func.value) not in modules and ast.unparse(call.args[-1]) not in OF_UNITS
            ):
                yield scope, call


def keyed(node, scope, seen=()):
    """Whether an expression is made with `results.key(__name__, ...)`, be it by way of a name of its function."""
    for one in ast.walk(node):
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "results.key":
            return ast.unparse(one.args[0]) in ("__name__", "module")  # `swept` is told the name of who asks
        if isinstance(one, ast.Name) and one.id not in seen:
            every = (node for node in ast.walk(scope) if isinstance(node, ast.Assign))
            given = [node.value for node in every if ast.unparse(node.targets[0]) == one.id]
            if any(keyed(value, scope, (*seen, one.id)) for value in given):
                return True
    return False


def unkeyed(source):
    """The lines of the calls of `Store.keep` whose inputs do not come from `results.key`."""
    found = keeps(ast.parse(source))
    inputs = ((scope, call, call.args[1] if len(call.args) > 1 else call.keywords[0].value) for scope, call in found)
    known: dict[int, bool] = {}
    for scope, call, given in inputs:  # a function in a function has the names of that one, too
        known[call.lineno] = known.get(call.lineno, False) or keyed(given, scope)
    return [line for line, good in known.items() if not good]


@pytest.mark.parametrize("file", LIB, ids=lambda file: file.stem)
def test_every_stored_result_has_a_key_with_the_code_the_device_and_all_else(file):
    assert unkeyed(file.read_text(encoding="utf-8")) == []


def test_a_key_made_by_hand_is_noticed():
    call = "def f(store):\n    inputs = {}\n    return store.keep('x', {}, g)\n"
    good = "results.key(__name__, 1)"
    assert unkeyed(call.replace("{}", good)) == []
    assert unkeyed(call.replace("'x', {}", "'x', {**inputs, 'n': 1}").replace("{}", good)) == []
    assert unkeyed(call) == [3]
    assert unkeyed(call.replace("'x', {}", "'x', inputs | {'n': 1}").replace("{}", "{'code': results.code('a')}")) == [
        3
    ]
    assert unkeyed(call.replace("{}", "results.key('other', 1)")) == [3]


class OnDevice(torch.Tensor):
    """A tensor that says it is elsewhere: it can be worked with beside its like, or fetched, and nothing else."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ == "cpu":
            return args[0].as_subclass(torch.Tensor)
        if any(type(value) is torch.Tensor and value.dim() for value in args):
            raise RuntimeError("expected all tensors to be on the same device")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_what_was_computed_on_a_device_and_what_was_stored_before_can_be_worked_with_together(tmp_path):
    for store in (results.Store(tmp_path), results.Store(None)):
        before = store.keep("clean", {"n": 1}, lambda: {"x": torch.ones(3).as_subclass(OnDevice)})["x"]
        stored = results.Store(tmp_path).keep("clean", {"n": 1}, lambda: {"x": torch.ones(3)})["x"]
        fresh = store.keep("sweep", {"n": 2}, lambda: {"x": torch.zeros(3).as_subclass(OnDevice)})["x"]
        assert torch.equal(fresh - before, fresh - stored)


def test_the_tensor_that_says_it_is_elsewhere_refuses_to_be_mixed():
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3).as_subclass(OnDevice) - torch.ones(3)


def test_a_result_of_a_single_prompt_is_kept_whatever_its_strides(tmp_path):
    column = torch.rand(3, 4)[:, :1]  # as a cut of a larger table
    compute = {"x": column, "y": torch.rand(4, 4)[:1].T[:1], "z": torch.zeros(0, 3)}
    kept = results.Store(tmp_path).keep("column", {"n": 1}, lambda: compute)
    again = results.Store(tmp_path).keep("column", {"n": 1}, lambda: pytest.fail("it was not kept"))
    assert all(torch.equal(kept[name], value) and torch.equal(again[name], value) for name, value in compute.items())
    assert values.digest(column) == values.digest(column.clone(memory_format=torch.contiguous_format))
