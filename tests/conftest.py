"""Fixtures of several test files."""

import socket
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from entity_book.build import book, executed
from entity_book.build import kept as copies
from small_book import PARAMETERS, notebook


@pytest.fixture
def house(tmp_path):
    """A repository with one chapter, a library of one file and a data file."""
    for folder in ("chapters", "lib", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_toc.yml").write_text("root: intro\nchapters:\n- file: chapters/01_one\n- file: page\n")
    (tmp_path / "chapters" / "01_one.ipynb").write_text(notebook(PARAMETERS, "print(boxes + seed)"))
    (tmp_path / "lib" / "one.py").write_text("ONE = 1\n")
    (tmp_path / "data" / "words.csv").write_text("apple\n")
    return tmp_path


@pytest.fixture
def pretend(monkeypatch):
    """Chapters count as executed without a kernel: for the tests of what is run, not of how.

    What the fixture gives, {chapter: {key: value}}, is what the chapters keep as findings from then on.
    """
    kept = {}

    def run(jobs, _):
        for job in jobs:
            rows = {key: {"value": value} for key, value in kept.get(job.chapter, {}).items()}
            made = nbformat.v4.new_notebook(metadata={"book": {**job.record, "findings": rows}})
            copies.show(Path(job.root), job.chapter, executed.sealed(made))
        return [book.Run(job.chapter, "", 0, 0, job.parameters) for job in jobs]

    monkeypatch.setattr(book, "_execute", run)
    return kept


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A function that runs a command which has to be refused, in a folder of some files, and gives what it said."""
    from entity_book.build import cli, lock, site
    from entity_book.training import adapters
    from entity_circuits.methods import path_patching

    def worked(*_, **__):
        pytest.fail("work was started")

    works = [(book, "_execute"), (site, "_build"), (adapters, "run"), (lock, "held")]
    for module, name in [*works, (path_patching, "discover"), (socket.socket, "connect")]:
        monkeypatch.setattr(module, name, worked)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, content in {"file": b"x", "list.ipynb": b"[]", "bytes.ipynb": b"\xff\xfe\x00"}.items():
        (tmp_path / name).write_bytes(content)

    def run(command):
        try:
            code = cli.main(command)
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr().err
        assert code in (1, 2), told
        assert "Traceback" not in told
        assert "fault of the program" not in told
        last = told.strip().splitlines()[-1]
        assert last.startswith("entity-circuits") and len(last.split()) > 3, told
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes.ipynb", "file", "list.ipynb"]
        return told

    return run


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.nn.Module, tuple[Any, ...]]]:
    """Each module of any model that runs, and what it is given. A hook would tell the same, and is refused."""
    seen: list[tuple[torch.nn.Module, tuple[Any, ...]]] = []
    ahead = torch.nn.Module.__call__

    def watched(module: torch.nn.Module, *given: Any, **named: Any) -> Any:
        seen.append((module, given))
        return ahead(module, *given, **named)

    monkeypatch.setattr(torch.nn.Module, "__call__", watched)
    return seen


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What each test of the fault suite counted, by `record_property`, at the end all together."""
    counted: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call" and "/faults/" in report.nodeid:
                counted.update(dict(report.user_properties))
    for what, number in counted.items():
        terminalreporter.write_line(f"in all, {what}: {number}")
