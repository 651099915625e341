"""Fixtures of several test files."""

from pathlib import Path

import nbformat
import pytest
from entity_book.build import book, executed
from entity_circuits import places
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
            places.write(executed.path(Path(job.root), job.chapter), executed.sealed(made))
        return [book.Run(job.chapter, "", 0, 0, job.parameters) for job in jobs]

    monkeypatch.setattr(book, "_execute", run)
    return kept
