"""Inputs made as the paper's official code makes them: pairs of prompts, the places where they are read, models, draws.

Nothing here computes an experiment. These are other inputs to the same public functions, so that `official` can show
what each artefact (B1 to B19) does to a number. The other chapters use none of it.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from entity_circuits.arguments import one_of
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation, interchange
from entity_circuits.methods.ablation import kept
from entity_circuits.methods.interchange import Pairs
from entity_circuits.methods.kept import Kept
from entity_circuits.models.subject import Subject, wrap
from entity_circuits.runs.mean_replay import Means
from entity_circuits.runs.recording import Recording
from entity_circuits.tasks import boxes, vocabulary
from entity_circuits.tasks.boxes import Prompts
from entity_circuits.tasks.desiderata import ANSWERS, Hypothesis, Rewritten, Triples
from torch import Tensor, nn


def apparent_index(prompts: Prompts, row: int) -> int:
    """Which statement seems to hold the asked label, if one asks which is the first with that letter anywhere in it.

    For the labels B and T that is the first statement, whatever the context: it says "Box" and begins with "The".
    """
    template, world = prompts.templates[row], prompts.worlds[row]
    statements = template.context(world).split(template.join)
    return next(index for index, text in enumerate(statements) if prompts.asked[row] in text)


def sources(prompts: Prompts, desideratum: Hypothesis = "position", seed: int = 0) -> Tensor:
    """(n,) int64: for each prompt the row of the prompt that the official code takes as its source (artefact B1).

    Rows are drawn at random until one fits. For `position` and `object` the source must ask for another position than
    the base, but the position asked in the base is always taken to be the first; for `label` the base must have the
    source's label in another box than its own. Rows of the base's own context are left out: among the official code's
    500 rows they are rare, among few they would not be. Raises `ValueError` if no row fits.

        rows = inputs.sources(p, "position")
        print([p.queries[row] for row in rows])
    """
    one_of("desideratum", desideratum, Hypothesis)
    draw = random.Random(f"official pairs/{desideratum}/{seed}")
    contexts = prompts.contexts.tolist()
    index = [apparent_index(prompts, row) for row in range(len(prompts))]
    found = []
    for base in range(len(prompts)):
        labels = set(prompts.worlds[base].labels) - {prompts.asked[base]}

        def fits(row: int, base: int = base, labels: set[str] = labels) -> bool:
            asks = prompts.asked[row] in labels if desideratum == "label" else index[row] != 0
            return asks and contexts[row] != contexts[base]

        row = next((row for row in draw.sample(range(len(prompts)), len(prompts)) if fits(row)), None)
        if row is None:
            raise ValueError(f"none of these {len(prompts)} prompts can be the source of prompt {base}: take more")
        found.append(row)
    return torch.tensor(found)


def triples(prompts: Prompts, rows: Tensor, desideratum: Hypothesis = "position") -> Triples:
    """The official pairs as triples: each prompt with the one of row `rows[i]` as its source; candidates may coincide.

    t = inputs.triples(p, inputs.sources(p))
    """
    one_of("desideratum", desideratum, Hypothesis)
    source, every = prompts.select(rows), torch.arange(len(prompts))
    worlds = list(zip(prompts.worlds, source.asked, strict=True))
    where = torch.tensor([world.labels.index(label) if label in world.labels else -1 for world, label in worlds])
    words, places = prompts.object_ids.cpu(), torch.tensor(source.queries)
    label = torch.where(where < 0, where, words[every, where.clamp(min=0)])
    columns = [prompts.answer_ids.cpu(), words[every, places], source.answer_ids.cpu(), label]
    candidates = torch.stack(columns, dim=1).to(prompts.answer_ids.device)
    return Triples(desideratum, prompts, source, candidates[:, ANSWERS.index(desideratum)], candidates, ANSWERS)


def reread(pairs: Pairs, given: Triples, recorded: Sequence[Recording], rows: Tensor | None = None) -> Pairs:
    """Other sources for the base runs of `pairs`, from runs that exist: row `rows[i]` of them is the source of base i.

    z is read where `given.source` says that `last`, `query` and `prev` are. Without `rows`, source i is row i.
    """
    rows = torch.arange(len(given)) if rows is None else rows
    known = recorded is pairs.batches
    tops = pairs.base_top if known else torch.cat([interchange.top(part) for part in recorded])
    read, begin = {position: torch.zeros_like(z) for position, z in pairs.z.items()}, 0
    for part in recorded:
        here = torch.nonzero((rows >= begin) & (rows < begin + len(part)))[:, 0]
        for position in read:
            where = given.source.position(position)[here]
            chosen = part.select(rows[here] - begin)
            read[position][:, here] = torch.stack([chosen.at("z", i, where).cpu() for i in range(len(part.z))])
        begin += len(part)
    return replace(pairs, triples=given, z=read, source_top=tops[rows])


def borrowed(pairs: Pairs, desideratum: Hypothesis = "position", seed: int = 0) -> Pairs:
    """Official pairs out of base prompts that have been run: their sources are among them, so nothing is run again.

    theirs = inputs.borrowed(pairs)
    print(interchange.patch(subject, heads, theirs, position="last").answer.value_counts())
    """
    one_of("desideratum", desideratum, Hypothesis)
    base = boxes.of(pairs.triples.base)
    rows = sources(base, desideratum, seed)
    return reread(pairs, triples(base, rows, desideratum), pairs.batches, rows)


def first(pairs: Pairs) -> Pairs:
    """The first batch of pairs, for what costs much: no more than a recording's worth of prompts."""
    rows = pairs.rows[0]
    cut = {name: getattr(pairs, name)[rows] for name in ("base_top", "source_top")}
    z = {position: some[:, rows] for position, some in pairs.z.items()}
    given = pairs.triples.select(torch.arange(len(pairs))[rows])
    return replace(pairs, triples=given, batches=pairs.batches[:1], z=z, **cut)


def altered_order(subject: Subject, given: Triples) -> Triples:
    """The sources with the queried statement as "Box F contains the cup", and a stray comma where it is the last one.

    The comma is written as a token of its own, as it is one for Llama's tokenizer: those prompts are one token longer.
    """
    odd = "Box {label} contains the {object}"
    source = boxes.of(given.source)
    written = [
        Rewritten(odd=box, odd_statement=odd, end=" ,. " if box == source.boxes - 1 else ". ") for box in source.queries
    ]
    again = boxes.from_worlds(subject, source.worlds, source.queries, template=written)
    return replace(given, desideratum="altered_box_obj_order", source=again)


def from_the_end(prompts: Prompts) -> Prompts:
    """The prompts with `last` and `query` counted from the end of the padded rows; padding is read as text (B3)."""
    width = prompts.input_ids.shape[1]
    asked = (prompts.last - prompts.query)[0]
    return replace(prompts, last=torch.full_like(prompts.last, width - 1), query=(prompts.last * 0 + width - 1) - asked)


def list_token(tokenizer: Any, word: str) -> int:
    """What encoding a *list* of one word gives: the piece of the vocabulary that is spelled so, without the mark of a
    space before it; else the unknown token; -1 if the tokenizer has none (artefact B4)."""
    found = tokenizer.convert_tokens_to_ids([word])[0]
    if found is None:
        found = tokenizer.unk_token_id
    return -1 if found is None else int(found)


def without_o(base: Subject, tuned: Subject) -> Subject:
    """The fine-tuned model as the official hooks run it: every attention output made with the base's `o_proj` (B2).

    All other weights are shared with `tuned`, so it takes hardly any memory. Raises `ValueError` for models of
    different shapes.
    """
    if (base.layers, base.heads, base.head_size) != (tuned.layers, tuned.heads, tuned.head_size):
        raise ValueError(f"{base.name} and {tuned.name} have different shapes")
    model = copy.deepcopy(tuned.model, {id(value): value for value in tuned.model.parameters()})
    for layer, other in zip(model.model.layers, base.model.model.layers, strict=True):
        layer.self_attn.o_proj.weight = nn.Parameter(other.self_attn.o_proj.weight.detach(), requires_grad=False)
    name = f"{tuned.name} with o_proj of {base.name}"
    return wrap(model, tuned.tokenizer, name, f"{tuned.fingerprint}/o_proj/{base.fingerprint}")


def label_positions(prompts: Prompts) -> Tensor:
    """(n, boxes): where the labels of all boxes stand in each context."""
    inside = torch.arange(prompts.input_ids.shape[1], device=prompts.query.device) < prompts.query[:, None]
    hits = (prompts.input_ids[:, None] == prompts.object_ids[:, :, None]) & inside[:, None]
    return hits.int().argmax(-1) + (prompts.prev - prompts.object)[:, None]


def one_draw(source: Recording, seed: int = 0) -> Recording:
    """The same run with `prev` at one of the label positions, drawn once a prompt and shared by all heads."""
    prompts = boxes.of(source.prompts)
    places = label_positions(prompts)
    n, count = places.shape
    draw = torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))
    return replace(source, prompts=replace(prompts, prev=places[torch.arange(n), draw]))


def redrawn(source: Recording, seed: int = 0) -> Recording:
    """The same run, but at `prev` every head has its z from a label position of its own, drawn at random (B5)."""
    prompts, subject = boxes.of(source.prompts), source.subject
    places = label_positions(prompts)
    n, count = places.shape
    shape, generator = (subject.layers, n, subject.heads), torch.Generator().manual_seed(seed)
    draw = torch.randint(count, shape, generator=generator)
    rows, numbers = torch.arange(n)[:, None], torch.arange(subject.heads)
    here = [source.index[rows, places[rows, some]] for some in draw]
    return source.with_z(prompts.prev, [z[some, numbers] for z, some in zip(source.z, here, strict=True)])


def with_replacement(subject: Subject, circuit: Circuit | Kept, n: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    """Random circuits as the official code draws them: a head may be drawn twice, and counts once (artefact B8)."""
    draw = random.Random(f"official random circuits/{seed}")
    every = [Head(i, j) for i in range(subject.layers) for j in range(subject.heads)]
    sizes = {place: len(tuple(some)) for place, some in kept(circuit).items()}
    return [{place: tuple(sorted(set(draw.choices(every, k=k)))) for place, k in sizes.items()} for _ in range(n)]


def own_means(subject: Subject, prompts: Prompts, seed: int = 0) -> Means:
    """Mean activations over the very contexts of these prompts, with a label asked that no box has (artefact B17)."""
    worlds = list(dict.fromkeys(prompts.worlds))
    letters = sorted(vocabulary.require(subject.tokenizer, vocabulary.LABELS, prompts.boxes + 1, "box labels"))
    draw = random.Random(f"means/{seed}")
    asked = [draw.choice([letter for letter in letters if letter not in world.labels]) for world in worlds]
    places = [draw.randrange(prompts.boxes) for _ in worlds]
    return ablation.means(subject, prompts=boxes.from_worlds(subject, worlds, places, asked=asked))
