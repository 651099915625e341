"""Which packages are asked for, by some requirements and by what these bring, as their own metadata say."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def followed(
    wanted: Iterable[Requirement],
    elsewhere: Mapping[str, Sequence[str]] | None = None,
    pythons: Sequence[str | None] = (None,),
) -> set[str]:
    """The names of these packages and of all that they ask for, on any of these Pythons (None: this one).

    `elsewhere` tells what packages ask for that are not installed here; of others that are not, only the name is known.

    >>> followed([Requirement("papermill")]) >= {"papermill", "nbclient"}
    True
    """
    todo: list[tuple[str, frozenset[str]]] = [(canonicalize_name(one.name), frozenset(one.extras)) for one in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            lines: Sequence[str] = requires(name) or ()
        except PackageNotFoundError:
            lines = (elsewhere or {}).get(name, ())
        for one in map(Requirement, lines):
            where = [
                {"extra": extra} | ({"python_version": python, "python_full_version": f"{python}.5"} if python else {})
                for extra in {"", *extras}
                for python in pythons
            ]
            if not one.marker or any(map(one.marker.evaluate, where)):
                todo.append((canonicalize_name(one.name), frozenset(one.extras)))
    return {name for name, _ in seen}
