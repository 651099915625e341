"""The whole book on a pair of the shape of the paper's: python benchmarks/paper_shape.py [--width 4096] (half an hour)

In a folder of its own, a copy of this checkout without anything executed: a random base of Llama-7B's shape with two
layers, a second model whose weights differ from it a little, and a tokenizer of Llama's form are saved, and every
chapter is executed with them by the command that a reader would give, `entity-circuits book --base --finetuned`, with
the preset `class`. Told are each chapter's seconds and peak, or that it failed, and beside the largest peak what
`entity-circuits plan` reckons for the pair. Width 4096, the real one, takes 6 GB of disk and 9 of memory. Ends with 1
if a chapter failed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]  # so that nothing has to be installed

import tiny  # noqa: E402
from entity_book.build import executed, plan  # noqa: E402
from entity_circuits.tasks import vocabulary  # noqa: E402
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

MADE_FROM = ("lib", "chapters", "data", "_toc.yml", "pyproject.toml", "constraints.txt")
WORDS = 32_000


def tokenizer() -> Any:
    """One of Llama's form: `<s>` before each text, a space before its first word, bytes for what it has no word for.

    Its words are those of the task and of what is written in this repository.
    """
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=specials, show_progress=False)
    inner.train_from_iterator(_texts(), trainer)
    inner.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _texts() -> Iterator[str]:
    """Single words, as a space is no place to cut at for this kind of tokenizer; those of the task often enough."""
    task = " ".join([*vocabulary.objects(), *vocabulary.LABELS, *map(str, range(10))])
    files = [*sorted((ROOT / "lib").rglob("*.py")), *sorted((ROOT / "chapters").glob("*.ipynb"))]
    for text in [task] * 50 + [path.read_text(encoding="utf-8") for path in files]:
        yield from re.findall(r"\w+|[^\w\s]", text)


def save(width: int, folder: Path) -> list[Path]:
    """The pair, each as a folder that `models.load` takes."""
    made, reader, paths = tiny.seven(width, WORDS), tokenizer(), [folder / "base", folder / "tuned"]
    for path in paths:
        made.save_pretrained(path)
        reader.save_pretrained(path)
        tiny.tuned(made)
    return paths


def copied(folder: Path) -> Path:
    """What chapters are made from, without anything that was executed."""
    folder.mkdir()
    for name in MADE_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def command(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`entity-circuits` of that checkout, which keeps its results there. What it says meanwhile is shown."""
    environment = {name: value for name, value in os.environ.items() if name != "ENTITY_CIRCUITS_RESULTS"}
    environment["PYTHONPATH"] = str(checkout / "lib")
    given = [sys.executable, "-m", "entity_book", *words]
    return subprocess.run(given, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)


def planned(checkout: Path, base: Path, tuned: Path) -> tuple[float, str]:
    """Bytes that the pair is said to need, and the words that say it."""
    told = command(checkout, "plan", str(base), str(tuned), "--gflops", "100").stdout
    line = re.search(r"^memory +([\d.]+) GB.*\n.*$", told, re.MULTILINE)
    if line is None:
        raise SystemExit(f"the plan says nothing of memory:\n{told}")
    return float(line[1]) * 1e9, line[0]


def main() -> int:
    """Execute the chapters; one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--only", nargs="+", help="these chapters, by their beginnings")
    parser.add_argument("--keep", type=Path, help="a folder to make for it all, which stays; taken up if it is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = (asked.keep or Path(passing, "made")).resolve()
        base, tuned = folder / "base", folder / "tuned"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            save(asked.width, folder)
        shutil.rmtree(folder / "book", ignore_errors=True)
        checkout = copied(folder / "book")
        failed, peaks = [], [0]
        for name in plan.chosen(plan.chapters(checkout), asked.only):
            # With the first chapter, which is not run again, because some take no pair by themselves.
            words = ("book", "--execute-only", "--preset", "class", "--only", "01_dataset", "--only", name)
            done = command(checkout, *words, "--base", str(base), "--finetuned", str(tuned))
            run = executed.run(checkout, name)
            if done.returncode or run is None:
                failed.append(name)
                print(f"{name:22} failed", flush=True)
                continue
            peaks.append(run.peak_bytes)
            print(f"{name:22} {run.seconds:7.1f} s  peak {run.peak_bytes / 1e9:5.2f} GB", flush=True)
        reckoned, line = planned(checkout, base, tuned)
        print(f"{line}\nlargest peak {max(peaks) / 1e9:.2f} GB, {reckoned / 1e9:.1f} reckoned")
        print(f"{len(failed)} chapters failed{': ' * bool(failed)}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
