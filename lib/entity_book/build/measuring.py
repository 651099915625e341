"""The commands that measure: trainings, circuits, masks, patched models. Each keeps what it measured in a file."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any


def finetune(arguments: argparse.Namespace) -> None:
    """Train an adapter and print its folder."""
    from ..training import adapters, finetune

    given = {"steps": arguments.steps, "learning_rate": arguments.learning_rate}
    options = {name: value for name, value in given.items() if value is not None}
    recipe = finetune.Recipe(arguments.kind, arguments.seed, full=arguments.full, **options)
    _require_device(arguments.device)
    print(adapters.run(recipe, arguments.model, arguments.out, arguments.dtype, arguments.device))


def _require_device(name: str) -> None:
    """Raises `ValueError` for a device that torch does not know or that this machine does not have."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device {name!r}; there are cpu and cuda") from None
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in ("cpu", "cuda", "mps") or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"the device {name!r} cannot be used here; there are cpu and cuda")
    if (device.index or 0) >= there:
        raise ValueError(f"the device {name!r} is not there: this machine, or this build of torch, has {there} of cuda")


def measure_adapters(_: argparse.Namespace) -> None:
    """Measure base and adapters, and print the table."""
    from ..studies import tuning

    path = tuning.measure()
    print(tuning.summary(tuning.measured(path)).round(3).to_string(index=False))


def study(arguments: argparse.Namespace) -> None:
    """Make the runs of a study that are not done, or list them; `--plan` ends with the hours that are left."""
    from ..studies import arithmetic

    if arguments.plan:
        table = arithmetic.table()
        left = table.loc[~table["done"], "minutes"].sum() / 60
        print(table.astype({"done": str}).fillna("").to_string(index=False))
        print(f"{table['done'].sum()} of {len(table)} runs are done; the others take about {left:.1f} hours here")
        return
    for name in arithmetic.go(arguments.hours, arguments.keep):
        print(name)


def measure_scale(arguments: argparse.Namespace) -> None:
    """Ask a model the prompts, store its answers and print the table."""
    from ..studies import scale, scale_circuit

    if arguments.circuit:
        print(scale_circuit.table(scale_circuit.measure(arguments.model)).round(3).to_string(index=False))
        return
    path = scale.measure(arguments.model, arguments.contexts)
    print(scale.table([path]).round(3).to_string(index=False))


def measure_cmap(arguments: argparse.Namespace) -> None:
    """Patch a fine-tuned model into its base, store the result and print it."""
    from entity_circuits import models, results

    from ..studies import improvement

    path = arguments.out or improvement.folder() / f"{arguments.pair}.safetensors"
    _require_place(path)
    short = arguments.brief
    found = improvement.measure(arguments.pair, arguments.contexts, short=short, store=results.Store())
    given = f"entity-circuits measure-cmap {arguments.pair} --contexts {arguments.contexts}" + " --brief" * short
    improvement.keep(found, path, *models.load_pair(arguments.pair), command=given)
    print(found.table().round(3).to_string(index=False))
    print(path)


def measure_draws(arguments: argparse.Namespace) -> None:
    """Patch parts of a circuit and random heads beside them, store the answers and print the comparison."""
    from entity_circuits import models, results

    from ..studies import random_draws

    name, given = arguments.model, {"contexts": arguments.contexts, "count": arguments.draws}
    _require_place(random_draws.folder() / "any")
    found = random_draws.measure(name, **given, store=results.Store())
    command = f"entity-circuits measure-draws {name} --contexts {arguments.contexts} --draws {arguments.draws}"
    pair = models.load(random_draws.BASE), models.load(name)
    random_draws.keep(Path(name).name, found, *pair, command=command)
    print(random_draws.against(found[1]).round(3).to_string(index=False))
    print(random_draws.folder())


def measure_exchange(arguments: argparse.Namespace) -> None:
    """Exchange the outputs of harmful heads between two models, store the answers and print what is lost."""
    from entity_circuits import models, results

    from ..studies import harm, improvement

    name, given = arguments.model, {"contexts": arguments.contexts, "draws": arguments.draws}
    path = harm.folder() / f"{name}.safetensors"
    _require_place(path)
    found = harm.measure(name, **given, store=results.Store())
    command = f"entity-circuits measure-exchange {name} --contexts {arguments.contexts} --draws {arguments.draws}"
    improvement.keep(found, path, *models.load_pair(name), command=command)
    print(harm.shares(found).round(3).to_string(index=False))
    print(path)


def measure_masks(arguments: argparse.Namespace) -> None:
    """Learn masks of two models, store them with their answers and print what they are worth."""
    from entity_circuits import models, results

    from ..studies import kept_masks, worth

    pair = arguments.base, arguments.finetuned
    path = kept_masks.folder() / f"{Path(arguments.finetuned).name}.safetensors"
    _require_place(path)
    found = kept_masks.measure(pair, arguments.contexts, store=results.Store())
    given = f"entity-circuits measure-masks --base {pair[0]} --finetuned {pair[1]} --contexts {arguments.contexts}"
    kept_masks.keep(found, path, [models.load(name).fingerprint for name in pair], given)
    columns = ["model", "group", "desideratum", "heads", "selected", "floor", "whole", "masked", "random", "n"]
    print(worth.table(found.tried)[columns].round(3).to_string(index=False))
    print(path)


def measure_edges(arguments: argparse.Namespace) -> None:
    """Measure the nodes and edges of a model, store them and print how far they agree with the base's."""
    from entity_circuits import results

    from ..studies import wiring

    name = arguments.model
    path = arguments.out or wiring.folder() / f"{name}.safetensors"
    _require_place(path)
    found, subject = wiring.run(name, results.Store())
    wiring.keep(found, path, subject, command=f"entity-circuits measure-edges {name}")
    if (base := wiring.kept(wiring.BASE)) is not None:
        print(wiring.agreement(base, found).round(3).to_string(index=False))
    print(path)


def measure_circuit(arguments: argparse.Namespace) -> None:
    """Find the circuit of nodes of a model, measure it, store the answers and print how they stand."""
    from entity_circuits import models, results

    from ..studies import node_answers

    name = arguments.model
    if name not in models.registry() and name != node_answers.UNTRAINED:
        raise ValueError(f"there is no model {name!r} in the registry; `entity-circuits models` lists them")
    path = arguments.out or node_answers.folder() / f"{name}.safetensors"
    _require_place(path)
    controls = arguments.controls
    given = f"entity-circuits measure-circuit {name}" + " --controls" * controls
    found = node_answers.run(name, path, command=given, controls=controls, store=results.Store())
    print(found.sizes)
    print(path)


def discover(arguments: argparse.Namespace) -> None:
    """Find a circuit, here or with workers, store it and print it."""
    from entity_circuits import circuits, models, places, results
    from entity_circuits.arguments import one_of
    from entity_circuits.methods import path_patching

    name, adapter, wording = arguments.model, arguments.adapter, arguments.wording
    if not arguments.out and (adapter or Path(name).name != name or not places.checkout()):
        raise ValueError(f"say where to write the circuit of {name}: --out FILE.json")
    out = arguments.out or circuits.folder() / f"{name}.json"
    _require_place(out)
    if out.exists():
        circuits.load(out)  # which may be written anew; any other file was not meant
    with _workers(arguments) as executor:
        asked: dict[str, Any] = {"n": arguments.n, "boxes": arguments.boxes, "seed": arguments.seed}
        if wording:
            from ..studies.tuning import OTHER_WORDINGS

            one_of("wording", wording, OTHER_WORDINGS)
            asked["template"] = OTHER_WORDINGS[wording]
        asked |= {"store": results.Store(), "executor": executor}
        found = path_patching.discover(models.load(name, adapter=adapter), **asked)
    command = f"entity-circuits discover {name} --n {arguments.n} --seed {arguments.seed}"
    command += "" if arguments.boxes == 7 else f" --boxes {arguments.boxes}"
    command += f" --wording '{wording}'" if wording else ""
    command += f" --adapter {adapter}" if adapter else ""
    print(circuits.save(found, out, command=command).circuit)
    print(out)


@contextmanager
def _workers(arguments: argparse.Namespace) -> Iterator[Any]:
    """The executor that is asked for, or None; work goes on as many threads as asked for, here or there."""
    import torch
    from entity_circuits.methods import workers

    there, some = arguments.cluster, arguments.workers
    threads = arguments.threads or (1 if there else max(1, (os.cpu_count() or 1) // some) if some else None)
    if threads:
        torch.set_num_threads(threads)
    with workers.cluster(there) if there else workers.pool(some) if some else nullcontext() as executor:
        yield executor


def compare_circuits(arguments: argparse.Namespace) -> None:
    """Print the overlap of two circuits."""
    from entity_circuits import circuits

    print(circuits.report(*(circuits.load(name) for name in (arguments.one, arguments.other))))


def _require_place(path: Path) -> None:
    """Raises `OSError` before hours of work if their result cannot be written to this file."""
    import tempfile

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()
