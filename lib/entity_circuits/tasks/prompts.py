"""Prompts with named positions: all that recording, editing and the methods ask of a task.

`from_texts` makes them of any texts. The boxes (`boxes.Prompts`) are one task on top.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from ..arguments import integer, of_kind, several
from ..models.subject import Subject
from ..values import digest, installed, plain
from . import spots
from .vocabulary import Words, ends_in_space, require_one_beginning, words_of

_PLACE = re.compile(r"(.*?)([+-]\d+)?")


@dataclass(frozen=True, eq=False, kw_only=True)
class Prompts:
    """n tokenised prompts. Tensors are int64, one row a prompt.

    `input_ids` (n, T), padded on the right after `last` (n,), the final token. `answer_ids` (n,) is the right next
    token, -1 where there is none. `contexts` (n,) numbers what the prompts are samples of: intervals are taken over
    contexts, and prompts of one context may share their beginning. `positions` are (n,) indices into the rows, by name.
    `wrong_ids` (n,) is the token that a logit difference compares the answer with; `choice_ids` (n, k) are the answers
    among which one is to be chosen, the right one among them. `vocabulary` says which words the tokens are in the
    tokenizer that made them, so that no model of another vocabulary is given them; None: nobody knows, nothing is
    compared. It is no part of the `digest`: it changes no number. Raises `ValueError` for what does not fit together,
    and for a wrong answer that is none, or the right one.
    """

    input_ids: Tensor
    last: Tensor
    answer_ids: Tensor
    contexts: Tensor
    positions: Mapping[str, Tensor] = field(default_factory=dict)
    wrong_ids: Tensor | None = None
    choice_ids: Tensor | None = None
    vocabulary: Words | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.input_ids.shape)
        if len(shape) != 2 or not all(shape):
            raise ValueError(f"there are no prompts: `input_ids` are (n, tokens), not of shape {shape}")
        columns = {name: getattr(self, name) for name in ("last", "answer_ids", "contexts", "wrong_ids")}
        for name, column in {**columns, **{f"position {name!r}": x for name, x in self.positions.items()}}.items():
            if column is not None and tuple(column.shape) != shape[:1]:
                raise ValueError(f"{name}: one a prompt, of shape {shape[:1]}, is needed, not {tuple(column.shape)}")
        for name, value in {**vars(self), **self.positions}.items():
            if isinstance(value, Tensor) and value.dtype != torch.long:
                raise ValueError(f"{name}: tokens, places and contexts are int64, not {value.dtype}")
        if bool(((self.last < 0) | (self.last >= shape[1])).any()):
            raise ValueError(f"last={self.last.tolist()}: the prompts have tokens 0 to {shape[1] - 1}")
        for name in self.positions:
            spots.require_name(name)
        choices = self.choice_ids
        if choices is not None and (choices.ndim != 2 or len(choices) != shape[0]):
            raise ValueError(f"choice_ids: (n, k) tokens for {shape[0]} prompts are needed, not {tuple(choices.shape)}")
        if choices is not None and bool((choices < 0).any()):
            raise ValueError(
                "choice_ids: a choice is a token; all prompts have equally many, and no number fills a gap"
            )
        if self.wrong_ids is not None and bool(((self.wrong_ids < 0) | (self.wrong_ids == self.answer_ids)).any()):
            raise ValueError("wrong_ids: a wrong answer is a token, and another one than the right answer")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def attention_mask(self) -> Tensor:
        """(n, T): 1 up to `last`, 0 for padding."""
        return (torch.arange(self.input_ids.shape[1], device=self.last.device) <= self.last[:, None]).long()

    @property
    def digest(self) -> str:
        """A hex digest of all that a run of these prompts depends on: tokens, answers, contexts and positions."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        tensors |= {f"at {name}": value for name, value in self.positions.items()}
        found = digest(*(tensors[name] for name in sorted(tensors)))
        # Positions that are fields of a task's own class have their names from it; files of `data/` rely on that.
        of_the_task = {one.name for one in fields(self)} - {one.name for one in fields(Prompts)}
        named: list[object] = [*sorted(set(self.positions) - of_the_task)]
        if not installed(type(self).__module__):  # what else a reader's own class holds, and what it says of places
            held = {name: value for name, value in vars(self).items() if name not in {**tensors, "positions": 0}}
            named.append(plain([type(self), held]))
        return hashlib.sha256(json.dumps([found, named]).encode()).hexdigest()[: len(found)] if named else found

    def position(self, name: str) -> Tensor:
        """(n,): the token of that name in each prompt; `query+1` is the one after `query`.

        Raises `ValueError` for a name that these prompts do not have, and if it falls outside of one of them.
        """
        found = self.places(name)
        if found.shape[1] != 1 or bool((found < 0).any()):
            raise ValueError(f"{name!r} is not one token in every one of these prompts")
        return found[:, 0]

    def places(self, place: str) -> Tensor:
        """(n, k): the tokens that a place names in each prompt, -1 where a prompt has no such token.

        A place is `last`, the name of a position, `everywhere`, or what the task knows besides; an offset counts tokens
        from there, as in `query+1`. Raises `ValueError` for another name.
        """
        match = _PLACE.fullmatch(place) if isinstance(place, str) else None
        if match is None:
            raise ValueError(f"a place is the name of a token, not {place!r}")
        found = self._named(match[1])
        if found is None:
            known = ", ".join(["last", *self.positions, "everywhere"])
            raise ValueError(f"no place called {place!r}: these prompts have {known}, and offsets such as last-1")
        found = torch.where(found >= 0, found + int(match[2] or 0), -1)
        found = torch.where((found >= 0) & (found <= self.last[:, None]), found, -1)
        there = found >= 0
        found = found.gather(1, torch.argsort(~there, dim=1, stable=True))
        return found[:, : max(1, int(there.sum(1).max()))]

    def _named(self, name: str) -> Tensor | None:
        """(n, k): the tokens of this name without an offset, below 0 for none; None for an unknown name."""
        if name == "everywhere":
            return torch.arange(int(self.last.max()) + 1, device=self.last.device).expand(len(self), -1)
        named = {"last": self.last, **self.positions}
        return named[name][:, None] if name in named else None

    def require_form(self, other: "Prompts", what: str = "source") -> None:
        """Raise `ValueError` unless the other prompts, `what` they are, are as many as these, one for each.

        A task may ask for more.
        """
        of_kind(f"{what} prompts", other, Prompts)
        if len(self) != len(other):
            raise ValueError(f"one {what} prompt a base prompt is needed: {len(self)} and {len(other)}")

    def columns(self) -> dict[str, list[Any]]:
        """What a table says of each prompt beside its answer; a task has its own."""
        return {}

    def random_keys(self, tokenizer: Any, seed: int = 0) -> Tensor:
        """(n,): a token of each prompt that should not matter, as a control. A task says which; `ValueError` if not."""
        raise ValueError(
            "these prompts have no random keys: name a position and cut the way to it, as in 'last->other'"
        )

    def select(self, rows: Tensor | Sequence[int]) -> Self:
        """These rows, in this order; of (n,) bools, those that are true. Raises `ValueError` as `rows_of` does."""
        index = rows_of(rows, len(self))
        picked: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                picked[one.name] = value[index.to(value.device)]
            elif isinstance(value, tuple):
                picked[one.name] = tuple(value[i] for i in index.tolist())
            elif isinstance(value, Mapping):
                picked[one.name] = {name: x[index.to(x.device)] for name, x in value.items()}
        return replace(self, **picked)


_Some = TypeVar("_Some", bound=Prompts)


def knowing_words(prompts: _Some, tokenizer: Any) -> _Some:
    """The same prompts with the `vocabulary` of the tokenizer that made them: padding is no part of it.

    For example:

        from entity_circuits import models, toy
        from entity_circuits.tasks.prompts import knowing_words

        by_hand = toy.prompts("apple")
        print(len(knowing_words(by_hand, models.load("qwen2.5-coder-0.5b").tokenizer).vocabulary))  # 4
    """
    used = [prompts.input_ids[prompts.attention_mask.bool()], prompts.answer_ids, prompts.wrong_ids, prompts.choice_ids]
    tokens = torch.cat([one.flatten().cpu() for one in used if one is not None])
    return replace(prompts, vocabulary=words_of(tokenizer, tokens[tokens >= 0].tolist()))


def rows_of(rows: Tensor | Sequence[int], n: int) -> Tensor:
    """(k,) int64: the rows of n prompts that are meant, given as numbers or as a mask of n bools.

    Raises `ValueError` for a mask of another length, and for numbers that are not whole, or beyond the last row.

        from entity_circuits.tasks.prompts import rows_of

        print(rows_of([True, False, True], 3), rows_of([2, 0], 3))
    """
    try:
        index = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"rows are whole numbers, or a mask of {n} bools, not {rows!r}") from error
    if index.dtype == torch.bool and index.shape == (n,):
        return torch.nonzero(index)[:, 0]
    if index.dtype == torch.bool:
        raise ValueError(f"a mask of {n} prompts is {n} bools, not {tuple(index.shape)}")
    if not index.numel():
        return index.long().flatten()
    if index.ndim != 1 or index.is_floating_point():
        raise ValueError(f"rows are whole numbers, or a mask of {n} bools, not {index.tolist()}")
    if bool(((index < -n) | (index >= n)).any()):
        raise ValueError(f"rows {index.tolist()} of {n} prompts: they are numbered from 0 to {n - 1}")
    return index.long()


def require_answers(prompts: Prompts) -> None:
    """Raise `ValueError` unless every prompt has a right answer.

    For example:

        from entity_circuits import toy
        from entity_circuits.tasks.prompts import require_answers

        require_answers(toy.prompts("apple"))
        print("an accuracy can be told")
    """
    of_kind("prompts", prompts, Prompts)
    if missing := int((prompts.answer_ids < 0).sum()):
        raise ValueError(
            f"{missing} of {len(prompts)} prompts have no right answer: nothing can be right or wrong there"
        )


def from_texts(
    subject: Subject,
    texts: Sequence[str],
    answers: Sequence[str | int],
    *,
    positions: Mapping[str, spots.Where] | None = None,
    wrong: Sequence[str | int] | None = None,
    choices: Sequence[Sequence[str | int]] | None = None,
    contexts: Sequence[int] | None = None,
) -> Prompts:
    """Prompts of any task, from their texts.

    Args:
        subject: the model whose tokenizer reads them.
        texts: n texts, each ending where the answer begins; none ends in a space.
        answers: the right continuation of each, one token: as text with the space before it (" Mary"), or as its id.
        positions: by name, where each is: a piece of the text, which stands in it once (its last token is meant); a
            pair of a piece and which occurrence, from 1 (("John", 2)); or the index of a token. One for all texts, or
            a list of one for each.
        wrong: for each text a wrong continuation, likewise; a logit difference is taken against it.
        choices: for each text the continuations among which one is to be chosen; all texts have equally many.
        contexts: n numbers that say which texts belong together, as samples of one thing; each by itself unless given.

    Raises `ValueError`, naming the text, for a continuation that is not one token, a word that the tokenizer does not
    know, a piece that is not there or stands there several times, a second BOS token, and lists of other lengths.

        from entity_circuits import models, prompts

        subject, texts = models.load("qwen2.5-coder-0.5b"), ["The cup is in Box F. Box F contains the"]
        p = prompts.from_texts(subject, texts, [" cup"], positions={"object": "cup"})
        print(p.position("object"), p.answer_ids)
    """
    texts, answers = several("texts", texts), several("answers", answers)
    choices = None if choices is None else [several("choices", some) for some in several("choices", choices)]
    if not isinstance(positions, Mapping | None):
        raise ValueError(f"positions are given by name, as in {{'object': 'cup'}}, not as {positions!r}")
    n, tokenizer = len(texts), subject.tokenizer
    given = {"answers": answers, "wrong": wrong, "choices": choices, "contexts": contexts}
    for name, values in given.items():
        if values is not None and len(several(name, values)) != n:
            raise ValueError(f"{len(values)} {name} for {n} texts: one for each is needed")
    for row, text in enumerate(texts):
        of_kind(f"text {row}", text, str)
        if not text:
            raise ValueError(f"text {row} is empty")
        if ends_in_space(text):
            raise ValueError(f"text {row} ends in a space, which belongs to the next token: leave it out ({text!r})")
    read = [tokenizer(text)["input_ids"] for text in texts]
    require_one_beginning(tokenizer, texts, read)
    if any(ids[-1] == tokenizer.eos_token_id for ids in read):
        raise ValueError("this tokenizer ends every text with an end token: the answer would not be what comes next")
    unknown = getattr(tokenizer, "unk_token_id", None)
    ends = (getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None))
    for text, ids in zip(texts, read, strict=True):
        if unknown not in (None, *ends) and unknown in ids:  # some begin every text with it: it stands for no word then
            raise ValueError(f"this tokenizer does not know a word of {text!r}: it reads {tokenizer.unk_token} there")
    width = max(map(len, read))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)

    most = subject.model.get_input_embeddings().weight.shape[0] - 1

    def tokens(name: str, words: Sequence[str | int], least: int = 0) -> Tensor:
        one = [spots.following(tokenizer, text, ids, word) for text, ids, word in zip(texts, read, words, strict=True)]
        return torch.tensor([integer(f"token id among the {name}", id_, least, most) for id_ in one])

    found = {}
    for name, where in (positions or {}).items():
        spots.require_name(name)
        each = list(where) if isinstance(where, Sequence) and not isinstance(where, str | tuple) else [where] * n
        if len(each) != n:
            raise ValueError(f"{len(each)} positions called {name!r} for {n} texts: one for each is needed")
        found[name] = torch.tensor([spots.of(tokenizer, name, row, text, each[row]) for row, text in enumerate(texts)])
    if choices is not None and len({len(some) for some in choices}) != 1:
        raise ValueError(f"all texts have equally many choices, not {sorted({len(some) for some in choices})}")
    columns = list(zip(*choices, strict=True)) if choices is not None else []
    given_contexts = range(n) if contexts is None else contexts
    right_ids = tokens("answers", answers, least=-1)
    wrong_ids = None if wrong is None else tokens("wrong answers", wrong)
    for row, (right, other) in enumerate(zip(right_ids, wrong_ids if wrong_ids is not None else (), strict=False)):
        if right == other:
            raise ValueError(f"{answers[row]!r} is the answer of text {row} and its wrong answer: they have to differ")
    made = Prompts(
        input_ids=torch.tensor([list(ids) + [pad] * (width - len(ids)) for ids in read]),
        last=torch.tensor([len(ids) - 1 for ids in read]),
        answer_ids=right_ids,
        contexts=torch.tensor([integer("number of a context", one, least=None) for one in given_contexts]),
        positions=found,
        wrong_ids=wrong_ids,
        choice_ids=torch.stack([tokens("choices", column) for column in columns], dim=1) if columns else None,
    )
    for row, right in enumerate(right_ids.tolist()):
        if made.choice_ids is not None and choices is not None:
            ids = made.choice_ids[row].tolist()
            if right not in ids or len(set(ids)) < len(ids):
                raise ValueError(
                    f"the choices {list(choices[row])} of text {row}: its answer {answers[row]!r} has to be among "
                    "them, and no token twice"
                )
    return knowing_words(made, tokenizer)
