"""The engine as others install it: as a wheel, in a folder that knows nothing of the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from entity_circuits import places

IN_THE_WHEEL = ["pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"]
OF_THE_BOOK = ["altair", "vl_convert", "datasets", "IPython", "papermill", "nbclient", "nbformat", "sphinx", "bs4"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What the wheel puts into site-packages. It is built from a copy, because building leaves folders behind."""
    pytest.importorskip("setuptools")
    source, made, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheel", "installed"))
    shutil.copytree(places.ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in IN_THE_WHEEL:
        shutil.copy(places.ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*pip, "--wheel-dir", str(made), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, tmp_path: Path, program: str) -> str:
    """What a program prints that has this folder first, a home of its own, and none of the packages of the book."""
    home, here = tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    here.mkdir()
    ours = ("ENTITY_CIRCUITS_", "XDG_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    start = f"import sys; sys.path[:0] = [{str(installed)!r}]; sys.modules.update(dict.fromkeys({OF_THE_BOOK!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", start + program], cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(here.iterdir())
    return done.stdout


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_every_module_and_data_file_of_the_library_is_in_the_wheel(installed):
    kinds = (".py", ".toml", ".csv", ".typed")
    ours = {name for name in files(places.ROOT / "lib") if name.endswith(kinds)}
    assert {"entity_circuits/models/models.toml", "entity_circuits/tasks/objects.csv"} < ours
    assert ours - files(installed) == set()


@pytest.fixture(scope="module")
def used(installed, tmp_path_factory) -> tuple[Path, set[str], str]:
    """One process that imports every public path and makes a sweep: its home, what it left in the package, its words.

    Importing all of it takes seconds, which the tests of this file pay once.
    """
    before, folder = files(installed), tmp_path_factory.mktemp("used")
    program = f"""
from pathlib import Path
import entity_circuits, entity_circuits.path_patching
from entity_circuits import models, boxes, desiderata, runs, replay, path_patching, ablation, knockout, dcm, cmap
from entity_circuits import results, statistics, circuits, interchange, criteria, places, toy
from entity_circuits.heads import Head
from entity_circuits.edits import Edit, Read
from entity_circuits.subjects import wrap, check
ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "entity_circuits"]
assert all(Path(module.__file__).is_relative_to({str(installed)!r}) for module in ours)
assert places.checkout() is None
sys.path.append({str(Path(__file__).parent)!r})
import tiny
subject = tiny.subject(layers=2)
base = boxes.prompts(subject, n=4, boxes=2)
found = path_patching.sweep(subject, base, boxes.noise(subject, base), position="last", store=results.Store())
print(len(ours), results.Store().folder)
"""
    told = run(installed, folder, program)
    return folder / "home", files(installed) - before, told


def test_every_public_path_is_imported_from_the_wheel(used):
    assert int(used[2].split()[0]) > 30


def test_without_a_checkout_the_registry_is_listed_and_only_what_the_book_has_is_refused(installed, tmp_path):
    program = """
from entity_book.build import cli
from entity_circuits import circuits, models, places
print(*models.registry())
assert len(models.describe()) == len(models.registry())
assert cli.main(["models"]) == 0
assert circuits.names() == []
for refused in (
    lambda: models.load("arithmetic"), lambda: circuits.load("code"), lambda: places.ROOT,
    lambda: places.data("paper.json"), lambda: circuits.folder(),
):
    try:
        refused()
    except (models.FetchError, FileNotFoundError) as error:
        print("refused:", error)
assert cli.main(["book", "--execute-only"]) == 1
"""
    told = run(installed, tmp_path, program).splitlines()
    assert "qwen2.5-coder-0.5b" in told[0]
    assert len([line for line in told if line.startswith("refused:")]) == 5


def test_a_sweep_keeps_its_results_in_the_users_folder_and_nothing_in_the_package(used):
    home, left, told = used
    folder = Path(told.split()[1])
    assert folder.is_relative_to(home)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors"}
    assert left == set()
