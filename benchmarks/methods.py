"""One mask, one circuit and cross-model patching, by definition and by replay, in one run.

Nothing else should run beside it. Both methods get the same work and include their recordings; the last column is the
largest difference between their numbers (weights of the mask, log-probabilities).
"""

import argparse
import time
from collections.abc import Callable
from typing import get_args

import pandas as pd
import torch
from entity_circuits.runs.replay import Method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", default="code")
    parser.add_argument("--contexts", type=int, default=2, help="seven prompts each (default %(default)s)")
    given = parser.parse_args()

    from entity_book.build import machine
    from entity_book.studies import improvement
    from entity_circuits import models
    from entity_circuits.methods import ablation, cmap, dcm
    from entity_circuits.tasks import boxes, desiderata
    from entity_circuits.tasks.desiderata import SPLITS

    base, tuned = models.load_pair(given.pair)
    found = improvement.circuit_of(tuned, base)
    n = 7 * given.contexts
    prompts, means = boxes.prompts(base, n, split="evaluation"), ablation.means(base, n=n)
    train, judge = (desiderata.triples(base, "object", n, split=SPLITS[part]) for part in ("train", "validation"))

    def mask(method: Method) -> torch.Tensor:
        heads = found.groups["value_fetcher"]
        return dcm.learn(base, heads, train, judge, position="last", steps=10, method=method).trace

    def patched(method: Method) -> torch.Tensor:
        return cmap.sweep(base, tuned, improvement.few(found), prompts, method=method).logprob

    def circuit(method: Method) -> torch.Tensor:
        return ablation.circuit_accuracy(base, found, prompts, means, method=method).logprob

    print(machine.machine(), torch.get_num_threads(), "threads", f"{n} prompts or pairs", sep=", ")
    works = {"one circuit": circuit, "one mask, 10 steps": mask, "CMAP, 6 conditions": patched}
    print(pd.DataFrame([compare(name, run) for name, run in works.items()]).to_string(index=False))


def compare(work: str, run: Callable[[Method], torch.Tensor]) -> dict[str, object]:
    seconds, values = {}, {}
    for method in get_args(Method):
        begin = time.perf_counter()
        values[method] = run(method)
        seconds[method] = time.perf_counter() - begin
    largest = float((values["definition"] - values["replay"]).abs().max())
    row = {"work": work, **{f"{name}_s": value for name, value in seconds.items()}}
    return row | {"ratio": seconds["definition"] / seconds["replay"], "largest_difference": largest}


if __name__ == "__main__":
    main()
