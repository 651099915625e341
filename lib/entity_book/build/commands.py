"""What each command does; `cli` says how it is written. Nothing slow is imported before it is needed."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any


def models(_: argparse.Namespace) -> None:
    """Print the models that have a name here."""
    from entity_circuits import models

    rows: list[tuple[str, ...]] = [("name", "GB", "executed here", "fetched", "licence; gate; source")]
    for row in models.describe().to_dict("records"):
        flags = ("yes" if row["executed_here"] else "no", "yes" if row["fetched"] else "no")
        terms = "; ".join(word for word in (row["licence"], row["gate"], row["source"]) if word != "none")
        rows.append((str(row["name"]), f"{row['memory_gb']:.1f}", *flags, terms))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, [*widths, 0], strict=True)))


def fetch(arguments: argparse.Namespace) -> None:
    """Fetch models and print where they lie."""
    from entity_circuits import models

    for name in arguments.name:
        print(models.fetch(name))


def book(arguments: argparse.Namespace) -> None:
    """Execute the chapters that need it, then build the site; all that was asked is checked first. Or only tell."""
    from entity_circuits import places

    from . import book, lock

    pair, given, preset = _pair(arguments), _parameters(arguments), arguments.preset or ""
    if arguments.build_only and (pair or given or preset or arguments.only):
        raise ValueError(
            "--only, parameters, a preset and a pair are for executing chapters; --build-only executes none"
        )
    if arguments.dry_run:
        if arguments.build_only:
            raise ValueError("--dry-run tells which chapters would run; --build-only runs none")
        for name, told in book.reasons(arguments.only, given, pair=pair, preset=preset).items():
            print(f"{name}: {told}")
        return
    book.check(arguments.only, given, pair=pair, preset=preset)
    with lock.held(places.ROOT, "making the book"):
        if pair:
            from entity_circuits.models import pair as models

            pair = models.ready(*pair)
        if not arguments.build_only:
            options = {"jobs": arguments.jobs, "force": arguments.force}
            book.execute(arguments.only, given, pair=pair, preset=preset, **options)
        if not arguments.execute_only:
            from . import site

            site.build(force=arguments.force)


def _parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters that are given, by name; a model that is a path is one of the folder that the command runs in."""
    given: dict[str, Any] = {}
    for name, text in arguments.parameter:
        if name in given:
            raise ValueError(f"the parameter {name!r} is given twice")
        value = _value(text)
        if name in ("model", "base", "finetuned"):
            named = [_model(one) if isinstance(one, str) else one for one in ([value], value)[isinstance(value, list)]]
            value = named if isinstance(value, list) else named[0]
        given[name] = value
    return given


def _model(name: str) -> str:
    """A model by its name; one that is a path here as a path that is the same in the folder of the book."""
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith((".", "/", "~")):
            raise FileNotFoundError(f"there is no model at {name}")
        return name
    from entity_circuits import models

    return name if name in models.registry() else str(path.absolute())


def _pair(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """The pair of models that is asked for; None for each chapter's own."""
    base, finetuned = arguments.base, arguments.finetuned
    if arguments.pair and (base or finetuned):
        raise ValueError("give --pair, or --base with --finetuned, not both")
    if bool(base) != bool(finetuned):
        raise ValueError("--base and --finetuned go together (for one model alone: -p model NAME)")
    if not (arguments.pair or base):
        return None
    if arguments.pair:
        from entity_circuits.models import pair

        return pair.named(arguments.pair)
    return _model(base), _model(finetuned)


def course(arguments: argparse.Namespace) -> int:
    """`entity-circuits course`: editions of the course, and the answers that are stored for it."""
    from ..course import editions

    if arguments.data:
        from ..course import answers

        made = answers.make(editions.home() / "data")
        print(f"stored answers made: {', '.join(made) or 'none, all are there'}")
    wanted = {name: getattr(arguments, name) for name in ("student", "teacher", "autograder")}
    if not arguments.data or any(wanted.values()):
        names = editions.make(**wanted, only=arguments.only)
        print(f"{', '.join(names)}: in {', '.join(str(folder) for folder in wanted.values() if folder)}")
    return 0


def readme(arguments: argparse.Namespace) -> int:
    """Write the numbers of the last whole build, or tell how they differ: 1 if a claim turns."""
    from . import readme

    if not arguments.check:
        readme.write()
        return 0
    told, apart = readme.check()
    print("\n".join(told) or "the last build gives the stored numbers")
    return 1 if apart else 0


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
    from ..studies import scale

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
    from entity_circuits.methods import path_patching

    name, adapter = arguments.model, arguments.adapter
    if not arguments.out and (adapter or Path(name).name != name or not places.checkout()):
        raise ValueError(f"say where to write the circuit of {name}: --out FILE.json")
    out = arguments.out or circuits.folder() / f"{name}.json"
    _require_place(out)
    with _workers(arguments) as executor:
        asked = {"n": arguments.n, "seed": arguments.seed, "store": results.Store(), "executor": executor}
        found = path_patching.discover(models.load(name, adapter=adapter), **asked)
    command = f"entity-circuits discover {name} --n {arguments.n} --seed {arguments.seed}"
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


def check_site(_: argparse.Namespace) -> int:
    """Print the weight of each page and each problem of the built site; 1 if there is one."""
    from entity_circuits import places

    from . import site

    report = site.check(places.ROOT / "_build" / "html")
    for page, weight in sorted(report.weights.items(), key=lambda item: -item[1]):
        print(f"{weight / 1e6:8.2f} MB  {page}")
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"{len(report.weights)} pages, {len(report.problems)} problems")
    return 1 if report.problems else 0


def serve(arguments: argparse.Namespace) -> None:
    """Show the built site until it is stopped."""
    import threading

    from entity_circuits import places

    from . import site

    html = places.ROOT / "_build" / "html"
    if not (html / "index.html").is_file():
        raise FileNotFoundError("there is no site yet; build it with `entity-circuits book`")
    with site.server(html, arguments.port) as address:
        print(f"{address}/ (stop with Ctrl+C)", flush=True)
        threading.Event().wait()


def strip(arguments: argparse.Namespace) -> int:
    """Bring notebooks to their normal form, or say which are not in it: 1 if there is one."""
    from entity_circuits import places

    from . import notebooks

    wrong = 0
    for path in arguments.notebook or sorted((places.ROOT / "chapters").glob("*.ipynb")):
        plain = notebooks.text(notebooks.stripped(notebooks.read(path)))
        if path.read_text(encoding="utf-8") == plain:
            continue
        wrong += 1
        if arguments.check:
            print(f"{path.name} is not in normal form; `entity-circuits strip` brings it there", file=sys.stderr)
        else:
            places.write(path, plain)
            print(f"{path.name} stripped")
    return 1 if arguments.check and wrong else 0


def clean(_: argparse.Namespace) -> None:
    """Remove the site and the executed chapters, unless a book is being made."""
    import shutil

    from entity_circuits import places

    from . import lock

    with lock.held(places.ROOT, "removing what was made"):
        for name in ("_build", "build/executed", "build/kernels"):
            shutil.rmtree(places.ROOT / name, ignore_errors=True)
        (places.ROOT / "build" / "site.json").unlink(missing_ok=True)


def _require_place(path: Path) -> None:
    """Raises `OSError` before hours of work if their result cannot be written to this file."""
    import tempfile

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()


def _value(text: str) -> Any:
    """A parameter as it is written: numbers, true, false, null and lists as in JSON, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
