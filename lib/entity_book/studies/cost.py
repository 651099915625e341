"""What an experiment costs: floating-point operations counted, seconds measured, and the machine's own limit.

Everything here is measured where it runs, in one go, so that ratios compare like with like. Nothing else should run
beside it.
"""

import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from entity_circuits import heads, models, runs
from entity_circuits.heads import Circuit, Group, Head
from entity_circuits.methods import path_patching
from entity_circuits.methods.path_patching import Discovery
from entity_circuits.models import sharing
from entity_circuits.models.precision import fast_float32
from entity_circuits.models.subject import Subject
from entity_circuits.runs.recording import Recording
from entity_circuits.runs.replay import Method, executor
from entity_circuits.tasks import boxes as task
from torch.utils.flop_counter import FlopCounterMode

from .discovery import tried


@dataclass(frozen=True)
class Cost:
    """Wall seconds and floating-point operations (a multiply and an add are two) of one piece of work."""

    seconds: float
    operations: float

    @property
    def rate(self) -> float:
        """GFLOP/s."""
        return self.operations / self.seconds / 1e9


def measure(work: Callable[[], object]) -> Cost:
    """Time some work once, its matrix products counted on the way (that takes microseconds for each)."""
    begin = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        work()
    return Cost(time.perf_counter() - begin, float(counter.get_total_flops()))


def matmul_rate(subject: Subject, rows: int = 1024, seconds: float = 2.0) -> float:
    """GFLOP/s of this machine in the product that replay does most: the MLP's, `rows` tokens at a time.

    The median over repetitions, with the kernels that replay uses. It is the limit that a replay can come near to.
    """
    weight = subject.model.model.layers[0].mlp.up_proj.weight
    x = torch.randn(rows, weight.shape[1], dtype=subject.dtype, device=subject.device)
    each = 2.0 * rows * weight.shape[0] * weight.shape[1]
    times: list[float] = []
    with fast_float32(subject), torch.no_grad():
        end = time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            begin = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            if x.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    return each / statistics.median(times) / 1e9


def peak_memory() -> float:
    """GB of memory that this process has held at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def round_cost(
    recordings: tuple[Recording, Recording], circuit: Circuit, group: Group, senders: Sequence[Head], method: Method
) -> Cost:
    """Patch some senders of one layer in the round that finds `group`, with this circuit's heads as receivers.

    In round 4 the definition is timed in its cheapest form, two passes with `reach="all"`; replay confines the reach.
    """
    executor(method)  # an unknown one is told before anything runs
    asked = next(one for one in task.ROUNDS if one.name == group)
    receivers = circuit.groups[asked.into] if asked.into else None
    reach: path_patching.Reach = "query" if group == "structure_reader" and method == "replay" else "all"
    ((layer, numbers),) = heads.by_layer(senders).items()
    where, through = asked.position, asked.through
    return measure(lambda: path_patching.patched(*recordings, layer, numbers, where, receivers, through, reach, method))


def rounds(
    recordings: tuple[Recording, Recording], circuit: Circuit, *, layers: Sequence[int], definition_heads: int = 1
) -> pd.DataFrame:
    """Each round by replay and by definition, same prompts, same receivers, in one run on this machine.

    Replay is timed on all heads of the given sender layers, a layer without a sample taking the nearest layer's cost;
    the definition on `definition_heads` heads of the middle one of them, for it runs whole passes whichever layer
    sends. Both are scaled to all heads that have a path; a round with no sender among those layers has no row. Columns:
    round, senders (those with a path), seconds a head, the ratio, seconds for the whole round, operations a head, and
    the rate of replay as a share of `matmul_rate`.

        table = cost.rounds(recordings, found.circuit, layers=(0, 8, 16))
        print(table[["round", "ratio", "share_of_limit"]])
    """
    subject = recordings[0].subject
    limit = matmul_rate(subject)
    rows = []
    for one in task.ROUNDS:
        group = one.name
        receivers = circuit.groups.get(one.into, ()) if one.into else ()
        top = max((head.layer for head in receivers), default=0) if one.into else subject.layers
        sampled = [layer for layer in layers if layer < top]
        if not sampled:
            continue
        timed: dict[Method, tuple[list[int], int]] = {
            "replay": (sampled, subject.heads),
            "definition": ([sampled[len(sampled) // 2]], definition_heads),
        }
        total: dict[Method, Cost] = {}
        for method, (some, n) in timed.items():
            costs = [
                round_cost(recordings, circuit, group, [Head(layer, head) for head in range(n)], method)
                for layer in some
            ]
            nearest = [min(range(len(some)), key=lambda i: abs(some[i] - layer)) for layer in range(top)]
            share = subject.heads / n
            total[method] = Cost(
                sum(costs[i].seconds for i in nearest) * share, sum(costs[i].operations for i in nearest) * share
            )
        senders_count = top * subject.heads
        rows.append(
            {
                "round": heads.LETTERS[group],
                "senders": senders_count,
                "replay_s_per_head": total["replay"].seconds / senders_count,
                "definition_s_per_head": total["definition"].seconds / senders_count,
                "ratio": total["definition"].seconds / total["replay"].seconds,
                "replay_s": total["replay"].seconds,
                "definition_s": total["definition"].seconds,
                "replay_gflop_per_head": total["replay"].operations / senders_count / 1e9,
                "definition_gflop_per_head": total["definition"].operations / senders_count / 1e9,
                "share_of_limit": total["replay"].rate / limit,
            }
        )
    return pd.DataFrame(rows).assign(limit_gflops=limit)


def in_stages(rounds: pd.DataFrame, found: Discovery) -> pd.DataFrame:
    """The table of `rounds` with `staged_s`: the seconds of replay for the pairs that a discovery in stages patched.

    print(cost.in_stages(cost.rounds(recordings, found.circuit, layers=(0, 8, 16)), found)["staged_s"])
    """
    return rounds.assign(staged_s=rounds["replay_s"] * rounds["round"].map(tried(found).set_index("round")["share"]))


def growth(
    subject: Subject, examples: Sequence[int] = (7, 14, 28), boxes: Sequence[int] = (3, 5, 7, 10), prompts: int = 20
) -> pd.DataFrame:
    """How the time of a layer of senders grows: with the examples, the length of the context, and the receivers.

    One row a setting, `varied` names what differs from the others. Round 1 for the first two, where the sender layer is
    the middle one; queries at `last` received by heads of the last layer for the third. Seconds of replay.
    """
    middle = [Head((subject.layers - 1) // 2, head) for head in range(subject.heads)]
    last = tuple(Head(subject.layers - 1, head) for head in range(subject.heads))
    rows = []

    def add(varied: str, size: int, recordings: tuple[Recording, Recording], receiving: int = 0) -> None:
        group: Group = "position_transmitter" if receiving else "value_fetcher"
        cost = round_cost(recordings, Circuit({"value_fetcher": last[:receiving]}), group, middle, "replay")
        n, tokens = len(recordings[0]), recordings[0].prompts.input_ids.shape[1]
        each = 1000 * cost.seconds / n / subject.heads
        rows.append(
            {"varied": varied, "size": size, "examples": n, "tokens": tokens}
            | {"seconds": cost.seconds, "ms_per_head_and_example": each}
        )

    def recorded(n: int, count: int) -> tuple[Recording, Recording]:
        base = task.prompts(subject, n, count)
        source = task.noise(subject, base)
        return runs.record(subject, base, share_context=True), runs.record(subject, source, positions=[source.last])

    base, source = recorded(max(examples), 7)
    for n in examples:
        first = torch.arange(n)
        add("examples", n, (base.select(first), source.select(first)))
    for receivers in (1, subject.heads // 2, subject.heads):
        add("receivers", receivers, (base, source), receivers)
    for count in boxes:
        add("boxes", count, recorded(prompts // count * count, count))
    return pd.DataFrame(rows)


def both_methods(
    recordings: tuple[Recording, Recording], circuit: Circuit, *, senders: int = 6, seed: int = 0
) -> pd.DataFrame:
    """Some senders of each round, drawn at random, by replay and by definition: how far their scores are apart.

    `largest_effect` and `largest_difference` are relative changes of the right answer's probability, over senders and
    examples. Round 4 is compared with `reach="query"`, as it is run.
    """
    base, source = recordings
    draw, rows = random.Random(seed), []
    for one in task.ROUNDS:
        group, position, composition = one.name, one.position, one.through
        receivers = circuit.groups[one.into] if one.into else None
        top = max((head.layer for head in receivers), default=0) if receivers is not None else base.subject.layers
        able = heads.every(top, base.subject.heads)
        chosen = draw.sample(able, min(senders, len(able)))
        if not chosen:
            continue
        found = [
            path_patching.sweep(
                base.subject,
                base.prompts,
                source.prompts,
                position=position,
                receivers=receivers,
                composition=composition,
                senders=chosen,
                reach="query" if group == "structure_reader" else "all",
                method=method,
                recordings=recordings,
            ).per_example.nan_to_num()
            for method in ("replay", "definition")
        ]
        rows.append(
            {
                "round": heads.LETTERS[group],
                "heads": ", ".join(map(str, sorted(chosen))),
                "examples": len(base),
                "largest_effect": float(found[1].abs().max()),
                "largest_difference": float((found[0] - found[1]).abs().max()),
            }
        )
    return pd.DataFrame(rows)


def in_bfloat16(recordings: tuple[Recording, Recording], layer: int) -> pd.DataFrame:
    """One layer of senders of round 1 with the model as recorded and with its weights rounded to bfloat16.

    Seconds of replay, GFLOP/s of the MLP's product, and how far the heads' mean scores are apart at most.
    """
    half = _halved(recordings[0].subject)
    rows, means = [], []
    senders = [Head(layer, head) for head in range(half.heads)]
    for subject in (recordings[0].subject, half):
        both = recordings
        if subject is half:
            base, source = recordings[0].prompts, recordings[1].prompts
            both = (runs.record(half, base, share_context=True), runs.record(half, source))
        begin = time.perf_counter()
        scores = path_patching.sweep(
            subject, both[0].prompts, both[1].prompts, position="last", senders=senders, recordings=both
        )
        seconds = time.perf_counter() - begin
        means.append(scores.mean[layer].double())
        rows.append({"dtype": str(subject.dtype), "seconds": seconds, "gflops": matmul_rate(subject)})
    apart = float((means[0] - means[1]).abs().max())
    largest = float(means[0].abs().max())
    return pd.DataFrame(rows).assign(largest_score=largest, largest_difference=[0.0, apart])


def _halved(subject: Subject) -> Subject:
    """The model in bfloat16, as loading it would give: what is no weight stays as precise as it is."""
    model = sharing.again(subject.model)
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return models.wrap(model, subject.tokenizer, f"{subject.name} in bfloat16", f"{subject.fingerprint} in bfloat16")
