"""The command line: `entity-circuits COMMAND`. `entity-circuits COMMAND --help` tells the rest."""

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from entity_circuits.spelling import meant

from . import commands, measuring, needed, values

INSTALL = "in a clone of the repository, pip install -c constraints.txt -e '.[book]'"


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
        if arguments.debug:
            raise
        print(f"entity-circuits: {_words(error)}", file=sys.stderr)
        return 1


def _words(error: Exception) -> str:
    """An error for the reader: as it was worded for one, or what else can be said in a sentence."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"this needs {error.name}, one of the packages of the book: {INSTALL}"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, OSError | ValueError | RuntimeError) and str(error):
        return str(error)
    if isinstance(error, ImportError) and "pip install" in str(error):
        return str(error)
    if isinstance(error, LookupError) and error.args and " " in str(error.args[0]):
        return str(error.args[0])
    told = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"stopped by a fault of the program ({told}); `entity-circuits --debug COMMAND` shows where"


class _Parser(argparse.ArgumentParser):
    """Says of a wrong word what was probably meant. A part of an option is no option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        wrong, _, known = message.partition("(choose from ")
        if known and (word := re.search(r"invalid choice: '(.*)'", wrong)):
            message += meant(word[1], re.findall(r"[\w.-]+", known))
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="entity-circuits", description="A runnable book on entity tracking.")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('entity-circuits')}")
    known = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, words: str) -> argparse.ArgumentParser:
        added = known.add_parser(name, help=words, description=words)
        added.set_defaults(command=function)
        return added

    command("models", commands.models, "list the models that have a name here")
    fetch = command("fetch", commands.fetch, "fetch models, verify them and keep them in the cache")
    fetch.add_argument("name", nargs="+", type=_word, help="a name that `models` lists")

    book = command("book", commands.book, "execute the chapters that need it and build the site")
    half = book.add_mutually_exclusive_group()
    half.add_argument("--execute-only", action="store_true", help="do not build the site")
    half.add_argument("--build-only", action="store_true", help="do not execute chapters")
    words = "execute this chapter (01_dataset, or its beginning 01); repeatable"
    book.add_argument("--only", action="append", type=_word, metavar="CHAPTER", help=words)
    book.add_argument("--force", action="store_true", help="execute and build although nothing changed")
    words = "execute and build nothing; say of each chapter whether it would run, and why"
    book.add_argument("--dry-run", action="store_true", help=words)
    book.add_argument(
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="chapters executed at a time, as far as there is memory for them (default 1)",
    )
    book.add_argument(
        "--pair",
        type=_word,
        metavar="NAME",
        help="base and fine-tuned model by the name of a pair, such as code or goat-7b",
    )
    words = "parameters of several chapters by one name: class, for less time and memory"
    book.add_argument("--preset", type=_word, metavar="NAME", help=words)
    words = "the base model of all chapters: a name, a folder or a hub id"
    book.add_argument("--base", type=_word, metavar="MODEL", help=words)
    words = "the fine-tuned model of all chapters; goes with --base"
    book.add_argument("--finetuned", type=_word, metavar="MODEL", help=words)
    words = "give a parameter to every chapter that declares it; repeatable"
    book.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=words)

    words = "train an adapter on synthetic data; an interrupted training goes on where it stopped"
    finetune = command("finetune", measuring.finetune, words)
    finetune.add_argument(
        "kind",
        type=_word,
        help="arithmetic, code, code-binding, code-other, shuffled, arithmetic-sentence or code-binding-shuffled",
    )
    finetune.add_argument("--seed", type=_seed, default=0, help="decides the data, their order and the initial weights")
    finetune.add_argument(
        "--model", type=_word, default="qwen2.5-coder-0.5b", help="the base model (default %(default)s)"
    )
    finetune.add_argument("--steps", type=_positive, help="default: the protocol's")
    finetune.add_argument("--learning-rate", type=float, help="default: the protocol's")
    finetune.add_argument("--full", action="store_true", help="train all weights instead of an adapter")
    finetune.add_argument("--out", type=_path, help="folder to make (default: data/adapters, or build/adapters)")
    finetune.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"], help="to compute in")
    finetune.add_argument("--device", type=_word, default="cpu", help="cpu (default), or cuda")
    command(
        "measure-adapters",
        measuring.measure_adapters,
        "run base and adapters on 2,002 prompts; writes their accuracies",
    )
    words = "ask a model of another scale the evaluation prompts at seven and ten boxes; writes data/scale/MODEL.json"
    scale = command("measure-scale", measuring.measure_scale, words)
    scale.add_argument("model", type=_word, help="a name that `models` lists, a folder, a GGUF file or a hub id")
    scale.add_argument("--contexts", type=_positive, default=10, help="at each number of boxes (default %(default)s)")
    scale.add_argument("--circuit", action="store_true", help="evaluate its circuit instead: data/scale/circuit")
    words = "make the runs of a study in the order of its protocol; an interrupted one goes on where it stopped"
    study = command("study", measuring.study, words)
    study.add_argument("study", choices=["arithmetic"], help="arithmetic: data/trainings/README.md")
    study.add_argument(
        "--plan", action="store_true", help="make nothing; list the runs, done and not done, with minutes"
    )
    study.add_argument(
        "--hours", type=float, metavar="H", help="after so long begin no further run (default: make all)"
    )
    study.add_argument(
        "--keep", action="store_true", help="keep trained adapters in build/adapters, not only their rows"
    )
    cmap = command(
        "measure-cmap", measuring.measure_cmap, "patch a fine-tuned model into its base on 2,002 prompts (half an hour)"
    )
    cmap.add_argument("pair", type=_word, help="a fine-tuned model of the registry, for example code")
    cmap.add_argument("--contexts", type=_positive, default=286, help="seven prompts each (default %(default)s)")
    cmap.add_argument("--brief", action="store_true", help="groups, inputs and one random draw; a third of the time")
    cmap.add_argument("--out", type=_path, help="file to write (default: data/cmap/PAIR.safetensors)")

    words = "patch parts of a circuit, and a hundred random draws beside them, on 490 prompts"
    draws = command("measure-draws", measuring.measure_draws, words)
    draws.add_argument("model", type=_word, help="a fine-tuned model of the registry, or the folder of an adapter")
    draws.add_argument("--contexts", type=_positive, default=70, help="seven prompts each (default %(default)s)")
    draws.add_argument("--draws", type=_positive, default=100, help="for each part (default %(default)s)")

    words = "exchange the outputs of harmful heads between a fine-tuned model and its base (minutes)"
    exchange = command("measure-exchange", measuring.measure_exchange, words)
    exchange.add_argument("model", type=_word, help="a fine-tuned model of the registry")
    exchange.add_argument("--contexts", type=_positive, default=20, help="seven prompts each (default %(default)s)")
    exchange.add_argument("--draws", type=_positive, default=100, help="of random heads (default %(default)s)")

    words = "learn masks over heads of two models until they stand still, and judge them (a quarter of an hour)"
    masks = command("measure-masks", measuring.measure_masks, words)
    masks.add_argument("--base", type=_word, default="qwen2.5-coder-0.5b", help="default %(default)s")
    masks.add_argument("--finetuned", type=_word, default="code", help="default %(default)s")
    masks.add_argument("--contexts", type=_positive, default=50, help="seven pairs each (default %(default)s)")

    words = "measure what nodes and direct edges of the four rounds do in a model (minutes); the base first"
    wired = command("measure-edges", measuring.measure_edges, words)
    wired.add_argument("model", type=_word, help="a model of the registry")
    wired.add_argument("--out", type=_path, help="file to write (default: data/edges/MODEL.safetensors)")

    words = "find the nodes that answer as a model does, and measure them (minutes); the base first"
    circuit = command("measure-circuit", measuring.measure_circuit, words)
    circuit.add_argument("model", type=_word, help="a model of the registry; or `untrained`, for random weights")
    words = "of a base model, also: other ablations, the same on other prompts, the task of copying"
    circuit.add_argument("--controls", action="store_true", help=words)
    circuit.add_argument("--out", type=_path, help="file to write (default: data/nodes/MODEL.safetensors)")

    words = "find a model's circuit by path patching and write it, with all scores, to a file"
    discover = command("discover", measuring.discover, words)
    discover.add_argument("model", type=_word, help="a name that `models` lists, a folder, a GGUF file or a hub id")
    discover.add_argument("--n", type=_positive, default=70, help="prompts (default %(default)s)")
    discover.add_argument("--seed", type=_seed, default=0)
    discover.add_argument(
        "--boxes", type=_positive, default=7, help="in a prompt; n is a multiple (default %(default)s)"
    )
    discover.add_argument("--wording", type=_word, help="other words for the prompts: drawers, 'other verbs', ...")
    discover.add_argument(
        "--adapter", type=_word, help="merged into the model: a name that `models` lists, or a folder"
    )
    discover.add_argument("--out", type=_path, help="file to write (default: data/circuits/MODEL.json)")
    where = discover.add_mutually_exclusive_group()
    words = "processes of this machine that share the work, each with the model in its memory"
    where.add_argument("--workers", type=_positive, metavar="N", help=words)
    words = "a Dask cluster that does the work: the file of its scheduler, or tcp://HOST:PORT"
    where.add_argument("--cluster", type=_word, metavar="scheduler.json", help=words)
    words = "of each worker (default: the cores of this machine shared out among --workers; 1 on a cluster)"
    discover.add_argument("--threads", type=_positive, help=words)
    words = "say what models need before anything is fetched: disk, memory, minutes; 1 if they cannot fit"
    plan = command("plan", needed.plan, words)
    plan.add_argument("model", type=_word, help="a name that `models` lists, or a folder")
    plan.add_argument("other", type=_word, nargs="?", help="a fine-tuned model, or an adapter on the first")
    plan.add_argument("--examples", type=_positive, default=300, help="prompts (default %(default)s)")
    plan.add_argument("--tokens", type=_tokens, default=60, help="of a prompt (default %(default)s)")
    plan.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default cpu")
    plan.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="default float32")
    plan.add_argument("--workers", type=_positive, default=1, help="of this machine, each with models of its own")
    plan.add_argument("--memory", type=_amount, metavar="GB", help="of the machine or GPU (default: what is free here)")
    plan.add_argument("--gflops", type=_amount, help="rate of large products (default: measured here, on all cores)")
    compare = command("compare-circuits", measuring.compare_circuits, "overlap of two circuits by group, beside chance")
    compare.add_argument("one", type=_word, help="a name in data/circuits, or a file")
    compare.add_argument("other", type=_word, help="likewise")

    words = "make the course's notebooks: for students, for the teacher, for the autograder; or its stored answers"
    course = command("course", commands.course, words)
    course.add_argument("--student", type=_path, metavar="DIR", help="folder to make: without solutions")
    course.add_argument(
        "--teacher", type=_path, metavar="DIR", help="folder to make: with solutions, hidden checks and answers"
    )
    course.add_argument(
        "--autograder", type=_path, metavar="DIR", help="folder to make: a zip a chapter for `otter run`"
    )
    words = "this chapter alone (03_finding, or its beginning 03); repeatable"
    course.add_argument("--only", action="append", default=[], type=_word, metavar="CHAPTER", help=words)
    course.add_argument("--data", action="store_true", help="make the stored answers that are missing from the model")

    words = "write the numbers of the last whole build into the README, and into data/findings.json"
    readme = command("readme", commands.readme, words)
    readme.add_argument(
        "--check", action="store_true", help="change nothing; tell what lies outside the stored intervals"
    )
    command("check-site", commands.check_site, "check the built site: links, pictures, charts, other hosts")
    pdf = command("pdf", commands.pdf, "print the built site into one PDF, with Chromium or Chrome")
    pdf.add_argument("--browser", type=_word, metavar="PATH", help="the program (default: one that is on the PATH)")
    pdf.add_argument("--out", type=_path, help="file to write (default: _build/book.pdf)")
    serve = command("serve", commands.serve, "show the built site on this machine")
    serve.add_argument("--port", type=_port, default=8000, help="default 8000; 0 takes any free port")
    strip = command("strip", commands.strip, "bring notebooks to their normal form: no outputs, no counts, fixed ids")
    strip.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not in normal form")
    strip.add_argument("notebook", nargs="*", type=_path, help="default: all chapters")
    command("clean", commands.clean, "remove the site and the executed chapters; stored results and models stay")
    return parser


def _word(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _path(text: str) -> Path:
    return Path(_word(text))


def _number(text: str, low: int, high: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"must be from {low} to {high}")
    return number


def _positive(text: str) -> int:
    return _number(text, *values.COUNT)


def _tokens(text: str) -> int:
    return _number(text, 4, 100_000)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < number < 1e12:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def _seed(text: str) -> int:
    return _number(text, *values.SEED)


def _port(text: str) -> int:
    return _number(text, 0, 65535)


if __name__ == "__main__":
    sys.exit(main())
