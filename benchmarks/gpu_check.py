"""What a CUDA card makes of the engine, in one call: is it the CPU's numbers, and what do four rounds cost at 7B?

`python benchmarks/gpu_check.py` on any machine with a CUDA card, this checkout and the engine's dependencies; weights
are random, nothing is fetched. `--rehearse` is the same with a tiny shape on the CPU. One JSON line a stage, and all of
them in --out after each, so that a call which is cut off still tells what it found:

- `versions`, and the card
- `method`: every method by both executors on a tiny model, here beside the CPU
- then in fp32, TF32 and bf16: `ceiling`, the card's own rate of matrix products; `build`; `equal`, some heads of each
  round of path patching at Llama-7B's shape, replay beside definition; `round`, all senders of a round, with the share
  of the ceiling; `rounds`, all four, in seconds for 300 examples (of fewer, in proportion), and the memory they took.

A method or a round whose numbers are `apart` by more than `within`, or a stage that broke, makes it end with 1.
"""

import argparse
import functools
import json
import statistics
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]  # so that nothing has to be installed

import tiny  # noqa: E402
import torch  # noqa: E402
from entity_circuits import boxes, models, path_patching, replay, runs  # noqa: E402
from entity_circuits.heads import Head  # noqa: E402
from entity_circuits.models import precision  # noqa: E402
from entity_circuits.tasks.rounds import Round  # noqa: E402
from every_method import METHODS, WITHOUT_EXECUTOR, Given  # noqa: E402

PRECISIONS = {"fp32": (torch.float32, "highest"), "tf32": (torch.float32, "high"), "bf16": (torch.bfloat16, "highest")}


@dataclass(frozen=True)
class Shape:
    """That of Llama-7B, unless told otherwise."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    mlp: int = 11008
    words: int = 32000

    def receivers(self) -> dict[str, tuple[Head, ...]]:
        """As many heads as the paper's groups have, where in the depth such groups were found."""
        places = {"value_fetcher": (16, 31, 20), "position_transmitter": (15, 21, 5), "position_detector": (10, 16, 10)}
        found = {}
        for group, (low, high, many) in places.items():
            layers = [round((low + i * (high - low) / (many - 1)) * (self.layers - 1) / 31) for i in range(many)]
            found[group] = tuple(sorted({Head(layer, 7 * i % self.heads) for i, layer in enumerate(layers)}))
        return found

    def operations(self, asked: Round, n: int, tokens: int, tail: int) -> int:
        """Multiplications and additions of one round, by its matrix products alone; `tail` tokens are recomputed."""
        width, mlp, heads = self.width, 6 * self.width * self.mlp, self.heads
        if asked.into is None:
            each = [self._frozen(low, self.layers) + 2 * width * self.words for low in range(self.layers)]
            return n * heads * sum(each)
        layers, total = sorted({head.layer for head in self.receivers()[asked.into]}), 0
        for low in range(max(layers)):
            above = [layer for layer in layers if layer > low]
            total += self._frozen(low, max(above) + 1) + 2 * width**2 * len(above)  # pass 1
            free = 8 * width**2 + mlp + 4 * width * tokens  # pass 2, a token and a layer
            last = mlp + 4 * width * tokens + 2 * width**2 * (3 * tail + 1)
            total += (self.layers - 1 - min(above)) * tail * free + last + 2 * width * self.words
        return n * heads * total

    def _frozen(self, low: int, top: int) -> int:
        """Of one sender: the MLPs from its layer up, its own output, and the held ones, which are made once for all."""
        held = (top - low - 1) / self.heads
        return round((top - low) * 6 * self.width * self.mlp + 2 * self.width**2 * (1 + held))


class Report:
    """Lines of JSON, printed and kept."""

    def __init__(self, file: Path) -> None:
        self.file, self.begin = file, time.perf_counter()
        self.rows: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin

    def say(self, stage: str, **what: Any) -> None:
        self.rows.append({"stage": stage, "at_s": round(self.seconds, 1), **what})
        print(json.dumps(self.rows[-1]), flush=True)
        self.file.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")

    def failed(self, stage: str, error: Exception, **what: Any) -> None:
        """A stage that broke, and where in the engine; the others go on."""
        told = traceback.extract_tb(error.__traceback__)
        lines = [f"{Path(one.filename).name}:{one.lineno}" for one in told if "entity_circuits" in one.filename]
        self.say(stage, **what, ok=False, error=f"{type(error).__name__}: {str(error)[:300]}", at=lines[-3:])


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def on(device: torch.device) -> Given:
    """Tiny models on a device."""
    pair = []
    for seed in (0, 1):
        made = tiny.subject("qwen2", seed=seed)
        pair.append(models.wrap(made.model.to(device), made.tokenizer, name=made.name, fingerprint=f"tiny-{seed}"))
    return Given(*pair)


def methods(report: Report, device: torch.device) -> None:
    """Every method on the device beside the CPU; `apart` is the largest difference, `within` what it may be."""
    here, there = on(torch.device("cpu")), on(device)
    works: dict[str, Any] = {name: functools.partial(work) for name, work in WITHOUT_EXECUTOR.items()}
    for name, work in METHODS.items():
        works |= {f"{name}, {way}": functools.partial(lambda g, work, way: work(g, way), work=work, way=way)
                  for way in ("replay", "definition")}  # fmt: skip
    for name, work in works.items():
        try:
            found, wanted = work(there).cpu().float(), work(here).float()
            within = 10 * precision.tolerance(torch.float32, device)
            apart = float((found - wanted).abs().nan_to_num().max())
            report.say("method", what=name, ok=apart < within, apart=apart, within=within)
        except Exception as error:  # the others are still to be seen
            report.failed("method", error, what=name)


def rate(rows: int, width: int, out: int, dtype: torch.dtype, device: torch.device, seconds: float = 0.5) -> float:
    """Operations a second of x @ W.T on random numbers: the median of timed products."""
    weight = torch.randn(out, width, dtype=dtype, device=device)
    inputs = [torch.randn(rows, width, dtype=dtype, device=device) for _ in range(4)]
    times: list[float] = []
    for x in inputs:
        torch.nn.functional.linear(x, weight)
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        sync(device)
        begin = time.perf_counter()
        for x in 2 * inputs:
            torch.nn.functional.linear(x, weight)
        sync(device)
        times.append((time.perf_counter() - begin) / 8)
    return 2 * rows * width * out / statistics.median(times)


def build(shape: Shape, dtype: torch.dtype, device: torch.device) -> models.Subject:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**{
        **tiny.SHAPE, "vocab_size": shape.words, "hidden_size": shape.width, "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads,
        "initializer_range": 0.02,
    })  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return models.wrap(model, tiny.tokenizer(), name="the shape of Llama-7B", fingerprint=f"random-{dtype}")


def asked_of(one: Round, shape: Shape) -> dict[str, Any]:
    receivers = shape.receivers()[one.into] if one.into else None
    reach = one.heard_at or "all"
    return {"position": one.position, "receivers": receivers, "composition": one.through, "reach": reach}


def equal(report: Report, subject: models.Subject, shape: Shape, label: str, n: int) -> None:
    """Two senders of each round both ways, from the same recordings.

    A log-probability may be off by what its logit and the sum of all of them may be: twice the tolerance of logits.
    """
    drawn = boxes.experiment(subject, n=n)
    both = (runs.record(subject, drawn.base), runs.record(subject, drawn.source))
    words = torch.arange(shape.words).expand(n, -1)
    size = float(runs.run(subject, drawn.base, targets=words).logits.abs().max())
    within = 2 * precision.tolerance(subject.dtype, subject.device) * size
    for one in drawn.rounds:
        asked = asked_of(one, shape)
        top = max(head.layer for head in asked["receivers"]) if asked["receivers"] else shape.layers
        senders = [Head(int(top * (i + 0.5) / 2), 5 * i % shape.heads) for i in range(2)]
        fast, literal = (
            path_patching.sweep(subject, drawn.base, drawn.source, **asked, senders=senders, recordings=both,
                                method=method).change.nan_to_num()
            for method in ("replay", "definition")
        )  # fmt: skip
        apart = float((fast - literal).abs().max())
        report.say("equal", precision=label, round=one.name, examples=n, senders=len(senders), ok=apart < within,
                   largest_effect=float(literal.abs().max()), apart=apart, within=within)  # fmt: skip


def rounds(
    report: Report, subject: models.Subject, shape: Shape, label: str, n: int, chunk: int, ceiling: float, until: float
) -> None:
    """All senders of all four rounds, in chunks of examples, as far as the time goes."""
    drawn, device = boxes.experiment(subject, n=n), subject.device
    seconds, done, recorded = dict.fromkeys((one.name for one in drawn.rounds), 0.0), 0, 0.0
    tokens, tails = drawn.base.input_ids.shape[1], drawn.base.last - drawn.base.position("query")
    for rows in torch.arange(n).split(chunk):
        begin = time.perf_counter()
        both = tuple(runs.record(subject, p.select(rows), share_context=True) for p in (drawn.base, drawn.source))
        sync(device)
        recorded += time.perf_counter() - begin
        for one in drawn.rounds:
            begin = time.perf_counter()
            base, source = (recording.prompts for recording in both)
            path_patching.sweep(subject, base, source, **asked_of(one, shape), recordings=both)  # type: ignore[arg-type]
            sync(device)
            seconds[one.name] += time.perf_counter() - begin
        done += len(rows)
        if report.seconds > until:
            break
    for one in drawn.rounds:
        tail = 1 if one.position == "last" or one.into == "value_fetcher" else int(tails.max()) + 1
        operations = shape.operations(one, done, tokens, tail)
        report.say("round", precision=label, round=one.name, examples=done, seconds=round(seconds[one.name], 3),
                   tera=operations / 1e12, share_of_ceiling=operations / seconds[one.name] / ceiling)  # fmt: skip
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    report.say("rounds", precision=label, examples=done, chunk=chunk, recording_s=round(recorded, 2), peak_bytes=peak,
               seconds_for_300=round((sum(seconds.values()) + recorded) * 300 / done, 1))  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="a tiny shape on the CPU, in a minute or less")
    parser.add_argument("--seconds", type=float, default=440, help="of it all; what does not fit is said (%(default)s)")
    parser.add_argument("--memory", type=float, default=4e9, help="bytes of a batch of variants (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="the file (%(default)s)")
    given = parser.parse_args(arguments)
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: try --rehearse")
    device = torch.device("cpu" if given.rehearse else "cuda")
    shape = Shape(4, 64, 8, 96, len(tiny.words())) if given.rehearse else Shape()
    n, chunk, big = (14, 7, 256) if given.rehearse else (301, 70, 8192)
    report = Report(given.out)
    named = {name: version(name) for name in ("torch", "transformers", "nnsight", "numpy")}
    report.say("versions", card="none" if given.rehearse else torch.cuda.get_device_name(), **named)
    methods(report, device)
    replay.EXECUTORS["replay"] = functools.partial(replay.replay, memory=given.memory)
    before = torch.get_float32_matmul_precision()
    for label, (dtype, products) in PRECISIONS.items():
        if report.seconds > given.seconds - (0 if given.rehearse else 60):
            report.say("skipped", precision=label)
            continue
        subject = None
        try:
            torch.set_float32_matmul_precision(products)
            ceiling = rate(2048, shape.width, shape.mlp, dtype, device)
            square = rate(big, big, big, dtype, device)
            report.say("ceiling", precision=label, mlp_tera_s=ceiling / 1e12, square_tera_s=square / 1e12)
            begin = time.perf_counter()
            subject = build(shape, dtype, device)
            sync(device)
            size = sum(one.numel() * one.element_size() for one in subject.model.parameters())
            report.say("build", precision=label, seconds=round(time.perf_counter() - begin, 1), bytes=size)
            equal(report, subject, shape, label, 7)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            slow = n if label != "fp32" or given.rehearse else chunk  # the slowest: one chunk tells
            rounds(report, subject, shape, label, slow, chunk, ceiling, given.seconds - 20)
        except Exception as error:  # the other precisions are still to be seen
            report.failed("failed", error, precision=label)
        finally:
            torch.set_float32_matmul_precision(before)
            del subject
            if device.type == "cuda":
                torch.cuda.empty_cache()
    wrong = [row for row in report.rows if row.get("ok") is False]
    report.say("end", wrong=len(wrong))
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
