"""The command line: `entity-circuits COMMAND`. `entity-circuits COMMAND --help` tells the rest."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did what was asked, 1 if it could not, 2 if it was asked in a wrong way.

    Errors are one clear message on standard error; `--debug` shows where they come from.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments) or 0)
    except KeyboardInterrupt:
        print("\nentity-circuits: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug or not _expected(error):
            raise
        print(f"entity-circuits: {error or type(error).__name__}", file=sys.stderr)
        return 1


def _expected(error: Exception) -> bool:
    """Whether an error is one that the library raises on purpose, with a message for the reader."""
    from .book import BookError

    return isinstance(error, BookError | OSError | ValueError | RuntimeError | LookupError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="entity-circuits", description="A runnable book on entity tracking.")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(command=function)
        return added

    command("models", _models, "list the models that have a name here")
    fetch = command("fetch", _fetch, "fetch models, verify them and keep them in the cache")
    fetch.add_argument("name", nargs="+", help="a name that `models` lists")

    book = command("book", _book, "execute the chapters that need it and build the site")
    half = book.add_mutually_exclusive_group()
    half.add_argument("--execute-only", action="store_true", help="do not build the site")
    half.add_argument("--build-only", action="store_true", help="do not execute chapters")
    words = "execute this chapter (01_dataset, or its beginning 01); repeatable"
    book.add_argument("--only", action="append", metavar="CHAPTER", help=words)
    book.add_argument("--force", action="store_true", help="execute and build although nothing changed")
    book.add_argument("--jobs", type=_positive, default=1, metavar="N", help="chapters executed at a time (default 1)")
    book.add_argument(
        "--pair", metavar="NAME", help="base and fine-tuned model by the name of a pair in data/models.toml"
    )
    book.add_argument("--base", metavar="MODEL", help="the base model of all chapters: a name, a folder or a hub id")
    book.add_argument("--finetuned", metavar="MODEL", help="the fine-tuned model of all chapters; goes with --base")
    words = "give a parameter to every chapter that declares it; repeatable"
    book.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=words)

    words = "train an adapter on synthetic data; an interrupted training goes on where it stopped"
    finetune = command("finetune", _finetune, words)
    finetune.add_argument("kind", help="arithmetic, code, code-binding, code-other or shuffled")
    finetune.add_argument("--seed", type=int, default=0, help="decides the data, their order and the initial weights")
    finetune.add_argument("--model", default="qwen2.5-coder-0.5b", help="the base model (default %(default)s)")
    finetune.add_argument("--steps", type=_positive, help="default: the protocol's")
    finetune.add_argument("--learning-rate", type=float, help="default: the protocol's")
    finetune.add_argument("--full", action="store_true", help="train all weights instead of an adapter")
    finetune.add_argument("--out", type=Path, help="folder to make (default: data/adapters, or build/adapters)")
    finetune.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"], help="to compute in")
    finetune.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    command("measure-adapters", _measure_adapters, "run base and adapters on 2,002 prompts; writes their accuracies")
    cmap = command(
        "measure-cmap", _measure_cmap, "patch a fine-tuned model into its base on 2,002 prompts (half an hour)"
    )
    cmap.add_argument("pair", help="a fine-tuned model of the registry, for example code")
    cmap.add_argument("--contexts", type=_positive, default=286, help="seven prompts each (default %(default)s)")
    cmap.add_argument("--brief", action="store_true", help="groups, inputs and one random draw; a third of the time")
    cmap.add_argument("--out", type=Path, help="file to write (default: data/cmap/PAIR.safetensors)")

    words = "find a model's circuit by path patching and write it, with all scores, to a file"
    discover = command("discover", _discover, words)
    discover.add_argument("model", help="a name that `models` lists, a folder, a GGUF file or a hub id")
    discover.add_argument("--n", type=_positive, default=70, help="prompts (default %(default)s)")
    discover.add_argument("--seed", type=int, default=0)
    discover.add_argument("--out", type=Path, help="file to write (default: data/circuits/MODEL.json)")
    compare = command("compare-circuits", _compare_circuits, "overlap of two circuits by group, beside chance")
    compare.add_argument("one", help="a name in data/circuits, or a file")
    compare.add_argument("other", help="likewise")

    words = "write the numbers of the last whole build into the README, and into data/findings.json"
    readme = command("readme", _readme, words)
    readme.add_argument(
        "--check", action="store_true", help="change nothing; tell what lies outside the stored intervals"
    )
    command("check-site", _check_site, "check the built site: links, pictures, charts, other hosts")
    serve = command("serve", _serve, "show the built site on this machine")
    serve.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes any free port")
    strip = command("strip", _strip, "bring notebooks to their normal form: no outputs, no counts, fixed ids")
    strip.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not in normal form")
    strip.add_argument("notebook", nargs="*", type=Path, help="default: all chapters")
    return parser


def _models(_: argparse.Namespace) -> None:
    from entity_circuits import models

    rows: list[tuple[str, ...]] = [("name", "GB", "executed here", "fetched", "licence; gate; source")]
    for row in models.describe().to_dict("records"):
        flags = ("yes" if row["executed_here"] else "no", "yes" if row["fetched"] else "no")
        terms = "; ".join(word for word in (row["licence"], row["gate"], row["source"]) if word != "none")
        rows.append((str(row["name"]), f"{row['memory_gb']:.1f}", *flags, terms))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, [*widths, 0], strict=True)))


def _fetch(arguments: argparse.Namespace) -> None:
    from entity_circuits import models

    for name in arguments.name:
        print(models.fetch(name))


def _book(arguments: argparse.Namespace) -> None:
    from . import book

    pair = _pair(arguments)
    if not arguments.build_only:
        given = {name: _value(text) for name, text in arguments.parameter}
        book.execute(arguments.only, given, pair=pair, jobs=arguments.jobs, force=arguments.force)
    if not arguments.execute_only:
        from . import site

        site.build(force=arguments.force)


def _pair(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """The pair of models that is asked for, checked and fetched; None for each chapter's own."""
    base, finetuned = arguments.base, arguments.finetuned
    if arguments.pair and (base or finetuned):
        raise ValueError("give --pair, or --base with --finetuned, not both")
    if bool(base) != bool(finetuned):
        raise ValueError("--base and --finetuned go together (for one model alone: -p model NAME)")
    if not (arguments.pair or base):
        return None
    if arguments.build_only:
        raise ValueError("a pair of models is for executing chapters; --build-only executes none")
    from entity_circuits.models import pair

    return pair.ready(*(pair.named(arguments.pair) if arguments.pair else (base, finetuned)))


def _readme(arguments: argparse.Namespace) -> int:
    from . import readme

    if not arguments.check:
        readme.write()
        return 0
    told, apart = readme.check()
    print("\n".join(told) or "the last build gives the stored numbers")
    return 1 if apart else 0


def _finetune(arguments: argparse.Namespace) -> None:
    from ..training import adapters, finetune

    given = {"steps": arguments.steps, "learning_rate": arguments.learning_rate}
    options = {name: value for name, value in given.items() if value is not None}
    recipe = finetune.Recipe(arguments.kind, arguments.seed, full=arguments.full, **options)
    print(adapters.run(recipe, arguments.model, arguments.out, arguments.dtype, arguments.device))


def _measure_adapters(_: argparse.Namespace) -> None:
    from ..studies import tuning

    path = tuning.measure()
    print(tuning.summary(tuning.measured(path)).round(3).to_string(index=False))


def _measure_cmap(arguments: argparse.Namespace) -> None:
    from entity_circuits import models, results

    from ..studies import improvement

    path = arguments.out or improvement.folder() / f"{arguments.pair}.safetensors"
    short = arguments.brief
    found = improvement.measure(arguments.pair, arguments.contexts, short=short, store=results.Store())
    given = f"entity-circuits measure-cmap {arguments.pair} --contexts {arguments.contexts}" + " --brief" * short
    improvement.keep(found, path, *models.load_pair(arguments.pair), command=given)
    print(found.table().round(3).to_string(index=False))
    print(path)


def _discover(arguments: argparse.Namespace) -> None:
    from entity_circuits import circuits, models, results
    from entity_circuits.methods import path_patching

    name = arguments.model
    out = arguments.out or circuits.folder() / f"{name}.json"
    if not arguments.out and Path(name).name != name:
        raise ValueError(f"say where to write the circuit of {name}: --out FILE.json")
    found = path_patching.discover(models.load(name), n=arguments.n, seed=arguments.seed, store=results.Store())
    command = f"entity-circuits discover {name} --n {arguments.n} --seed {arguments.seed}"
    print(circuits.save(found, out, command=command).circuit)
    print(out)


def _compare_circuits(arguments: argparse.Namespace) -> None:
    from entity_circuits import circuits

    print(circuits.report(*(circuits.load(name) for name in (arguments.one, arguments.other))))


def _check_site(_: argparse.Namespace) -> int:
    from entity_circuits import places

    from . import site

    report = site.check(places.ROOT / "_build" / "html")
    for page, weight in sorted(report.weights.items(), key=lambda item: -item[1]):
        print(f"{weight / 1e6:8.2f} MB  {page}")
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"{len(report.weights)} pages, {len(report.problems)} problems")
    return 1 if report.problems else 0


def _serve(arguments: argparse.Namespace) -> None:
    import threading

    from entity_circuits import places

    from . import site

    html = places.ROOT / "_build" / "html"
    if not (html / "index.html").is_file():
        raise FileNotFoundError("there is no site yet; build it with `entity-circuits book`")
    with site.server(html, arguments.port) as address:
        print(f"{address}/ (stop with Ctrl+C)", flush=True)
        threading.Event().wait()


def _strip(arguments: argparse.Namespace) -> int:
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
            path.write_text(plain, encoding="utf-8")
            print(f"{path.name} stripped")
    return 1 if arguments.check and wrong else 0


def _value(text: str) -> Any:
    """A parameter as it is written: numbers, true, false, null and lists as in JSON, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
