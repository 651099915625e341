"""Which faults in the engine's core the tests see: a random sample of mutants, made and run by mutmut.

mutmut is in no environment of this project: `pip install mutmut==3.8.1` into one that sees the project's packages.
    python benchmarks/mutants.py methods --work /tmp/mutants          # goes on where it was stopped
    python benchmarks/mutants.py methods --work /tmp/mutants --again  # survivors, against the tests as they are now
Not made: mutants of messages (a line that raises, or with a string of three words), of progress bars, of defaults of
`memory` and `batch`; by mutmut: of docstrings, annotations, `len`, `isinstance`, properties, decorated functions.
Not counted where they survive: `strict=` of a zip, `device=` (there is one here), None for False.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from entity_circuits.statistics import wilson

ROOT = Path(__file__).resolve().parents[1]
RUNS = "blocks replay attending mean_replay attention_inputs projected recording definition edits"
METHODS = "path_patching scores metrics kept masks interchange cmap_edits screening"
FAMILIES = "not fetch and (not test_families or Phi3 or Gemma2 or Cohere2 or GPTNeoX or SmolLM3 or Olmo or parallel)"
PARTS = {  # modules, the tests that are about them, and what -k chooses of these
    "runs": (f"entity_circuits/runs: {RUNS}", "replay runs parts families", FAMILIES),
    "methods": (f"entity_circuits/methods: {METHODS}", "path_patching cmap dcm ablation heads_and_methods prompts", ""),
    "statistics": ("entity_circuits: statistics", "statistics", ""),
    "claims": ("entity_book/claims: verdicts findings claims", "claims findings", "not figure"),
}
NOT_MADE = [r"^\s*raise\b", r"""["'][^"' ]+ [^"' ]+ [^"']+["']""", r"\btqdm\(", r"\b(memory|batch)(_\w+)?: [^=]+ = "]
NOT_COUNTED = r",?\s*(strict|device)=[\w.]+|[\s,]"
KILLED = ("killed", "timeout", "segfault", "suspicious")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--work", type=Path, required=True, help="a folder outside the repository, kept between calls")
    parser.add_argument("--share", type=float, default=0.08, help="of the mutants, 15 to 50 a module (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run the survivors once more")
    given = parser.parse_args()
    modules, tests, chosen = PARTS[given.part]
    files = [f"src/{modules.split(': ')[0]}/{name}.py" for name in modules.split(": ")[1].split()]
    arguments = ["-k", chosen, *(f"tests/test_{name}.py" for name in tests.split())]
    _copy(given.work / given.part, files, arguments)
    sample, done = {file: _sample(file, given.share, given.seed) for file in files}, _results(files)
    stays = KILLED if given.again else done.values()
    _run([name for _, names in sample.values() for name in names if done.get(name) not in stays], arguments)
    done, total = _results(files), [0, 0]
    for file, (made, names) in sample.items():
        left = {name: _difference(name) for name in names if done.get(name) not in KILLED}
        told = {name: lines for name, lines in left.items() if len({re.sub(NOT_COUNTED, "", x) for x in lines}) > 1}
        killed, counted = len(names) - len(left), len(names) - len(left) + len(told)
        total = [total[0] + killed, total[1] + counted]
        print(f"{file[4:]}: {made} made, {len(names)} drawn, {killed} of {counted} killed: {wilson(killed, counted)}")
        for name, (old, new) in told.items():
            print(f"    {done.get(name, 'not run')}: {name}\n        - {old}\n        + {new}")
    print(f"{given.part}: {total[0]} of {total[1]} killed: {wilson(*total)}")


def _copy(work: Path, files: list[str], tests: list[str]) -> None:
    """Go to a copy as mutmut takes it: the library in `src`, which it leaves out of the names of modules."""
    for folder, target in {"lib": "src", "tests": "tests", "data": "data", "chapters": "chapters"}.items():
        shutil.copytree(ROOT / folder, work / target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {"source_paths": ["src"], "only_mutate": files, "do_not_mutate_patterns": NOT_MADE}
    settings |= {"pytest_add_cli_args": tests[:2], "pytest_add_cli_args_test_selection": tests[2:]}
    settings["also_copy"] = ["data", "chapters"]
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    (work / "pyproject.toml").write_text(f"{(ROOT / 'pyproject.toml').read_text()}\n[tool.mutmut]\n{lines}\n")
    os.chdir(work)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.environ.pop("PYTHONPATH", None)  # else the tests import the code without mutants


def _sample(file: str, share: float, seed: int) -> tuple[int, list[str]]:
    mutate_file_contents = import_module("mutmut.mutation.file_mutation").mutate_file_contents
    get_mutant_name = import_module("mutmut.utils.format_utils").get_mutant_name
    names = [get_mutant_name(Path(file), x) for x in mutate_file_contents(file, Path(file).read_text()).mutant_names]
    size = min(len(names), 50, max(15, round(share * len(names))))
    return len(names), random.Random(f"{seed} {file}").sample(names, size)


def _results(files: list[str]) -> dict[str, str]:
    status_by_exit_code = import_module("mutmut.__main__").status_by_exit_code
    kept = [json.loads(path.read_text()) for file in files if (path := Path("mutants", f"{file}.meta")).exists()]
    codes = [item for one in kept for item in one["exit_code_by_key"].items() if item[1] is not None]
    return {name: status_by_exit_code[code] for name, code in codes}


def _difference(name: str) -> tuple[str, str]:
    apply = import_module("mutmut.mutation.diff_apply")
    lines = apply.get_diff_for_mutant(name, path=apply.find_mutant(name).path).splitlines()[2:]
    old, new = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return old, (new if re.sub(r"\bFalse\b", "None", old) != new else old)


def _run(names: list[str], tests: list[str]) -> None:
    command = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", "run", "--max-children", "1"]
    subprocess.run([*command, *names] if names else ["true"], check=True)
    for name in names * ("tests/test_claims.py" in tests):  # rules are made on import, before mutmut chooses the mutant
        command = [sys.executable, "-m", "pytest", "-xq", *tests]
        environment = {**os.environ, "MUTANT_UNDER_TEST": name, "PYTHONPATH": "src"}
        data = import_module("mutmut.mutation.data").SourceFileMutationData(
            path=Path("src", *name.split(".")[:-1]).with_suffix(".py")
        )
        data.load()
        data.exit_code_by_key[name] = subprocess.run(command, cwd="mutants", env=environment).returncode
        data.save()


if __name__ == "__main__":
    main()
