"""The house holds together: floors, dependencies, stored notebooks, and what the documents promise."""

import ast
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import entity_circuits
import pytest
import yaml
from entity_book.build import cli
from entity_book.build.packages import followed
from entity_circuits import digests, places
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LIB = places.ROOT / "lib"
PACKAGES = ("entity_circuits", "entity_book")
CHAPTERS = sorted((places.ROOT / "chapters").glob("*.ipynb"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "book/how_to.md"]

# Declared, and used otherwise than by an import.
NOT_IMPORTED = {
    "jupyter-book": "started as a program",
    "sphinx-exercise": "named in _config.yml",
    "sphinx-mathjax-offline": "read as files",
    "otter-grader": "imported by name, where it is installed",
    "distributed": "imported by name, where it is installed",
    "playwright": "imported by name, where it is installed",
    "pypdf": "imported by name, where it is installed",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "ruff": "started as a program",
    "mypy": "started as a program",
    "import-linter": "started as a program",
    "pandas-stubs": "types",
    "types-tqdm": "types",
}


# Imported by the engine where it is used, with a sentence that says what to install.
NOT_IN_THE_CORE = {"datasets": "makes tables of prompts for the Hugging Face hub"}

# Files that are run in an environment of their own.
RUN_ELSEWHERE = {"ndif_server.py": "needs ndif, which asks for a later Python than this one"}

PYTHONS = ("3.11", "3.12", "3.13")

# What packages bring that only other versions of Python than this one may need, by their own metadata.
BROUGHT_ELSEWHERE = {
    "aiohttp": ["aiohappyeyeballs", "aiosignal", "attrs", "frozenlist", "multidict", "propcache", "yarl"],
    "aiosignal": ["frozenlist", "typing-extensions"],
    "yarl": ["idna", "multidict", "propcache"],
}


# The house


def modules() -> dict[str, set[str]]:
    """Every module of both packages, with those that it imports, anywhere in its code."""
    files = [path.relative_to(LIB).with_suffix("") for name in PACKAGES for path in (LIB / name).rglob("*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in files]
    return {name: set(digests._read_module(name)[1]) - {name} for name in names}


def test_the_library_imports_in_no_circles():
    graph = modules()
    assert graph["entity_circuits.runs.replay"], "no imports were found at all"
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_engine_names_the_boxes_in_the_folder_of_tasks_alone():
    named = {
        path.relative_to(LIB).as_posix(): found
        for path in (LIB / "entity_circuits").rglob("*.*")  # what models.toml says, too
        if path.parent.name not in ("tasks", "__pycache__") and path != LIB / "entity_circuits" / "__init__.py"
        if (found := re.findall(r"(?im)^.*\bbox(?:es)?\b.*$", path.read_text(encoding="utf-8")))
    }
    assert not named


def test_no_file_of_the_library_is_long():
    long = {path.name: n for path in LIB.rglob("*.py") if (n := len(path.read_text("utf-8").splitlines())) > 350}
    assert not long


BOTH_WAYS = """
import importlib, os, sys
import nnsight, pandas, transformers  # once for all: each name gets a process that has seen nothing of the engine
for name, path in {names!r}.items():
    assert not any(module.partition(".")[0] == "entity_circuits" for module in sys.modules)
    if child := os.fork():
        print(name, os.waitpid(child, 0)[1])
        continue
    try:
        exec(f"import entity_circuits.{{name}} as one; from entity_circuits import {{name}} as other")
        real = importlib.import_module("entity_circuits." + path)
        assert one is other is real
        assert real.__spec__.name == real.__name__
        importlib.reload(real)
    except BaseException as error:
        print(name, repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def imported_both_ways() -> tuple[dict[str, str], str]:
    """How the process ended in which each part was imported both ways, and what they said."""
    program = BOTH_WAYS.format(names=dict(entity_circuits.FRONT_DOOR))
    done = subprocess.run([sys.executable, "-u", "-c", program], capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize("name", sorted(entity_circuits.FRONT_DOOR))
def test_both_ways_to_import_a_part_of_the_engine_give_one_module(name, imported_both_ways):
    ended, said = imported_both_ways
    assert ended[name] == "0", said


def test_neither_the_package_nor_what_executes_chapters_loads_anything_heavy():
    program = "import sys, entity_circuits, entity_book.build.book, entity_book.build.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "pandas", "altair"} & set(loaded)


# Dependencies


def project() -> dict:
    return tomllib.loads((places.ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def declared(*extras: str) -> dict[str, Requirement]:
    """The dependencies of pyproject.toml with these extras (`()`: all of them; `"core"`: none), by name."""
    table = project()["project"]
    chosen = [lines for extra, lines in table["optional-dependencies"].items() if not extras or extra in extras]
    lines = [line for lines in [table["dependencies"], *chosen] for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def pins() -> dict[str, str]:
    lines = (places.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, pinned in found}


def imported(*folders: str, chapters: tuple[Path, ...] = ()) -> dict[str, set[str]]:
    """The packages imported in these folders of the repository and in these chapters, each with the files that do."""
    found_files = [path for folder in folders for path in (places.ROOT / folder).rglob("*.py")]
    found_files = [path for path in found_files if path.name not in RUN_ELSEWHERE]
    sources = {path: path.read_text(encoding="utf-8") for path in found_files}
    for path in chapters:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    own = set(PACKAGES) | {"checks"} | {path.stem for path in sources}  # `checks` lies beside the course
    found: dict[str, set[str]] = {}
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for package in {module.partition(".")[0] for module in modules} - own - sys.stdlib_module_names:
                found.setdefault(package, set()).add(path.name)
    return found


def all_imports() -> dict[str, set[str]]:
    return imported("lib", "tests", "benchmarks", chapters=tuple(CHAPTERS))


@pytest.mark.parametrize(
    ("extras", "found"),
    [
        ("core", lambda: imported("lib/entity_circuits")),
        ("book course", lambda: imported("lib", chapters=tuple(CHAPTERS))),
        ("book course dev", all_imports),
    ],
)
def test_every_imported_package_is_declared(extras, found):
    named, known = packages_distributions(), declared(*extras.split()).keys()
    missing = {
        package: files
        for package, files in found().items()
        if not {canonicalize_name(name) for name in named.get(package, [package])} & known
    }
    assert missing.keys() == (NOT_IN_THE_CORE.keys() if extras == "core" else set()), missing


def test_the_core_declares_nothing_that_the_engine_does_not_import():
    named = packages_distributions()
    used = {
        canonicalize_name(name) for package in imported("lib/entity_circuits") for name in named.get(package, [package])
    }
    assert declared("core").keys() <= used


def test_the_core_is_declared_by_ranges_and_the_book_is_pinned_by_constraints():
    for name, wanted in declared("core").items():
        assert {one.operator for one in wanted.specifier} == {">=", "<"}, name


def test_every_declared_package_is_used():
    named = packages_distributions()
    used = {canonicalize_name(name) for package in all_imports() for name in named.get(package, [package])}
    assert declared().keys() - used == NOT_IMPORTED.keys()


def test_constraints_pin_every_declared_dependency_at_a_version_it_allows():
    pinned = pins()
    assert declared().keys() <= pinned.keys()
    refused = {name for name, wanted in declared().items() if not wanted.specifier.contains(Version(pinned[name]))}
    assert not refused


def test_constraints_pin_all_that_the_dependencies_bring():
    found = followed(declared().values(), BROUGHT_ELSEWHERE, PYTHONS)
    assert len(found) > 100, "the dependencies were not followed"
    assert "yarl" in found, "what only another Python needs was not followed"
    graphics = re.compile(r"(nvidia|cuda)-|triton$")  # of a torch with CUDA, which the book is not made with
    assert {name for name in found if not graphics.match(name)} <= pins().keys()


def test_constraints_hold_plain_versions_only():
    for line in (places.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line


def test_every_pinned_version_but_torch_has_digests():
    text = (places.ROOT / "hashes.txt").read_text(encoding="utf-8")
    found = re.findall(
        r"^([a-z0-9-]+)==([0-9a-z.]+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    assert {name: pinned for name, pinned, _ in found} == {name: one for name, one in pins().items() if name != "torch"}
    assert len(re.findall("^[^# ]", text, re.MULTILINE)) == len(found)


def test_actions_of_the_workflow_are_named_by_commit_with_their_version_beside():
    used = re.findall(r"uses: (.+)$", (places.ROOT / ".github/workflows/ci.yml").read_text("utf-8"), re.MULTILINE)
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in used), used


def test_the_fault_suite_runs_every_week():
    workflow = yaml.safe_load((places.ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["faults"]
    assert workflow[True]["schedule"] and "'schedule'" in job["if"]  # `on` is a truth value in YAML
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make faults KILLS=20"]


def test_what_builds_the_package_is_pinned_too():
    assert project()["build-system"]["requires"] == [f"setuptools=={pins()['setuptools']}"]


def test_the_environment_has_the_pinned_versions():
    installed = {}
    for name in pins():
        try:
            installed[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    assert {name: pins()[name] for name in installed} == installed


# Continuous integration


@pytest.mark.parametrize(("limit", "missing"), [("-1", "browser-tests and course"), ("9", "")])
def test_a_run_that_left_checks_out_begins_its_summary_by_saying_so(tmp_path, limit, missing):
    for name in ("make", "chromium", ".venv/bin/python", ".venv/bin/entity-circuits"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(places.ROOT / ".ci" / "run", tmp_path / ".ci")
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI_LIMIT_MINUTES": limit}
    said = subprocess.run(["bash", script], env=env, capture_output=True, text=True, check=True).stdout
    first = said.split("=== summary\n")[1].splitlines()[0]
    assert first.startswith("INCOMPLETE: ") == bool(missing) and first.endswith(missing)


# What is stored


def stored() -> list[Path]:
    """Every file that is or would be committed."""
    if shutil.which("git") is None or not (places.ROOT / ".git").exists():
        pytest.skip("not a clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=places.ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := places.ROOT / name).is_file()]


def test_no_file_names_a_folder_of_one_machine_or_the_host_of_a_registry():
    hosts = ["pypi" + r"\.org", "python" + r"hosted\.org", "npm" + r"js\.org", "deb" + r"ian\.org"]
    folders = [rf"(?<![\w.~$}}*-])/{folder}/" for folder in ("root", "work", "opt", "home", "Users", "mnt")]
    forbidden = re.compile("|".join(hosts + folders).encode())
    found = {
        str(path.relative_to(places.ROOT)): sorted(set(forbidden.findall(content)))
        for path in stored()
        if forbidden.search(content := path.read_bytes())
    }
    assert not found


def test_no_stored_file_is_large_or_made_by_a_build():
    for path in stored():
        name = path.relative_to(places.ROOT).as_posix()
        assert path.stat().st_size < 8_000_000, name
        assert not name.startswith(("build/", "_build/", ".venv/")), name


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_stored_without_outputs_with_fixed_ids_and_parameters(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in ids), ids
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1


def test_the_chapters_are_those_of_the_table_of_contents():
    contents = (places.ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert re.findall(r"chapters/(\w+)", contents) == [path.stem for path in CHAPTERS] != []


# What the documents promise


def test_the_citation_names_the_paper_its_five_authors_and_a_full_date():
    citation = yaml.safe_load((places.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["authors"]
    datetime.date.fromisoformat(str(citation["date-released"]))
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Prakash", "Shaham", "Haklay", "Belinkov", "Bau"]
    assert (paper["year"], paper["type"]) == (2024, "conference-paper")


def test_version_and_date_are_the_same_everywhere():
    citation = yaml.safe_load((places.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    released = re.search(r"^## \[(\d.*?)\] - (\S+)$", (places.ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released
    assert released.groups() == (citation["version"], str(citation["date-released"]))
    assert citation["version"] == project()["project"]["version"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_a_document_exist(name):
    text = (places.ROOT / name).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^\$ .*$|`[^`\n]+`", text, re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (places.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = set(re.findall(r"\bmake ([a-z]+)", code))
    assert {"book", "test"} <= asked <= targets
    for command in set(re.findall(r"\bentity-circuits ([a-z][a-z-]*)", code)):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0, command


def test_the_readme_has_a_row_for_every_chapter():
    rows = re.findall(
        r"^\| (?:\d+|[A-Z]) \| \[.+\]\((.+)\) \| .+ \|$", (places.ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert rows == [path.relative_to(places.ROOT).as_posix() for path in CHAPTERS]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"])
def test_links_of_a_document_to_files_lead_somewhere(name):
    path = places.ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_variables_of_make_in_the_readme_exist():
    makefile = (places.ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([A-Z_]+) =", makefile, re.MULTILINE))
    asked = set(re.findall(r"\b([A-Z_]+)=", (places.ROOT / "README.md").read_text(encoding="utf-8")))
    assert asked <= known
    assert asked
