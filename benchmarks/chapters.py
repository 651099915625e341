"""Where the seconds and the memory of the chapters go: by kind of operation, and by cell.

    python benchmarks/chapters.py 03 05            # these chapters, as they stand in chapters/
    python benchmarks/chapters.py 03 -p examples 14

Each chapter runs in a process of its own with an empty store of results, its cells one after the other without a
kernel. Every operation of torch is timed by what it is; what is left of a cell's seconds is Python, reading files and
drawing. Prints a table a chapter; --json FILE keeps all of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("linear", "vocabulary", "attention", "copies", "elementwise", "rest")
VOCABULARY = 20_000
"""A product with a side longer than this goes through the vocabulary."""
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear", "matmul"}
ATTENTION = ("scaled_dot_product", "_scaled_dot_product", "softmax", "_softmax")
COPIES = ("copy_", "_to_copy", "clone", "cat", "stack", "index", "gather", "scatter", "repeat", "new_", "zeros", "fill")


def kind(name: str, tensors: list[Any]) -> str:
    """What one operation of torch is counted as, by its name and what it is given."""
    if name in PRODUCTS:
        sides = {side for one in tensors for side in one.shape}
        if max(sides) >= VOCABULARY:
            return "vocabulary"
        return "attention" if name in ("bmm", "baddbmm") else "linear"
    if name.startswith(ATTENTION):
        return "attention"
    return "copies" if name.startswith(COPIES) else "elementwise"


def timed_mode(seconds: dict[str, float]) -> Any:
    """A torch mode that adds the seconds of each operation to its kind."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Timed(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            begin = time.perf_counter()
            out = function(*args, **(kwargs or {}))
            spent = time.perf_counter() - begin
            given = [one for one in args if isinstance(one, torch.Tensor)]
            seconds[kind(function.__name__.partition(".")[0], given) if given else "copies"] += spent
            return out

    return Timed()


def resident() -> float:
    """GiB of this process now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 2**20
    return float("nan")


class Peak:
    """The largest `resident()` since the last `take`, looked at every 20 ms."""

    def __init__(self) -> None:
        self.most = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.most = max(self.most, resident())
            time.sleep(0.02)

    def take(self) -> float:
        """GiB, and begin anew."""
        most, self.most = max(self.most, resident()), 0.0
        return most


def run(path: Path, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one chapter here; for each cell its seconds by kind and its peak."""
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    rows, peak = [], Peak()
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells):
        seconds: dict[str, float] = defaultdict(float)
        begin = time.perf_counter()
        with redirect_stdout(StringIO()), timed_mode(seconds):
            result = shell.run_cell(cell.source)
        total = time.perf_counter() - begin
        if result.error_before_exec or result.error_in_exec:
            raise SystemExit(f"{path.stem}, cell {number}: {result.error_before_exec or result.error_in_exec!r}")
        if "parameters" in cell.metadata.get("tags", []):
            shell.push(parameters)
        seconds["rest"] = total - sum(seconds.values())
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        rows.append({"cell": number, "line": first, "seconds": total, "peak_gib": peak.take(), **seconds})
        print(f"  {path.stem} {number:3} {total:7.1f} s {rows[-1]['peak_gib']:6.2f} GiB  {first[:70]}", file=sys.stderr)
    return rows


def told(chapter: str, rows: list[dict[str, Any]]) -> str:
    """One chapter's line of the table."""
    total = sum(row["seconds"] for row in rows)
    parts = "  ".join(f"{one} {sum(row.get(one, 0.0) for row in rows):.1f}" for one in KINDS)
    return f"{chapter:22} {total:7.1f} s  peak {max(row['peak_gib'] for row in rows):5.2f} GiB   {parts}"


def main() -> None:
    """Profile the chapters that are named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="+")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    paths = [path for name in asked.chapters for path in sorted((ROOT / "chapters").glob(f"{name}*.ipynb"))]
    if asked.here:
        rows = run(paths[0], {name: json.loads(value) for name, value in asked.p})
        asked.json.write_text(json.dumps(rows), encoding="utf-8")
        return
    found = {}
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "rows.json"
            words = [sys.executable, __file__, path.stem, "--here", "--json", str(kept)]
            words += [word for pair in asked.p for word in ("-p", *pair)]
            import os

            environment = os.environ | {"ENTITY_CIRCUITS_RESULTS": f"{folder}/results"}
            subprocess.run(words, check=True, cwd=ROOT, env=environment)
            found[path.stem] = json.loads(kept.read_text(encoding="utf-8"))
        print(told(path.stem, found[path.stem]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
