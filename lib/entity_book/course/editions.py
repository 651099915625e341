"""The editions of the course, made from its masters by Otter Assign: for students, teachers and the autograder."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import nbformat
from entity_circuits import places, sums
from tqdm.auto import tqdm

from . import answers, masters

BESIDE = ("checks", "data")
"""What lies beside the notebooks of every edition."""


def home() -> Path:
    """The folder of the masters. Raises `FileNotFoundError` where the package was installed without its checkout.

    print(editions.home().name)
    """
    return places.ROOT / "course"


def make(
    student: Path | None = None,
    teacher: Path | None = None,
    autograder: Path | None = None,
    *,
    source: Path | None = None,
    only: Sequence[str] = (),
) -> list[str]:
    """Write editions into folders that do not exist yet; the names of the notebooks.

    Args:
        student: folder for notebooks without solutions, hidden checks and answers.
        teacher: folder for the same notebooks with all of them.
        autograder: folder for what `otter run` and Gradescope grade with, a zip a notebook.
        source: folder of the masters; the checkout's unless given.
        only: beginnings of names, such as "03"; all masters unless given.

    Raises `ValueError` for a folder that exists, for no edition at all, for a name that no master has, for stored
    answers that are missing, and for an exercise that lacks a part; `RuntimeError` where Otter is missing.

        editions.make(student=Path("for-students"), only=["03"])
    """
    wanted = {"student": student, "teacher": teacher, "autograder": autograder}
    folders = {name: Path(folder) for name, folder in wanted.items() if folder is not None}
    if not folders:
        raise ValueError("say which edition is wanted, and where: --student DIR, --teacher DIR or --autograder DIR")
    if there := [str(folder) for folder in folders.values() if folder.exists()]:
        raise ValueError(
            f"{', '.join(there)} exists: name a folder that does not, so that nothing of yours is overwritten"
        )
    source = home() if source is None else source
    found = sorted(source.glob("[0-9]*.py"))
    chosen = [path for path in found if not only or path.name.startswith(tuple(only))]
    if unknown := [word for word in only if not any(path.name.startswith(word) for path in found)]:
        raise ValueError(
            f"no chapter of the course begins with {', '.join(unknown)}: there are {', '.join(p.stem for p in found)}"
        )
    stored = {path.stem for path in (source / "data").glob("*.safetensors")}
    if lacking := [name for name in answers.FILES if name not in stored]:
        raise ValueError(
            f"stored answers are missing ({', '.join(lacking)}): `entity-circuits course --data` makes them"
        )
    read = {path.stem: masters.for_otter(masters.read(path)) for path in chosen}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for stem, notebook in tqdm(read.items(), desc="chapters", disable=None):
            _assign(notebook, stem, work, source, zipped="autograder" in folders)
        for edition, folder in folders.items():
            _publish(work / edition, folder, () if edition == "autograder" else BESIDE, source)
    return list(read)


def _assign(notebook: object, stem: str, work: Path, source: Path, zipped: bool) -> None:
    """Let Otter split one notebook, and put its parts where they belong."""
    assign = _otter("assign")
    master, out = work / f"{stem}.ipynb", work / "made" / stem
    nbformat.write(notebook, master)
    assign(str(master), str(out), no_run_tests=True, no_pdfs=True)
    for edition, part in (("student", "student"), ("teacher", "autograder")):
        shutil.copytree(out / part, work / edition, dirs_exist_ok=True, ignore=shutil.ignore_patterns("otter_config*"))
    if zipped:
        _zip(out / "autograder" / "tests", stem, work / "autograder", source)


def _otter(command: str) -> Callable[..., None]:
    """A command of Otter, imported by name: it is a package of the extra `course`, and not there for everyone."""
    try:
        return cast("Callable[..., None]", import_module(f"otter.{command}").main)
    except ImportError as error:
        raise RuntimeError(masters.MISSING.format("otter-grader")) from error


def _zip(tests: Path, stem: str, folder: Path, source: Path) -> None:
    """What grades one notebook: its tests, hidden ones too, with the checks and the stored answers."""
    generate = _otter("generate")
    folder.mkdir(exist_ok=True)
    tests, target = tests.resolve(), (folder / f"{stem}.zip").resolve()
    with contextlib.chdir(source):  # Otter takes files of the working directory alone
        beside = [str(path) for name in BESIDE for path in sorted(Path(name).glob("*")) if path.is_file()]
        nothing = {"no_environment": True, "no_requirements": True}
        generate(tests_dir=str(tests), output_path=str(target), files=beside, **nothing)


def _publish(made: Path, folder: Path, beside: Sequence[str], source: Path) -> None:
    """Move an edition to its folder, all at once, with what lies beside its notebooks."""
    for name in beside:
        if (source / name).is_dir():
            shutil.copytree(source / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    if (made / "data").is_dir() and sums.listed(made / "data") is None:
        sums.seal(made / "data")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, folder)
