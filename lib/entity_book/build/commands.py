"""What each command does; `cli` says how it is written. Nothing slow is imported before it is needed."""

import argparse
import json
import sys
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
    if arguments.dry_run and arguments.build_only:
        raise ValueError("--dry-run tells which chapters would run; --build-only runs none")
    book.check(arguments.only, given, pair=pair, preset=preset)
    if arguments.dry_run:
        for name, told in book.reasons(arguments.only, given, pair=pair, preset=preset).items():
            print(f"{name}: {told}")
        return
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


def pdf(arguments: argparse.Namespace) -> None:
    """Print the built site into one PDF."""
    from . import pdf

    pdf.make(arguments.out, arguments.browser or "")


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


def _value(text: str) -> Any:
    """A parameter as it is written: numbers, true, false, null and lists as in JSON, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
