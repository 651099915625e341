"""Figures and exercises of pages that have no number of their own, the appendices: each page counts from one."""

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def per_page(app: Sphinx, env: BuildEnvironment) -> None:
    """Number anew what Sphinx counts through over all such pages: the exercises of one would begin with the seventh.

    Args:
        app: the build.
        env: its environment, in which all numbers have been given.
    """
    for docname, kinds in env.toc_fignumbers.items():
        if any(env.toc_secnumbers.get(docname, {}).values()):
            continue
        for numbers in kinds.values():
            first = min(numbers.values(), default=(1,))[-1]
            for name, number in numbers.items():
                numbers[name] = (*number[:-1], number[-1] - first + 1)
