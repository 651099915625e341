"""Which faults in the engine's core the tests see: a random sample of mutants, made and run by mutmut.

mutmut belongs to no environment of this project: `pip install mutmut==3.8.1` into one that sees the project's packages.

    python benchmarks/mutants.py methods --work /tmp/mutants             # goes on where it was stopped
    python benchmarks/mutants.py methods --work /tmp/mutants --again     # survivors, against the tests as they are now

Not counted are mutants of messages (a line that raises, or with a string of three words or more), of progress bars, and of
the sizes that only set speed (`memory`, `batch`). mutmut makes none of docstrings, annotations, `len`, `isinstance`,
properties and other decorated functions.
"""

import argparse
import importlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The modules of each part, and the tests that are about them: those that see most, soonest.
PARTS = {
    "runs": (
        "entity_circuits/runs: blocks replay attending mean_replay attention_inputs projected recording definition edits",
        "test_replay.py test_runs.py test_parts.py test_families.py",
    ),
    "methods": (
        "entity_circuits/methods: path_patching scores metrics kept masks interchange cmap_edits screening",
        "test_path_patching.py test_cmap.py test_dcm.py test_ablation.py test_heads_and_methods.py test_prompts.py",
    ),
    "statistics": ("entity_circuits: statistics", "test_statistics.py"),
    "claims": ("entity_book/claims: verdicts findings claims", "test_claims.py test_findings.py"),
}
UNCOUNTED = [r"^\s*raise\b", r"""["'][^"' ]+ [^"' ]+ [^"']+["']""", r"\btqdm\(", r"\b(memory|batch)(_\w+)?: [^=]+ = "]
KILLED = ("killed", "timeout", "segfault", "suspicious")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--work", type=Path, required=True, help="a folder outside the repository, kept between calls")
    parser.add_argument("--share", type=float, default=0.1, help="of the mutants, 15 to 50 a module (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run the survivors once more")
    parser.add_argument("-k", default="not fetch", help="the tests to choose, as pytest's -k does (%(default)s)")
    given = parser.parse_args()

    folder, modules = PARTS[given.part][0].split(": ")
    files = [f"src/{folder}/{module}.py" for module in modules.split()]
    work = given.work / given.part
    _copy(work, files, PARTS[given.part][1].split(), given.k)
    os.chdir(work)  # mutmut reads its settings where it runs

    sample = {file: _sample(file, given.share, given.seed) for file in files}
    done = _results(files)
    again = [name for name, status in done.items() if given.again and status not in KILLED]
    to_run = [name for _, names in sample.values() for name in names if name not in done or name in again]
    if to_run and given.part == "claims" and Path("mutants/src").exists():
        _each_from_its_import(to_run, given.k)
    elif to_run:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)  # else the tests import the code without mutants
        command = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", "run", "--max-children", "1"]
        subprocess.run([*command, *to_run], env=environment, check=True)

    done = _results(files)
    for file, (made, names) in sample.items():
        left = [name for name in names if done.get(name) not in KILLED]
        print(f"{file.removeprefix('src/')}: {made} made, {_share(len(names) - len(left), len(names))}")
        print("".join(f"    {done.get(name, 'not run')}: mutmut show '{name}'\n" for name in left), end="")
    everything = [name for _, names in sample.values() for name in names]
    print(f"{given.part}: {_share(sum(done.get(name) in KILLED for name in everything), len(everything))}")


def _copy(work: Path, files: list[str], tests: list[str], chosen: str) -> None:
    """The repository as mutmut takes it: the library in `src`, whose name it leaves out of a module's."""
    for folder, target in {"lib": "src", "tests": "tests", "data": "data", "chapters": "chapters"}.items():
        shutil.copytree(ROOT / folder, work / target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {
        "source_paths": ["src"],
        "only_mutate": files,
        "do_not_mutate_patterns": UNCOUNTED,
        "also_copy": ["data", "chapters"],
        "pytest_add_cli_args_test_selection": [f"tests/{name}" for name in tests],
        "pytest_add_cli_args": ["-k", chosen, "-p", "no:cacheprovider"],
        "timeout_multiplier": 3.0,
        "timeout_constant": 5.0,
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (work / "pyproject.toml").write_text(
        (ROOT / "pyproject.toml").read_text() + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
    )


def _each_from_its_import(names: list[str], chosen: str) -> None:
    """Rules are made when `claims` is imported, which mutmut does before it chooses the mutant."""
    import pytest

    for module in ("torch", "transformers", "pandas", "IPython"):
        importlib.import_module(module)
    tests = [f"tests/{name}" for name in PARTS["claims"][1].split()]
    for name in ("", *names):
        if not (child := os.fork()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.chdir("mutants")
            os.environ["MUTANT_UNDER_TEST"] = name
            sys.path[:0] = ["src", "tests"]
            os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", chosen, *tests])))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not name:
            assert code == 0, "the tests fail without a mutant"
            continue
        meta = Path("mutants/src", *name.split(".")[:-1]).with_suffix(".py.meta")
        content = json.loads(meta.read_text())
        content["exit_code_by_key"][name] = code
        meta.write_text(json.dumps(content))


def _sample(file: str, share: float, seed: int) -> tuple[int, list[str]]:
    """How many mutants there are of a file, and the names of those drawn."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    names = [
        get_mutant_name(Path(file), name) for name in mutate_file_contents(file, Path(file).read_text()).mutant_names
    ]
    size = min(len(names), 50, max(15, round(share * len(names))))
    return len(names), random.Random(f"{seed} {file}").sample(names, size)


def _results(files: list[str]) -> dict[str, str]:
    from mutmut.__main__ import status_by_exit_code

    kept = [path for file in files if (path := Path("mutants", f"{file}.meta")).exists()]
    codes = {name: code for path in kept for name, code in json.loads(path.read_text())["exit_code_by_key"].items()}
    return {name: status_by_exit_code[code] for name, code in codes.items() if code is not None}


def _share(killed: int, of: int) -> str:
    """With its 95 % Wilson interval."""
    z = 1.96
    middle, half = killed + z * z / 2, z * math.sqrt(killed * (of - killed) / of + z * z / 4)
    low, high = (100 * end / (of + z * z) for end in (middle - half, middle + half))
    return f"{killed} of {of} killed, {100 * killed / of:.0f} % [{low:.0f}, {high:.0f}]"


if __name__ == "__main__":
    main()
