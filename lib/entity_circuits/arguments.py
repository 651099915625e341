"""What a call was given, looked at before any work: a word of a list, a whole number, a number within bounds."""

import json
import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import numpy as np

from .spelling import meant

T = TypeVar("T")


def one_of(what: str, given: object, known: Any) -> None:
    """Raise `ValueError` unless a word is one of a `Literal`, or of a list; it names the known ones and the nearest.

    For example:

        from typing import Literal

        from entity_circuits.arguments import one_of

        try:
            one_of("reach", "Query", Literal["all", "query"])
        except ValueError as error:
            print(error)  # no reach called 'Query': one of 'all', 'query'. Did you mean 'query'?
    """
    words = list(_words(known)) if get_args(known) else list(known)
    if not any(given is word or (isinstance(given, str) and given == word) for word in words):
        texts = [word for word in words if isinstance(word, str)]
        near = meant(given, texts) if isinstance(given, str) else ""
        raise ValueError(f"no {what} called {given!r}: one of {', '.join(map(repr, words))}.{near}")


def each_of(what: str, given: Iterable[object], known: Any) -> None:
    """`one_of` for several words.

    For example:

        from entity_circuits.arguments import each_of

        try:
            each_of("place", ["last", "lost"], ["last", "query"])
        except ValueError as error:
            print(error)  # no place called 'lost': one of 'last', 'query'. Did you mean 'last'?
    """
    for word in given:
        one_of(what, word, known)


def _words(kind: Any) -> Iterable[object]:
    """The words of a `Literal`, of several in a union, and None where that is in it."""
    parts = get_args(kind)
    if not parts:
        yield None if kind is type(None) else kind
    for part in parts:
        yield from _words(part)


def several(what: str, given: Iterable[T], least: int = 1) -> tuple[T, ...]:
    """The members of a list. Raises `ValueError` for what is none (a text is not one), or has fewer than `least`.

    For example:

        from entity_circuits.arguments import several

        print(several("conditions", ["last->object"]))
    """
    try:
        found = None if isinstance(given, str | bytes | Mapping) else tuple(given)
    except TypeError:
        found = None
    if found is None:
        raise ValueError(f"{what} are given as a list, not as {given!r}")
    if len(found) < least:
        raise ValueError(f"there are no {what}: the list is empty")
    return found


def of_kind(what: str, given: object, *kinds: type) -> None:
    """Raise `ValueError` unless it is an instance of one of these classes."""
    if not isinstance(given, kinds):
        named = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{what}: {named} is needed, not {type(given).__name__}")


def repeated(names: Iterable[str]) -> str:
    """The first of these names that stands there again; "" if each stands there once.

    For example:

        from entity_circuits.arguments import repeated

        print(repeated(["n", "seed", "n"]))
    """
    met: set[str] = set()
    return next((name for name in names if name in met or met.add(name)), "")  # type: ignore[func-returns-value]


def from_json(text: str) -> Any:
    """The content of a JSON text. Raises `ValueError` for a name that stands twice, and for NaN and Infinity.

    The reader of Python would take the last of two, and numbers that JSON does not have.

        from entity_circuits.arguments import from_json

        print(from_json('{"n": 70}'))
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := repeated(name for name, _ in pairs):
            raise ValueError(f"{twice!r} stands there twice")
        return dict(pairs)

    def refused(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON: finite numbers are, and null for none; not NaN, not infinite")

    return json.loads(text, object_pairs_hook=once, parse_constant=refused)


def boolean(what: str, given: object) -> None:
    """Raise `ValueError` unless it is True or False: a word such as "no" would count as true.

    For example:

        from entity_circuits.arguments import boolean

        boolean("frozen", False)
        print("can be used")
    """
    if not isinstance(given, bool | np.bool_):
        raise ValueError(f"{what}={given!r}: it has to be True or False")


def integer(what: str, given: Any, least: int | None = 1, most: int | None = None) -> int:
    """A whole number as an `int`, whoever made it (numpy and torch have their own).

    Raises `ValueError` for anything else, a bool among it, and for one below `least` or above `most`.

        import numpy as np
        from entity_circuits.arguments import integer

        print(integer("batch", np.int64(49)))
    """
    try:
        number = operator.index(given)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None or isinstance(given, bool):
        raise ValueError(f"{what}={given!r}: it has to be a whole number")
    if (least is not None and number < least) or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{what}={number}: it has to be a whole number, {bounds}")
    return number


def finite(what: str, given: Any, least: float = -math.inf, most: float = math.inf, *, inside: bool = False) -> None:
    """Raise `ValueError` unless a number is finite and within bounds; `inside`: at neither of them.

    Args:
        what: its name, for the message.
        given: the number.
        least: the lower bound.
        most: the upper bound.
        inside: whether the bounds themselves are left out.

    For example:

        from entity_circuits.arguments import finite

        finite("learning_rate", 3e-4, 0, inside=True)
        print("can be used")
    """
    boolean("inside", inside)
    try:
        value = math.nan if isinstance(given, str | bytes | bool) else float(given)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    fits = least < value < most if inside else least <= value <= most
    if not (math.isfinite(value) and fits):
        ends = [f"{'above' if inside else 'at least'} {least:g}"] if math.isfinite(least) else []
        ends += [f"{'below' if inside else 'at most'} {most:g}"] if math.isfinite(most) else []
        raise ValueError(f"{what}={given!r}: it has to be a finite number{''.join(f', {end}' for end in ends)}")
