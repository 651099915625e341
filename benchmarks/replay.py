"""The replay against the definition, at full size, on this machine: `make bench`. Nothing else should run beside it.

Prints the wall time and peak memory of whole discoveries with nothing stored, of all heads on all examples and in
stages, whether both hand on the same heads, and the tables of the chapter "What it costs" for all examples and more
sender layers. `--json FILE` keeps the numbers.
"""

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--examples", type=int, default=70)
    parser.add_argument("--stages", type=int, nargs="+", default=[20])
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 4, 8, 12, 16, 20])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-discovery", action="store_true")
    given = parser.parse_args()

    import torch
    from entity_book.build import machine
    from entity_book.studies import cost
    from entity_circuits import models
    from entity_circuits.methods import path_patching
    from entity_circuits.results import Store

    subject = models.load(given.model)
    before = cost.peak_memory()
    begin = time.perf_counter()
    found = path_patching.discover(subject, n=given.examples, store=Store(None))
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    staged = path_patching.discover(subject, n=given.examples, stages=given.stages, store=Store(None))
    staged_seconds = time.perf_counter() - begin
    kept: dict[str, object] = {
        "machine": machine.machine(),
        "threads": torch.get_num_threads(),
        "model": subject.name,
        "examples": given.examples,
        "discovery_seconds": round(seconds, 1),
        "stages": given.stages,
        "staged_seconds": round(staged_seconds, 1),
        "same_heads": staged.circuit.groups == found.circuit.groups,
        "peak_gb": round(cost.peak_memory(), 2),
        "peak_gb_before": round(before, 2),
        "limit_gflops": round(cost.matmul_rate(subject), 1),
    }
    print(json.dumps(kept, indent=1))
    if not given.only_discovery:
        rounds = cost.rounds(found.recordings, found.circuit, layers=given.layers)
        growth = cost.growth(subject)
        print(rounds.round(3).to_string(), growth.round(2).to_string(), sep="\n\n")
        definition = rounds["definition_s"].sum()
        ratios = {"ratio": definition / seconds, "ratio_in_stages": definition / staged_seconds}
        print(
            "\nover the four rounds, recordings included (definition extrapolated from one head a layer), times faster:"
        )
        print(json.dumps(ratios))
        kept |= {"rounds": rounds.to_dict("records"), "growth": growth.to_dict("records"), **ratios}
    if given.json:
        part = given.json.with_suffix(".part")
        part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        part.replace(given.json)


if __name__ == "__main__":
    main()
