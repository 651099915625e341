"""The task: worlds of labelled boxes, prompts that ask for one of them, and the four positions that matter.

A world is structured data and stays so: nothing is ever parsed back from the text. A prompt is written from a world by
a `Template`, tokenised, and its positions are found from the token ids, prompt by prompt.

    The apple is in Box F, the cup is in Box Q. Box F contains the
        object              prev                    query        last
"""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from .. import results
from ..models.subject import Subject
from . import vocabulary
from .rows import dataset_of

if TYPE_CHECKING:
    from datasets import Dataset


Split = Literal["discovery", "pruning", "means", "training", "evaluation"]
Position = Literal["last", "query", "prev", "object"]


@dataclass(frozen=True)
class World:
    """Which object is in which box, in order of mention."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.objects) != len(self.labels):
            raise ValueError(f"{len(self.objects)} objects for {len(self.labels)} labels")
        if len(set(self.objects)) < len(self.objects) or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"objects and labels of a world must be distinct: {self.objects}, {self.labels}")

    @property
    def split(self) -> Split:
        """The one split this world belongs to, whatever seed drew it: splits are disjoint by construction."""
        digest = hashlib.sha256(json.dumps([self.objects, self.labels]).encode()).digest()
        return get_args(Split)[digest[0] % len(get_args(Split))]


@dataclass(frozen=True)
class Template:
    """How a world is written. The placeholders are `{object}` and `{label}`; the query ends where the answer begins."""

    statement: str = "the {object} is in Box {label}"
    query: str = "Box {label} contains the"
    join: str = ", "
    end: str = ". "

    def context(self, world: World) -> str:
        """All statements of a world and the full stop, up to where the query begins."""
        pairs = zip(world.objects, world.labels, strict=True)
        text = self.join.join(self.statement.format(object=word, label=label) for word, label in pairs) + self.end
        return text[0].upper() + text[1:]

    def text(self, world: World, label: str) -> str:
        """The prompt that asks for the box called `label` (which need not be one of the world's)."""
        return self.context(world) + self.query.format(label=label)


TEMPLATES = {
    "object_first": Template(),
    "label_first": Template(statement="Box {label} contains the {object}"),
}
"""The prompt of the paper (section 3), and its control: with the label first, the query repeats a literal piece of the
context and copying what followed it there is enough."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """n prompts about equally many boxes, tokenised, with their positions. Tensors are int64, one row a prompt.

    `input_ids` is (n, T), padded on the right after `last`; `attention_mask` is its mask. `answer_ids` (n,) is the
    token of the queried object, -1 where the asked label belongs to no box. `object_ids` (n, boxes) are the tokens of
    all objects in order of mention. Positions are indices into a row: `last` the final token, `query` the asked label
    in the query, `prev` the label of box `queries[i]` in the context (the same label, unless the asked one belongs to
    no box), `object` the object of that box. `contexts` numbers the worlds: prompts with the same number share a world.
    """

    worlds: tuple[World, ...]
    queries: tuple[int, ...]
    asked: tuple[str, ...]
    templates: tuple[Template, ...]
    contexts: Tensor
    input_ids: Tensor
    answer_ids: Tensor
    object_ids: Tensor
    last: Tensor
    query: Tensor
    prev: Tensor
    object: Tensor

    def __len__(self) -> int:
        return len(self.worlds)

    @property
    def boxes(self) -> int:
        return len(self.worlds[0].objects)

    @property
    def attention_mask(self) -> Tensor:
        return (torch.arange(self.input_ids.shape[1], device=self.last.device) <= self.last[:, None]).long()

    @property
    def texts(self) -> tuple[str, ...]:
        rows = zip(self.templates, self.worlds, self.asked, strict=True)
        return tuple(template.text(world, label) for template, world, label in rows)

    @property
    def digest(self) -> str:
        """A hex digest of all that a run of these prompts depends on: tokens, answers, contexts and positions."""
        return results.digest(*(value for value in vars(self).values() if isinstance(value, Tensor)))

    def position(self, name: Position) -> Tensor:
        """The (n,) positions of that name."""
        return getattr(self, name)

    def select(self, rows: Tensor | Sequence[int]) -> "Prompts":
        """These rows, in this order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        picked: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                picked[field.name] = value[index.to(value.device)]
            elif isinstance(value, tuple):
                picked[field.name] = tuple(value[i] for i in index.tolist())
        return replace(self, **picked)


def prompts(
    subject: Subject,
    n: int,
    boxes: int = 7,
    seed: int = 0,
    split: Split = "discovery",
    template: str | Template = "object_first",
) -> Prompts:
    """Draw `n` prompts for a model, all queries of a context together, from contexts of one split.

    `boxes` is 2 to 10; `n` a multiple of it, so that every position of the queried box is asked equally often. The
    first prompts for a larger `n` are those for a smaller one. Raises `ValueError` before any model runs when the
    request cannot be met, or when the tokenizer splits too many objects or labels. Paper: section 3.

        subject = models.load("qwen2.5-coder-0.5b")
        p = boxes.prompts(subject, n=70, boxes=7, seed=0)
        print(p.texts[0], p.answer_ids[0])
    """
    if not 2 <= boxes <= 10:
        raise ValueError(f"2 to 10 boxes can be asked for, not {boxes}")
    if n < 1 or n % boxes:
        raise ValueError(
            f"n={n} is not a multiple of {boxes}: the {boxes} queries of a context come together. "
            f"The next one is {(max(n, 0) // boxes + 1) * boxes}"
        )
    drawn = list(itertools.islice(worlds(subject.tokenizer, boxes, seed, split), n // boxes))
    return from_worlds(
        subject,
        [world for world in drawn for _ in range(boxes)],
        [box for _ in drawn for box in range(boxes)],
        template=template,
    )


def worlds(tokenizer: Any, boxes: int, seed: int, split: Split) -> Iterator[World]:
    """An endless, seeded stream of distinct worlds of one split, in words that are single tokens of this tokenizer."""
    if split not in get_args(Split):
        raise ValueError(f"no split called {split!r}: one of {', '.join(get_args(Split))}")
    words = sorted(vocabulary.require(tokenizer, vocabulary.objects(), boxes, "objects"))
    letters = sorted(vocabulary.require(tokenizer, vocabulary.LABELS, boxes + 1, "box labels"))
    draw = random.Random(f"{seed}/{boxes}")
    seen: set[World] = set()
    while True:
        world = _draw(draw, words, letters, boxes, split)
        if world not in seen:
            seen.add(world)
            yield world


def _draw(draw: random.Random, words: list[str], letters: list[str], boxes: int, split: Split) -> World:
    """The next world of the split, out of these words and letters."""
    while True:
        world = World(tuple(draw.sample(words, boxes)), tuple(draw.sample(letters, boxes)))
        if world.split == split:
            return world


def from_worlds(
    subject: Subject,
    worlds: Sequence[World],
    queries: Sequence[int],
    *,
    asked: Sequence[str] | None = None,
    template: str | Template | Sequence[Template] = "object_first",
) -> Prompts:
    """Write and tokenise one prompt a world: it asks for box `queries[i]`, or for the label `asked[i]` instead.

    An asked label that no box has makes the answer -1; `prev` and `object` are then those of box `queries[i]`. With one
    template a world, prompts may differ in length. Raises `ValueError` if the asked label is another box's, or if a
    position cannot be found from the token ids.

        world = boxes.World(("apple", "cup"), ("F", "Q"))
        p = boxes.from_worlds(subject, [world], [0])
        assert p.texts[0].endswith("Box F contains the")
    """
    if isinstance(template, str):
        if template not in TEMPLATES:
            raise ValueError(f"no template called {template!r}: one of {', '.join(TEMPLATES)}, or a Template")
        template = TEMPLATES[template]
    templates = (template,) * len(worlds) if isinstance(template, Template) else tuple(template)
    if not worlds or len(worlds) != len(queries) or len({len(world.objects) for world in worlds}) != 1:
        raise ValueError("one query a world is needed, and worlds with equally many boxes")
    asked = tuple(asked) if asked else tuple(world.labels[box] for world, box in zip(worlds, queries, strict=True))
    for world, box, label in zip(worlds, queries, asked, strict=True):
        if label in world.labels and label != world.labels[box]:
            raise ValueError(f"box {box} is asked for, but {label!r} is the label of box {world.labels.index(label)}")
    tokenizer = subject.tokenizer
    words = {word for world in worlds for word in world.objects}
    letters = {label for world in worlds for label in world.labels} | set(asked)
    tokens = vocabulary.require(tokenizer, sorted(words | letters), len(words | letters), "words of these worlds")
    ids = [
        tokenizer(written.text(world, label))["input_ids"]
        for written, world, label in zip(templates, worlds, asked, strict=True)
    ]
    if any(row[-1] == tokenizer.eos_token_id for row in ids):
        raise ValueError("this tokenizer ends every text with an end token: the answer would not be what comes next")
    found = [
        _positions(row, tokens, world, box, label)
        for row, world, box, label in zip(ids, worlds, queries, asked, strict=True)
    ]
    width = max(len(row) for row in ids)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    numbers: dict[World, int] = {}
    device = subject.device
    last, query, prev, object_ = (torch.tensor(column, device=device) for column in zip(*found, strict=True))
    answers = [
        tokens[world.objects[world.labels.index(label)]] if label in world.labels else -1
        for world, label in zip(worlds, asked, strict=True)
    ]
    return Prompts(
        worlds=tuple(worlds),
        queries=tuple(queries),
        asked=asked,
        templates=templates,
        contexts=torch.tensor([numbers.setdefault(world, len(numbers)) for world in worlds]),
        input_ids=torch.tensor([list(row) + [pad] * (width - len(row)) for row in ids], device=device),
        answer_ids=torch.tensor(answers, device=device),
        object_ids=torch.tensor([[tokens[word] for word in world.objects] for world in worlds], device=device),
        last=last,
        query=query,
        prev=prev,
        object=object_,
    )


def _positions(row: list[int], tokens: dict[str, int], world: World, box: int, label: str) -> tuple[int, int, int, int]:
    """`last`, `query`, `prev` and `object` of one prompt, from its token ids."""
    query = max((i for i, token in enumerate(row) if token == tokens[label]), default=-1)

    def only(word: str) -> int:
        hits = [i for i, token in enumerate(row) if token == tokens[word] and i != query]
        if len(hits) != 1:
            raise ValueError(
                f"{word!r} stands {len(hits)} times in the context instead of once; the tokenizer may join words"
            )
        return hits[0]

    if query < 0:
        raise ValueError(f"the asked label {label!r} is not a token of its prompt")
    return len(row) - 1, query, only(world.labels[box]), only(world.objects[box])


def noise(subject: Subject, base: Prompts, seed: int = 0) -> Prompts:
    """Source prompts that share nothing with the base but the format: one for each, for path patching.

    Source i is a context of the same split with other objects and other labels than its base prompt; its query asks for
    a letter that is a label in neither. `prev` is the label of a box drawn once for each example and shared by all
    heads. A source depends only on the seed and its own base prompt, so it stays the same when rows are selected or
    reordered. Raises `ValueError` if the tokenizer has too few words. Paper: section 4.1; the official code may repeat
    words and letters, and redraws the box for every head (artefact B5).

        base = boxes.prompts(subject, n=70)
        source = boxes.noise(subject, base)
        assert (source.answer_ids == -1).all()
    """
    tokenizer, count = subject.tokenizer, base.boxes
    words = sorted(vocabulary.require(tokenizer, vocabulary.objects(), 2 * count, "objects"))
    letters = sorted(vocabulary.require(tokenizer, vocabulary.LABELS, 2 * count + 1, "box labels"))
    drawn, asked, stand_in = [], [], []
    for world, label in zip(base.worlds, base.asked, strict=True):
        draw = random.Random(json.dumps(["noise", seed, world.objects, world.labels, label]))
        other_words = [word for word in words if word not in world.objects]
        other_letters = [letter for letter in letters if letter not in world.labels and letter != label]
        drawn.append(_draw(draw, other_words, other_letters, count, world.split))
        asked.append(draw.choice([letter for letter in other_letters if letter not in drawn[-1].labels]))
        stand_in.append(draw.randrange(count))
    return from_worlds(subject, drawn, stand_in, asked=asked, template=base.templates)


def to_dataset(prompts: Prompts) -> "Dataset":
    """The prompts as a Hugging Face dataset: worlds, text, answer and split. `from_dataset` undoes it.

    boxes.to_dataset(p).to_json("prompts.jsonl")
    """
    rows = zip(
        prompts.worlds,
        prompts.queries,
        prompts.asked,
        prompts.contexts.tolist(),
        prompts.texts,
        prompts.templates,
        strict=True,
    )
    return dataset_of(
        [
            {
                "objects": list(world.objects),
                "labels": list(world.labels),
                "query": box,
                "asked": label,
                "context": context,
                "text": text,
                "answer": world.objects[world.labels.index(label)] if label in world.labels else None,
                "split": world.split,
                "template": asdict(template),
            }
            for world, box, label, context, text, template in rows
        ]
    )


def from_dataset(subject: Subject, dataset: "Dataset") -> Prompts:
    """Prompts for this model from a dataset written by `to_dataset`; the text is written anew from the worlds."""
    rows = dataset.to_list()
    return from_worlds(
        subject,
        [World(tuple(row["objects"]), tuple(row["labels"])) for row in rows],
        [row["query"] for row in rows],
        asked=[row["asked"] for row in rows],
        template=[Template(**row["template"]) for row in rows],
    )
