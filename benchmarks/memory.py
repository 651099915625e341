"""Memory of path patching beside what `entity-circuits plan` reckons: python benchmarks/memory.py [WIDTH ...]

A random model of two layers with Llama-7B's ratios (32 heads, an MLP of 2.69 widths, 32,000 words) is saved and then
loaded in a process of its own, as any model is; there it is asked for a frozen and a free sweep of one layer of senders
on 70 prompts. Told are its peak, what was reckoned, and their ratio. Width 4096, the real one, takes 5 GB.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]  # so that nothing has to be installed

import tiny  # noqa: E402
from entity_circuits import boxes, models, path_patching  # noqa: E402
from entity_circuits.methods import needs  # noqa: E402
from entity_circuits.models import shape  # noqa: E402


def save(width: int, folder: Path) -> None:
    """The random model, with a tokenizer of words."""
    tiny.seven(width).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


def measure(folder: str) -> None:
    """Print the peak of this process after both kinds of sweep, and what was reckoned, in bytes."""
    subject = models.load(folder)
    drawn = boxes.experiment(subject, n=70)
    places = tuple(one.position for one in drawn.rounds)
    recordings = path_patching.Runs(subject, drawn.base, drawn.source, places).whole()
    asked: dict[str, Any] = {"senders": [f"L0H{head}" for head in range(subject.heads)], "recordings": recordings}
    path_patching.sweep(subject, drawn.base, drawn.source, position="last", **asked)
    through: dict[str, Any] = {"receivers": [f"L1H{head}" for head in range(6)], "composition": "v", "reach": "query"}
    path_patching.sweep(subject, drawn.base, drawn.source, position="prev", **through, **asked)
    told = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    took = next(int(line.split()[1]) * 1024 for line in told if line.startswith("VmHWM"))
    tokens = int(drawn.base.last.max()) + 1
    print(took, needs.of(shape.of_config(subject.model.config), examples=70, tokens=tokens).memory)


def main() -> None:
    """Measure each width in a process of its own."""
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
        return
    for width in map(int, sys.argv[1:] or ["1024", "2048"]):
        with tempfile.TemporaryDirectory() as folder:
            for words in (["--save", str(width), folder], ["--measure", folder]):
                done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
            took, told = map(float, done.stdout.split())
            print(f"width {width}: {took / 1e9:.2f} GB taken, {told / 1e9:.2f} reckoned, {told / took - 1:+.1%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--save"]:
        save(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
