"""A round of path patching by this project's engine and by others, side by side in one run: `make peers`.

Nothing else should run beside it. Each peer has a process of its own, and all have the same weights, prompts,
receivers, threads and float32 kernels (those that the engine chooses; what PyTorch's default costs stands beside):
    replay      this engine, on all heads
    definition  this engine's whole passes, on a sample of heads
    hooks       the way of the paper's official code, with PyTorch's hooks (`by_hooks.py`), on the same sample
    lens        TransformerLens' direct path patching, one sender into each head of one layer
The last is in no environment of this project. It gets one, `build/peers-venv`, made when it is missing, which sees the
packages of the Python that runs this. The numbers are kept in `peers.json` here, and `book/parts/peers.md` shows them.
"""

import argparse
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PIN = "transformer-lens==4.3.0"
VENV = ROOT / "build" / "peers-venv"
WORK = ROOT / "build" / "peers"
KEPT = ROOT / "benchmarks" / "peers.json"
PAGE = ROOT / "book" / "parts" / "peers.md"
PEERS = {
    "replay": "replay",
    "definition": "definition",
    "hooks": "the official way, with hooks",
    "lens": f"TransformerLens {PIN.partition('==')[2]}, direct edge",
}
QUIET = 0.5
"""A load of the machine before the start above which times are called provisional."""

Effects = Mapping[str, Sequence[float]]
"""Of each head, the change of log p(answer) in every prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="fetched before (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=14, help="a multiple of seven (default %(default)s)")
    parser.add_argument(
        "--sample", type=int, default=8, help="heads for the slow ones, one a layer (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--try", action="store_true", dest="only_tried", help="print the page and keep nothing")
    given = parser.parse_args()
    load = os.getloadavg()[0]  # before an environment is made, which is a load itself
    python = _environment()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    asked = {"model": given.model, "prompts": given.prompts, "sample": given.sample, "seed": given.seed}
    (WORK / "given.json").write_text(json.dumps(asked), encoding="utf-8")
    for peer in PEERS:
        print(f"{peer} ...", flush=True)
        command = [python if peer == "lens" else sys.executable, ROOT / "benchmarks" / "peers_at_work.py", peer, WORK]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        subprocess.run(command, env=environment, check=True)
    found = {name: json.loads((WORK / f"{name}.json").read_text(encoding="utf-8")) for name in PEERS}
    kept: dict[str, Any] = {"date": datetime.date.today().isoformat(), "load_before": round(load, 2)}
    kept["command"] = " ".join(["python benchmarks/peers.py", *sys.argv[1:]])
    kept |= summary(json.loads((WORK / "given.json").read_text(encoding="utf-8")), found)
    if not given.only_tried:
        _write(KEPT, json.dumps(kept, indent=1) + "\n")
        _write(PAGE, page(kept))
    print(page(kept))


def _environment() -> Path:
    """The Python of an environment with TransformerLens, which takes all else from the one that runs this."""
    python, made = VENV / "bin" / "python", VENV / ".made"
    of = f"{PIN}\n{sys.prefix}\n{sys.version}\n"
    if not (made.is_file() and made.read_text(encoding="utf-8") == of):
        print(f"an environment for {PIN}: a minute, the first time", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=True, symlinks=True)
        query = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip())
        (packages / "seen.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-qq"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), PIN], check=True)
        made.write_text(of, encoding="utf-8")
    return python


def summary(given: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of what the peers have written down: who took how long, and how far they are apart.

    Raises `ValueError` if they ran other versions of torch or transformers, or other numbers of threads.
    """
    for what in ("versions", "threads"):
        if any(one[what] != found["replay"][what] for one in found.values()):
            raise ValueError(f"the peers had not the same {what}: {[one[what] for one in found.values()]}")
    kept: dict[str, Any] = {
        name: given[name] for name in ("model", "prompts", "tokens", "layers", "heads", "seed", "kernels")
    }
    kept |= {"threads": found["replay"]["threads"], "versions": {**found["replay"]["versions"], "pinned": PIN}}
    machine = found["replay"]["machine"]
    kept["machine"] = {**machine, "system": machine["system"].partition("-")[0]}  # not which kernel of it
    kept |= {"rounds": [], "agreement": [], "peers": {}}
    for asked in given["rounds"]:
        about = {key: asked[key] for key in ("name", "position", "through")}
        kept["rounds"].append(about | {key: list(map(_head, asked[key])) for key in ("receivers", "senders")})
    sizes = [asked["top"] * given["heads"] for asked in given["rounds"]]
    for name, one in found.items():
        took: dict[str, Any] = {"rounds": []}
        took |= {key: round(one[key], 2) for key in ("peak_gb", "peak_gb_before", "record_s", "wall_s")}
        for size, done in zip(sizes, one.get("rounds", ()), strict=False):
            each = done["seconds"] / done["heads"]
            row = {"measured": done["heads"], "of": size, "each_s": each, "whole_s": each * size}
            took["rounds"].append(row | {k: v for k, v in done.items() if k == "default_kernels_s"})
        kept["peers"][name] = took
    lens, later = found["lens"], given["rounds"][1]
    pairs = sum(layer for layer, _ in later["receivers"]) * given["heads"]
    row = {"measured": lens["pairs"], "of": pairs, "each_s": lens["pair_s"], "whole_s": lens["pair_s"] * pairs}
    kept["peers"]["lens"]["pairs"] = row | {"default_kernels_s": lens["default_kernels_s"]}
    for one, other in (("replay", "definition"), ("hooks", "definition"), ("hooks", "replay")):
        for number, both in enumerate(zip(found[one]["rounds"], found[other]["rounds"], strict=True), 1):
            what = f"round {number}: {PEERS[one]} and {PEERS[other]}"
            kept["agreement"].append({"what": what, **_agreement(both[0]["effects"], both[1]["effects"])})
    sender, receiver = _head(given["edge"]["sender"]), _head(later["receivers"][0])
    for other, name in (("hooks", "hooks"), ("replay", "replay of an edit of q")):
        what = f"direct edges from {sender}: TransformerLens and {name}"
        kept["agreement"].append({"what": what, **_agreement(lens["edge"], found[other]["edge"])})
    ways = {"edge": found["replay"]["edge"][receiver], "path": found["replay"]["path"]}
    mean = {name: sum(effect) / len(effect) for name, effect in ways.items()}
    return kept | {"one_pair": {"sender": sender, "receiver": receiver, **mean}}


def apart(one: Effects, other: Effects) -> tuple[float, str]:
    """The largest difference over the heads that both have and over all prompts, and the head where it is.

    Raises `ValueError` if they have no head in common, not the same prompts, or a number that is none.
    """
    found: list[tuple[float, str]] = []
    for head in one.keys() & other.keys():
        differences = [abs(x - y) for x, y in zip(one[head], other[head], strict=True)]
        if not all(map(math.isfinite, differences)):
            raise ValueError(f"{head} has no number")
        found.append((max(differences), head))
    if not found:
        raise ValueError("no head was measured by both")
    return max(found)


def _agreement(one: Effects, other: Effects) -> dict[str, Any]:
    common = one.keys() & other.keys()
    largest = max(abs(x) for head in common for x in other[head])
    difference, where = apart(one, other)
    return {"heads": len(common), "largest_effect": largest, "largest_difference": difference, "where": where}


def page(kept: Mapping[str, Any]) -> str:
    """The measurement as a part of a page: two tables, and what they were made by."""
    lines = [
        "| way | a piece of work | measured | seconds each | with default kernels | the whole round | peak memory |",
        "| --- " * 7 + "|",
    ]
    for name, one in kept["peers"].items():
        rows = [(f"a head of round {number}", row) for number, row in enumerate(one["rounds"], 1)]
        rows += [("a pair of heads of round 2", one["pairs"])] if "pairs" in one else []
        for what, row in rows:
            slow = f"{row['default_kernels_s']:.2f}" if "default_kernels_s" in row else "–"
            whole = f"{row['of']}, {_time(row['whole_s'])}"
            memory = f"{one['peak_gb']:.1f} GB ({one['peak_gb_before']:.1f} once loaded)"
            cells = [PEERS[name], what, str(row["measured"]), f"{row['each_s']:.3f}", slow, whole, memory]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| what is compared | heads | largest effect | largest difference |", "| --- " * 4 + "|"]
    for row in kept["agreement"]:
        numbers = f"{row['heads']} | {row['largest_effect']:.2g} | {row['largest_difference']:.1g}"
        lines.append(f"| {row['what']} | {numbers} |")
    pair, machine, versions = kept["one_pair"], kept["machine"], kept["versions"]
    receivers = ", ".join(kept["rounds"][1]["receivers"])
    lines += [
        "",
        f"Receivers of round 2: queries of {receivers}. From {pair['sender']} to {pair['receiver']}, mean effect "
        f"by the direct edge {pair['edge']:.2g}, by the path, with the MLPs between, {pair['path']:.2g}.",
        "",
        f"Measured on {kept['date']} with `{kept['command']}`: {kept['model']}, {kept['prompts']} prompts of at most "
        f"{kept['tokens']} tokens; {machine['processor']}, {machine['cores']} cores, torch with {kept['threads']}, "
        f"{machine['system']}, Python {machine['python']}, torch {versions['torch']}, transformers "
        f"{versions['transformers']}, {versions['pinned']}. " + _loaded(kept["load_before"]),
    ]
    return "\n".join(lines) + "\n"


def _loaded(load: float) -> str:
    if load <= QUIET:
        return f"The machine was idle before (load {load:.1f})."
    return f"The machine had other work (load {load:.1f} before the start): the times are provisional."


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _head(pair: Sequence[int]) -> str:
    return f"L{pair[0]}H{pair[1]}"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
