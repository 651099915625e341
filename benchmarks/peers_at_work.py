"""What each peer of `peers.py` does, in a process of its own: `python peers_at_work.py PEER FOLDER`.

`replay` goes first and writes down what all are asked: tokens, receivers, senders, one edge. The others read it. Each
writes its seconds, its peak memory, and the effects that it found: the change of log p(answer) in every prompt.
`hooks` and `lens` import nothing of this project's library.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import by_hooks
import torch
import transformers

Given = dict[str, Any]
"""What is asked and what was found, as JSON: the processes share nothing else."""


class _Enough(Exception):
    """Raised by the metric that TransformerLens calls after every pair of heads: enough pairs are done."""


def replay(given: Given, folder: Path) -> Given:
    """The engine's replay, on all heads; and what the others are asked, with the edge by an edit of the engine."""
    from entity_book.build.chapter import machine
    from entity_circuits import models, tasks
    from entity_circuits.methods import path_patching
    from entity_circuits.models.precision import fast_float32
    from entity_circuits.runs.replay import replay as replayed

    subject = models.load(given["model"])
    with fast_float32(subject):
        given["kernels"] = torch.get_float32_matmul_precision()
    drawn = tasks.default.experiment(subject, given["prompts"], seed=given["seed"])
    base, source = drawn.base, drawn.source
    given |= {"folder": str(models.fetch(given["model"])), "tokens": base.input_ids.shape[1]}
    given |= {"layers": subject.layers, "heads": subject.heads, "rounds": []}
    for name, prompts in (("base", base), ("source", source)):
        answer = prompts.answer_ids.clamp(min=0).tolist()  # a source has none, and none is read
        given[name] = {"ids": prompts.input_ids.tolist(), "last": prompts.last.tolist(), "answer": answer}
    recordings, found = _recorded(subject, drawn)
    clean = replayed(recordings[0], [[]]).logprob[0]
    receivers: list[list[int]] = []
    for one in drawn.rounds[:2]:
        asked = {"name": one.name, "position": one.position, "through": one.through, "receivers": receivers}
        asked |= {"here": base.position(one.position).tolist(), "there": source.position(one.position).tolist()}
        top = max((layer for layer, _ in receivers), default=subject.layers)
        every = [[layer, head] for layer in range(top) for head in range(subject.heads)]
        found["rounds"].append(_engine_round(recordings, {**asked, "senders": every}, "replay"))
        change = torch.tensor(list(found["rounds"][-1]["effects"].values())).view(top, subject.heads, len(base))
        strongest = change.mean(-1).abs().argmax(-1).tolist()  # numbers near zero would agree whatever was computed
        layers = torch.linspace(0, top - 1, min(given["sample"], top)).round().int().tolist()
        given["rounds"].append(asked | {"top": top, "senders": [[layer, strongest[layer]] for layer in layers]})
        k = max(1, round(one.share * subject.layers * subject.heads))
        ranking = path_patching.Scores(change, clean, clean > -1, base.contexts).ranking()
        receivers = [[x.layer, x.head] for x in ranking if x.layer][:k]  # none sends to layer 0
    into = given["rounds"][1]["receivers"][0][0]
    given["edge"] = {"sender": [into - 1, strongest[into - 1]], "layer": into}
    found["peak_gb"] = _peak()
    _write(folder / "given.json", given)
    return found | _edge_by_edit(given, recordings) | {"machine": machine()}


def _edge_by_edit(given: Given, recordings: Any) -> Given:
    """The direct edge to each head of a layer, as an edit of its queries; to the first receiver the path, too."""
    from entity_circuits.heads import Head
    from entity_circuits.runs.edits import Edit
    from entity_circuits.runs.replay import replay

    later, edge, subject = given["rounds"][1], given["edge"], recordings[0].subject
    (layer, head), into, here = edge["sender"], edge["layer"], _tensor(later["here"])
    base, source = (by_hooks.record(subject.model, _batch(given[name])) for name in ("base", "source"))
    queries = by_hooks.direct_inputs(subject.model, base, source, (layer, head), into, here, _tensor(later["there"]))
    queries = queries.unflatten(-1, (subject.heads, subject.head_size))
    edits = [[Edit("q", into, (to,), here, queries[:, [to]])] for to in range(subject.heads)]
    after = replay(recordings[0], edits).logprob - replay(recordings[0], [[]]).logprob
    one_pair = {**later, "receivers": later["receivers"][:1], "senders": [[layer, head]]}
    path = _engine_round(recordings, one_pair, "replay")
    ((_, effect),) = path["effects"].items()
    return {"edge": {str(Head(into, to)): row.tolist() for to, row in enumerate(after)}, "path": effect}


def definition(given: Given, folder: Path) -> Given:
    """The engine's definition, on the sample of heads."""
    from entity_circuits import models, tasks

    subject = models.load(given["model"])
    recordings, found = _recorded(subject, tasks.default.experiment(subject, given["prompts"], seed=given["seed"]))
    found["rounds"] = [_engine_round(recordings, one, "definition") for one in given["rounds"]]
    return found


def _recorded(subject: Any, drawn: Any) -> tuple[Any, Given]:
    from entity_circuits import runs

    before, begin = _peak(), time.perf_counter()
    made = tuple(runs.record(subject, prompts, share_context=True) for prompts in (drawn.base, drawn.source))
    return made, {"peak_gb_before": before, "record_s": time.perf_counter() - begin, "rounds": []}


def _engine_round(recordings: Any, asked: Given, method: Any) -> Given:
    from entity_circuits.heads import Head, by_layer
    from entity_circuits.methods import path_patching
    from entity_circuits.runs.replay import executor

    base, source = recordings
    receivers = [Head(*pair) for pair in asked["receivers"]] or None
    clean = executor(method)(base, [[]]).logprob[0]
    where, through = asked["position"], asked["through"]
    begin, effects = time.perf_counter(), dict[str, torch.Tensor]()
    for layer, numbers in by_layer([Head(*pair) for pair in asked["senders"]]).items():
        after = path_patching.patched(base, source, layer, numbers, where, receivers, through, "all", method)
        effects |= {str(Head(layer, head)): row - clean for head, row in zip(numbers, after, strict=True)}
    return _timed(begin, effects)


def hooks(given: Given, folder: Path) -> Given:
    """The official code's way, on the sample of heads, and the edge."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(given["folder"], dtype=torch.float32).eval()
    found: Given = {"peak_gb_before": _peak(), "rounds": []}
    torch.set_float32_matmul_precision(given["kernels"])
    begin = time.perf_counter()
    base, source = (by_hooks.record(model, _batch(given[name])) for name in ("base", "source"))
    found["record_s"] = time.perf_counter() - begin

    def change(asked: Given, pair: list[int]) -> torch.Tensor:
        places = (_tensor(asked["here"]), _tensor(asked["there"]))
        receivers = [(layer, head) for layer, head in asked["receivers"]]
        return by_hooks.change(model, base, source, (pair[0], pair[1]), *places, receivers, asked["through"] or "q")

    for asked in given["rounds"]:
        begin, effects = time.perf_counter(), {}
        for layer, head in asked["senders"]:
            effects[f"L{layer}H{head}"] = change(asked, [layer, head])
        found["rounds"].append(_timed(begin, effects))
    found["peak_gb"] = _peak()
    later, layer, sender = given["rounds"][1], given["edge"]["layer"], given["edge"]["sender"]
    here, there = _tensor(later["here"]), _tensor(later["there"])
    queries = by_hooks.direct_inputs(model, base, source, (sender[0], sender[1]), layer, here, there)
    found["edge"] = {}
    for head in range(given["heads"]):
        after = by_hooks.received(model, base, here, [(layer, head)], "q", {layer: queries})
        found["edge"][f"L{layer}H{head}"] = (after - base.logprob).tolist()
    torch.set_float32_matmul_precision("highest")
    for asked, done in zip(given["rounds"], found["rounds"], strict=True):
        begin = time.perf_counter()
        change(asked, asked["senders"][0])
        done["default_kernels_s"] = time.perf_counter() - begin
    return found


def lens(given: Given, folder: Path) -> Given:
    """TransformerLens: one sender into every head of one layer, an exact edge a forward pass.

    Its function adds the change at every position and goes on with all later layers. Here the caches that it gets
    differ at one position, and the metric, which it calls after every pair, keeps each prompt's number and stops it.
    """
    bridge, patching = (import_module(f"transformer_lens.{name}") for name in ("model_bridge", "patching"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(given["folder"])
    model = bridge.TransformerBridge.boot_transformers(given["folder"], tokenizer=tokenizer, device="cpu")
    found: Given = {"peak_gb_before": _peak()}
    torch.set_float32_matmul_precision(given["kernels"])
    base, source, later = _batch(given["base"]), _batch(given["source"]), given["rounds"][1]
    layer, head = given["edge"]["sender"]
    name, rows = f"blocks.{layer}.attn.hook_z", torch.arange(len(base.ids))
    begin = time.perf_counter()
    with torch.no_grad():
        (logits, own), (_, other) = (model.run_with_cache(x.ids, names_filter=name) for x in (base, source))
    found["record_s"] = time.perf_counter() - begin
    z = own[name].clone()
    z[rows, _tensor(later["here"])] = other[name][rows, _tensor(later["there"])]

    def logprob(logits: torch.Tensor) -> torch.Tensor:
        return logits[rows, base.last].log_softmax(-1)[rows, base.answer]

    clean, effects, ends = logprob(logits), [], []
    del logits, other  # the logits of all tokens: a gigabyte

    def metric(wanted: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def keep(logits: torch.Tensor) -> torch.Tensor:
            effects.append(logprob(logits) - clean)
            ends.append(time.perf_counter())
            if len(effects) >= wanted:
                raise _Enough
            return effects[-1].mean()

        return keep

    def pairs(wanted: int) -> float:
        begin = time.perf_counter()
        try:
            with torch.no_grad():
                patching.get_act_patch_direct_path(
                    model, base.ids, {name: z}, {name: own[name]}, metric(wanted), layer, head, "q", verbose=False
                )
        except _Enough:
            pass
        return (ends[-1] - begin) / wanted

    found["pair_s"], found["pairs"] = pairs(given["heads"]), given["heads"]
    found["edge"] = {f"L{layer + 1}H{to}": effect.tolist() for to, effect in enumerate(effects)}
    torch.set_float32_matmul_precision("highest")
    effects.clear()
    found["default_kernels_s"] = pairs(1)
    return found


WORK = {"replay": replay, "definition": definition, "hooks": hooks, "lens": lens}


def _timed(begin: float, effects: dict[str, torch.Tensor]) -> Given:
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "heads": len(effects), "effects": {name: x.tolist() for name, x in effects.items()}}


def _batch(given: Given) -> by_hooks.Batch:
    return by_hooks.Batch(*(_tensor(given[name]) for name in ("ids", "last", "answer")))


def _tensor(numbers: list[Any]) -> torch.Tensor:
    return torch.tensor(numbers)


def _peak() -> float:
    """GB that this process has held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _write(path: Path, what: Given) -> None:
    path.write_text(json.dumps(what), encoding="utf-8")


def main() -> None:
    peer, folder = sys.argv[1], Path(sys.argv[2])
    given = json.loads((folder / "given.json").read_text(encoding="utf-8"))
    begin = time.perf_counter()
    found = WORK[peer](given, folder)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"peak_gb": _peak(), **found, "wall_s": time.perf_counter() - begin, "versions": versions}
    _write(folder / f"{peer}.json", found | {"threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
