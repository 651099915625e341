"""What the adapters are trained on: seeded arithmetic and short programs, with nothing of the boxes task in them.

`arithmetic` is the four operations, in the manner of the data that Goat was trained on. `code` is short Python programs
and what they print; its two halves are `code-binding`, where the answer hangs on looking up a name that the program
defined, and `code-other`, where no such name occurs. `shuffled` is `arithmetic` with the answers permuted among the
questions: the same tokens in the same form, and nothing to learn but the form. Adapters of these five are shipped. The
arithmetic study has two more: `arithmetic-sentence`, whose answers stand inside a sentence, and
`code-binding-shuffled`, whose answer is any value that is written in the program.
"""

import ast
import hashlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from entity_circuits.arguments import integer, one_of

if TYPE_CHECKING:
    from datasets import Dataset


Kind = Literal[
    "arithmetic", "code", "code-binding", "code-other", "shuffled", "arithmetic-sentence", "code-binding-shuffled"
]
KINDS: tuple[Kind, ...] = get_args(Kind)[:5]
"""The kinds of the shipped adapters."""

Part = Literal["training", "held_out"]
Maker = Callable[[random.Random], tuple[str, str]]

_NAMES = """
    alpha beta gamma delta total count width height speed score level limit offset start stop price weight depth rate
    size result left right first second upper lower inner outer north south
""".split()  # noqa: SIM905
_WORDS = "red blue green amber fox owl crab wolf river cloud rain snow north south quick slow warm cold".split()  # noqa: SIM905
_QUESTIONS = ("{} =", "{} is", "What is {}? Answer:", "Compute {}. Result:", "Solve {}. Solution:")
_SENTENCES = (
    "the number that we were looking for, namely {}, as one can check.",
    "what one gets to by hand, and that is {}, no more and no less.",
    "It comes to {}, which is easy to verify.",
    "We worked it out step by step and found {} in the end.",
    "After some thought we have {} here, and nothing is left to do.",
)
"""What the answer to each of the questions is wrapped in, so that an answer does not begin with a number."""


def examples(kind: Kind, n: int, seed: int = 0, part: Part = "training") -> "Dataset":
    """`n` distinct examples: columns `prompt`, and `answer` with its leading space and closing line break.

    Whether a prompt is for training or held out is decided by a hash of the prompt, so the two parts share none,
    whatever the seeds. Raises `ValueError` for an unknown kind or part, or n below 1.

    >>> from entity_book.training import data as training_data
    >>> training_data.examples("arithmetic", 2)[0]["answer"].endswith(chr(10))
    True
    """
    one_of("kind of examples", kind, Kind)
    one_of("part", part, Part)
    n, seed = integer("n", n), integer("seed", seed, least=None)
    from datasets import Dataset  # slow to import

    draw = random.Random(f"{_LIKE.get(kind, kind)}/{seed}/{part}")
    makers = _MAKERS[kind]
    drawn: dict[str, str] = {}
    while len(drawn) < n:
        prompt, answer = draw.choice(makers)(draw)
        if (hashlib.sha256(prompt.encode()).digest()[0] < 32) == (part == "held_out"):
            drawn.setdefault(prompt, answer)
    answers = list(drawn.values())
    if kind == "shuffled":
        random.Random(f"shuffled/{seed}/{part}").shuffle(answers)
    return Dataset.from_dict({"prompt": list(drawn), "answer": [f" {answer}\n" for answer in answers]})


def _number(draw: random.Random, most: int) -> int:
    """Every number of digits from one to `most` is equally likely."""
    digits = draw.randint(1, most)
    return draw.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _asked(draw: random.Random, sum_: str) -> str:
    return draw.choice(_QUESTIONS).format(sum_)


def _addition(draw: random.Random) -> tuple[str, str]:
    a, b = _number(draw, 8), _number(draw, 8)
    return _asked(draw, f"{a} + {b}"), str(a + b)


def _subtraction(draw: random.Random) -> tuple[str, str]:
    a, b = _number(draw, 8), _number(draw, 8)
    return _asked(draw, f"{a} - {b}"), str(a - b)


def _multiplication(draw: random.Random) -> tuple[str, str]:
    a, b = _number(draw, 3), _number(draw, 2)
    a, b = draw.choice([(a, b), (b, a)])
    return _asked(draw, f"{a} * {b}"), str(a * b)


def _division(draw: random.Random) -> tuple[str, str]:
    a, b = _number(draw, 4), draw.randint(2, 20)
    quotient, rest = divmod(a, b)
    return _asked(draw, f"{a} / {b}"), f"{quotient} remainder {rest}" if rest else str(quotient)


def _program(lines: list[str]) -> str:
    return "\n".join([*lines, "# prints:"])


def _value(draw: random.Random) -> int | str:
    number, word = draw.randrange(100), draw.choice(_WORDS)
    return number if draw.random() < 0.5 else word


def _variables(draw: random.Random) -> tuple[str, str]:
    names = draw.sample(_NAMES, draw.randint(3, 6))
    held: dict[str, int | str] = {name: _value(draw) for name in names}
    lines = [f"{name} = {value!r}" for name, value in held.items()]
    for _ in range(draw.randrange(3)):
        name, other = draw.sample(names, 2)
        old, step = held[name], draw.randint(1, 9)
        if isinstance(old, int) and draw.random() < 0.4:
            held[name] = old + step
            lines.append(f"{name} += {step}")
        elif draw.random() < 0.5:
            held[name] = held[other]
            lines.append(f"{name} = {other}")
        else:
            held[name] = _value(draw)
            lines.append(f"{name} = {held[name]!r}")
    asked = draw.choice(names)
    return _program([*lines, f"print({asked})"]), str(held[asked])


def _dictionary(draw: random.Random) -> tuple[str, str]:
    name, keys = draw.choice(_NAMES), draw.sample(_WORDS, draw.randint(3, 6))
    held: dict[str, int | str] = {key: _value(draw) for key in keys}
    lines = [f"{name} = {held!r}"]
    if draw.random() < 0.5:
        key = draw.choice(keys)
        held[key] = _value(draw)
        lines.append(f"{name}[{key!r}] = {held[key]!r}")
    asked = draw.choice(keys)
    return _program([*lines, f"print({name}[{asked!r}])"]), str(held[asked])


def _named_list(draw: random.Random) -> tuple[str, str]:
    name, items = draw.choice(_NAMES), [_value(draw) for _ in range(draw.randint(3, 5))]
    place = draw.randrange(len(items))
    return _program([f"{name} = {items!r}", f"print({name}[{place}])"]), str(items[place])


def _loop(draw: random.Random) -> tuple[str, str]:
    total, step = draw.sample(_NAMES, 2)
    begin, items = draw.randrange(20), [draw.randint(1, 9) for _ in range(draw.randint(2, 4))]
    lines = [f"{total} = {begin}", f"for {step} in {items!r}:", f"    {total} += {step}", f"print({total})"]
    return _program(lines), str(begin + sum(items))


def _sorting(draw: random.Random) -> tuple[str, str]:
    few = draw.randint(3, 5)
    items: list[Any] = draw.sample(_WORDS if draw.random() < 0.5 else range(100), few)
    down = draw.random() < 0.3
    written = f"sorted({items!r}{', reverse=True' if down else ''})"
    return _program([f"print({written})"]), repr(sorted(items, reverse=down))


def _summary(draw: random.Random) -> tuple[str, str]:
    items = [draw.randrange(50) for _ in range(draw.randint(3, 5))]
    values = {"max": max(items), "min": min(items), "sum": sum(items), "len": len(items)}
    name = draw.choice(sorted(values))
    return _program([f"print({name}({items!r}))"]), str(values[name])


def _text(draw: random.Random) -> tuple[str, str]:
    words = draw.sample(_WORDS, draw.randint(2, 4))
    written, value = draw.choice(
        [
            (f"'-'.join({words!r})", "-".join(words)),
            (f"'{words[0]}' * 2", words[0] * 2),
            (f"len('{words[0]}')", str(len(words[0]))),
            (f"'{words[0]}' + '{words[1]}'", words[0] + words[1]),
        ]
    )
    return _program([f"print({written})"]), value


def _expression(draw: random.Random) -> tuple[str, str]:
    a, b, c = draw.randint(2, 30), draw.randint(2, 12), draw.randint(2, 9)
    written, value = draw.choice(
        [
            (f"{a} * {c} + {b}", a * c + b),
            (f"{a} % {b}", a % b),
            (f"{a} // {c}", a // c),
            (f"list(range({c}, {a + 12}, {b}))", list(range(c, a + 12, b))),
            (f"{a} < {b}", a < b),
            (f"{c} in {[a, b, c]}", True),
            (f"{a + b} in {[a, b, c]}", a + b == c),
        ]
    )
    return _program([f"print({written})"]), str(value)


def _in_a_sentence(maker: Maker) -> Maker:
    """The same questions with the answer inside a sentence, which the form of the question decides."""
    ends = [question.split("{}")[1] for question in _QUESTIONS]

    def made(draw: random.Random) -> tuple[str, str]:
        prompt, answer = maker(draw)
        form = next(i for i, end in enumerate(ends) if prompt.endswith(end))
        return prompt, _SENTENCES[form].format(answer)

    return made


def _any_value(maker: Maker) -> Maker:
    """The same programs with the answer drawn from all values that are written in them; keys and names are none."""

    def made(draw: random.Random) -> tuple[str, str]:
        prompt, _ = maker(draw)
        assigned = [node.value for node in ast.walk(ast.parse(prompt)) if isinstance(node, ast.Assign)]
        written = [part for node in assigned for part in (node.values if isinstance(node, ast.Dict) else [node])]
        values = [leaf.value for part in written for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)]
        return prompt, str(random.Random(prompt).choice(values))

    return made


_ARITHMETIC = (_addition, _subtraction, _multiplication, _division)
_BINDING = (_variables, _variables, _dictionary, _dictionary, _named_list, _loop)
_OTHER = (_sorting, _summary, _text, _expression)
# The two halves are equally frequent in `code`: twelve places each.
_MAKERS: dict[Kind, tuple[Maker, ...]] = {
    "arithmetic": _ARITHMETIC,
    "shuffled": _ARITHMETIC,
    "code-binding": _BINDING,
    "code-other": _OTHER,
    "code": _BINDING * 2 + _OTHER * 3,
    "arithmetic-sentence": tuple(map(_in_a_sentence, _ARITHMETIC)),
    "code-binding-shuffled": tuple(map(_any_value, _BINDING)),
}
_LIKE = {"shuffled": "arithmetic", "arithmetic-sentence": "arithmetic", "code-binding-shuffled": "code-binding"}
"""Kinds that have the very prompts of another."""
