"""The task: worlds of labelled boxes, prompts that ask for one of them, and the four positions that matter.

A world is structured data and stays so: nothing is ever parsed back from the text. A prompt is written from a world by
a `Template`, tokenised, and its positions are found from the token ids, prompt by prompt.

    The apple is in Box F, the cup is in Box Q. Box F contains the
        object              prev                    query        last
"""

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..arguments import integer, of_kind, one_of, several
from ..heads import GROUPS
from ..models.subject import Subject
from . import vocabulary
from .prompts import knowing_words
from .questions import Prompts as Prompts
from .questions import of as of
from .rounds import Experiment, Round
from .rows import dataset_of
from .worlds import TEMPLATES as TEMPLATES
from .worlds import Split as Split
from .worlds import Template as Template
from .worlds import World as World
from .worlds import draw_world
from .worlds import worlds as worlds

if TYPE_CHECKING:
    from datasets import Dataset


Position = Literal["last", "query", "prev", "object"]

NUMBER = (2, 10)
"""The fewest and the most boxes of a prompt."""

_A, _B, _C, _D = GROUPS
ROUNDS = (
    Round(_A, "last", share=20 / 1024),
    Round(_B, "last", into=_A, through="q", share=5 / 1024),
    Round(_C, "query", into=_B, through="v", share=10 / 1024),
    Round(_D, "prev", into=_C, through="v", heard_at="query", share=5 / 1024),
)
"""The paper's four rounds; the shares are its 20, 5, 10 and 5 of Llama-7B's 1,024 heads. The official protocol lets the
values of the last round be heard everywhere. Paper: section 4.2."""


def prompts(
    subject: Subject,
    n: int,
    boxes: int = 7,
    seed: int = 0,
    split: Split = "discovery",
    template: str | Template = "object_first",
) -> Prompts:
    """Draw prompts for a model, all queries of a context together, from contexts of one split.

    Args:
        subject: the model whose tokenizer reads them.
        n: a multiple of `boxes`, so that every position of the queried box is asked equally often.
        boxes: 2 to 10.
        seed: of the draws; the first prompts for a larger `n` are those for a smaller one.
        split: of the contexts.
        template: how they are written: a name of `TEMPLATES`, or a `Template`.

    Raises `ValueError` before any model runs when the request cannot be met, or when the tokenizer splits too many
    objects or labels. Paper: section 3.

        from entity_circuits import boxes, models

        subject = models.load("qwen2.5-coder-0.5b")
        p = boxes.prompts(subject, n=14, boxes=7, seed=0)
        print(p.texts[0], p.answer_ids[0])
    """
    one_of("split", split, Split)
    n, boxes, seed = integer("n", n, least=None), integer("boxes", boxes, *NUMBER), integer("seed", seed, least=None)
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


def from_worlds(
    subject: Subject,
    worlds: Sequence[World],
    queries: Sequence[int],
    *,
    asked: Sequence[str] | None = None,
    template: str | Template | Sequence[Template] = "object_first",
) -> Prompts:
    """Write and tokenise one prompt a world.

    Args:
        subject: the model whose tokenizer reads them.
        worlds: n worlds with equally many boxes.
        queries: for each, the box that is asked for, from 0.
        asked: for each, the label that is asked for instead; one that no box has makes the answer -1, and `prev` and
            `object` are then those of box `queries[i]`.
        template: one for all, by name or itself, or one a world: prompts may then differ in length.

    Raises `ValueError` if the asked label is another box's, or if an object or label is not one token of its prompt.

        from entity_circuits import boxes, models

        subject = models.load("qwen2.5-coder-0.5b")
        p = boxes.from_worlds(subject, [boxes.World(("apple", "cup"), ("F", "Q"))], [0])
        assert p.texts[0].endswith("Box F contains the")
    """
    if isinstance(template, str):
        one_of("template", template, TEMPLATES)
        template = TEMPLATES[template]
    worlds, queries = several("worlds", worlds), several("queries", queries)
    for world in worlds:
        of_kind("each of the worlds", world, World)
    if len(worlds) != len(queries) or len({len(world.objects) for world in worlds}) != 1:
        raise ValueError("one query a world is needed, and worlds with equally many boxes")
    templates = (template,) * len(worlds) if isinstance(template, Template) else several("templates", template)
    for way in templates:
        of_kind("each of the templates", way, Template)
    queries = [integer("queried box", box, 0, len(worlds[0].objects) - 1) for box in queries]
    for name, given in (("template", templates), ("asked label", asked)):
        if given is not None and len(several(f"{name}s", given)) != len(worlds):
            raise ValueError(f"one {name} a world is needed: {len(worlds)}, not {len(given)}")
    asked = (
        tuple(asked)
        if asked is not None
        else tuple(world.labels[box] for world, box in zip(worlds, queries, strict=True))
    )
    for world, box, label in zip(worlds, queries, asked, strict=True):
        if label in world.labels and label != world.labels[box]:
            raise ValueError(f"box {box} is asked for, but {label!r} is the label of box {world.labels.index(label)}")
    tokenizer = subject.tokenizer
    words = {word for world in worlds for word in world.objects}
    letters = {label for world in worlds for label in world.labels} | set(asked)
    tokens = vocabulary.require(tokenizer, sorted(words | letters), len(words | letters), "words of these worlds")
    if len(set(tokens.values())) < len(tokens):
        one, other = next(pair for pair in itertools.combinations(tokens, 2) if tokens[pair[0]] == tokens[pair[1]])
        raise ValueError(f"{one!r} and {other!r} are one token of this tokenizer: they cannot be told apart")
    texts = [written.text(world, label) for written, world, label in zip(templates, worlds, asked, strict=True)]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    vocabulary.require_one_beginning(tokenizer, texts, ids)
    if any(row[-1] == tokenizer.eos_token_id for row in ids):
        raise ValueError("this tokenizer ends every text with an end token: the answer would not be what comes next")
    _require_boundary(tokenizer, ids, tokens, templates, worlds, asked)
    found = [
        _positions(row, tokens, world, box, label)
        for row, world, box, label in zip(ids, worlds, queries, asked, strict=True)
    ]
    width = max(len(row) for row in ids)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    numbers: dict[World, int] = {}
    last, query, prev, object_ = (torch.tensor(column) for column in zip(*found, strict=True))
    answers = [
        tokens[world.objects[world.labels.index(label)]] if label in world.labels else -1
        for world, label in zip(worlds, asked, strict=True)
    ]
    made = Prompts(
        worlds=tuple(worlds),
        queries=tuple(queries),
        asked=asked,
        templates=templates,
        contexts=torch.tensor([numbers.setdefault(world, len(numbers)) for world in worlds]),
        input_ids=torch.tensor([list(row) + [pad] * (width - len(row)) for row in ids]),
        answer_ids=torch.tensor(answers),
        object_ids=torch.tensor([[tokens[word] for word in world.objects] for world in worlds]),
        label_ids=tuple(tuple(tokens[label] for label in world.labels) for world in worlds),
        last=last,
        query=query,
        prev=prev,
        object=object_,
    )
    return knowing_words(made, tokenizer)


def _require_boundary(
    tokenizer: Any,
    ids: Sequence[Sequence[int]],
    tokens: dict[str, int],
    templates: Sequence[Template],
    worlds: Sequence[World],
    asked: Sequence[str],
) -> None:
    """`ValueError` unless each prompt goes on as it was read, with its answer (any word, if it has none) as a token."""
    words = [
        world.objects[world.labels.index(label) if label in world.labels else 0]
        for world, label in zip(worlds, asked, strict=True)
    ]
    rows = zip(templates, worlds, asked, words, ids, strict=True)
    for template, world, label, word, row in rows:
        text = template.text(world, label)
        if list(tokenizer(f"{text} {word}")["input_ids"]) != [*row, tokens[word]]:
            raise ValueError(f"this tokenizer reads {text[-30:]!r} and ' {word}' otherwise together than apart")


def _positions(row: list[int], tokens: dict[str, int], world: World, box: int, label: str) -> tuple[int, int, int, int]:
    """`last`, `query`, `prev` and `object` of one prompt, from its token ids: each word of the world is there once."""
    where: dict[int, list[int]] = {}
    for index, token in enumerate(row):
        where.setdefault(token, []).append(index)
    if tokens[label] not in where:
        raise ValueError(f"the asked label {label!r} is not a token of its prompt")
    query = where[tokens[label]].pop()
    for word in (*world.objects, *world.labels):
        if (hits := len(where.get(tokens[word], ()))) != 1:
            raise ValueError(
                f"{word!r} stands {hits} times in the context instead of once; the tokenizer may join words"
            )
    return len(row) - 1, query, where[tokens[world.labels[box]]][0], where[tokens[world.objects[box]]][0]


def noise(subject: Subject, base: Prompts, seed: int = 0) -> Prompts:
    """Source prompts that share nothing with the base but the format: one for each, for path patching.

    Source i is a context of the same split with other objects and other labels than its base prompt; its query asks for
    a letter that is a label in neither. `prev` is the label of a box drawn once for each example and shared by all
    heads. A source depends only on the seed and its own base prompt, so it stays the same when rows are selected or
    reordered. Raises `ValueError` if the tokenizer has too few words. Paper: section 4.1; the official code may repeat
    words and letters, and redraws the box for every head (artefact B5).

        from entity_circuits import boxes, models

        subject = models.load("qwen2.5-coder-0.5b")
        source = boxes.noise(subject, boxes.prompts(subject, n=14))
        assert (source.answer_ids == -1).all()
    """
    of_kind("base", base, Prompts)
    tokenizer, count, seed = subject.tokenizer, base.boxes, integer("seed", seed, least=None)
    words = sorted(vocabulary.require(tokenizer, vocabulary.objects(), 2 * count, "objects"))
    letters = sorted(vocabulary.require(tokenizer, vocabulary.LABELS, 2 * count + 1, "box labels"))
    drawn, asked, stand_in = [], [], []
    for world, label in zip(base.worlds, base.asked, strict=True):
        draw = random.Random(json.dumps(["noise", seed, world.objects, world.labels, label]))
        other_words = [word for word in words if word not in world.objects]
        other_letters = [letter for letter in letters if letter not in world.labels and letter != label]
        drawn.append(draw_world(draw, other_words, other_letters, count, world.split))
        asked.append(draw.choice([letter for letter in other_letters if letter not in drawn[-1].labels]))
        stand_in.append(draw.randrange(count))
    return from_worlds(subject, drawn, stand_in, asked=asked, template=base.templates)


def experiment(
    subject: Subject, n: int = 70, boxes: int = 7, seed: int = 0, template: str | Template = "object_first"
) -> Experiment:
    """What the paper's circuit is looked for on.

    Args:
        subject: the model whose tokenizer reads the prompts.
        n: prompts of the discovery split, a multiple of `boxes`.
        boxes: 2 to 10.
        seed: of the draws.
        template: how they are written, as in `prompts`.

    Returns them, their `noise`, and the four rounds. Paper: section 4.2.

        from entity_circuits import boxes, models

        subject = models.load("qwen2.5-coder-0.5b")
        print(boxes.experiment(subject, n=7).source.texts[0])
    """
    base = prompts(subject, n, boxes, seed, "discovery", template)
    about: dict[str, object] = {"n": n, "boxes": boxes, "seed": seed, "reach": "query"}
    if template != "object_first":
        about["template"] = template.statement if isinstance(template, Template) else template
    return Experiment(base, noise(subject, base, seed), ROUNDS, about)


def for_means(subject: Subject, n: int = 200, boxes: int = 7, seed: int = 0) -> Prompts:
    """One prompt in each of `n` contexts of the split "means", asking for a label that belongs to no box of it.

    So their mean holds the format and the position, but no object, label or question. Paper: section 4 and its
    appendix; the official code takes 500 contexts, those of its evaluation among them.

        from entity_circuits import boxes, models

        subject = models.load("qwen2.5-coder-0.5b")
        print(boxes.for_means(subject, n=20).texts[0])
    """
    n, boxes, seed = integer("n", n), integer("boxes", boxes, *NUMBER), integer("seed", seed, least=None)
    letters = sorted(vocabulary.require(subject.tokenizer, vocabulary.LABELS, boxes + 1, "box labels"))
    drawn = list(itertools.islice(worlds(subject.tokenizer, boxes, seed, "means"), n))
    draw = random.Random(f"means/{seed}")
    asked = [draw.choice([letter for letter in letters if letter not in world.labels]) for world in drawn]
    return from_worlds(subject, drawn, [draw.randrange(boxes) for _ in drawn], asked=asked)


def to_dataset(prompts: Prompts) -> "Dataset":
    """The prompts as a Hugging Face dataset: worlds, text, answer and split. `from_dataset` undoes it."""
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
    if other := sorted({name for row in rows for name in row["template"]} - {one.name for one in fields(Template)}):
        raise ValueError(f"these prompts are of a template that is rewritten ({other[0]}): draw them from their seed")
    return from_worlds(
        subject,
        [World(tuple(row["objects"]), tuple(row["labels"])) for row in rows],
        [row["query"] for row in rows],
        asked=[row["asked"] for row in rows],
        template=[Template(**row["template"]) for row in rows],
    )
