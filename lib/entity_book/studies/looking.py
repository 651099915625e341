"""Where heads look: how their attention is shared out over kinds of tokens, and over the tokens of one kind."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from entity_circuits import statistics
from entity_circuits.arguments import one_of
from entity_circuits.heads import GROUPS, LETTERS, POSITIONS, Group, Head
from entity_circuits.methods.path_patching import Discovery, Scores
from entity_circuits.runs import replay
from entity_circuits.runs.edits import Edit
from entity_circuits.runs.recording import Recording
from entity_circuits.statistics import Estimate
from entity_circuits.tasks import boxes
from entity_circuits.tasks.vocabulary import token_ids
from torch import Tensor

from .discovery import score_table

ROLES = ("queried object", "queried label", "other objects", "other labels", "first token", "query", "the rest")
"""What a head can look at, in the order of the figure: tokens of the context, then of the query."""


def attention_table(recording: Recording, heads: Sequence[Head], position: Tensor) -> pd.DataFrame:
    """How much attention each head pays, on average, to each kind of token from `position` (n,).

    Columns `head`, `role` (one of `ROLES`) and `weight`; the weights of a head sum to 1. `each` is the weight a token
    of that kind gets: `other objects` are six tokens, the queried one is one; NaN where there is none to look at.
    """
    prompts = recording.prompts
    role = roles(recording)
    seen = torch.arange(role.shape[1], device=role.device) <= position.to(role.device)[:, None]
    rows = []
    for head in heads:
        weights = replay.attention(recording, head, position)
        for index, name in enumerate(ROLES):
            weight = float((weights * (role == index)).sum() / len(prompts))
            tokens = float((seen & (role == index)).sum() / len(prompts))
            each = weight / tokens if tokens else math.nan
            rows.append({"head": str(head), "role": name, "order": index, "weight": weight, "each": each})
    return pd.DataFrame(rows)


def roles(recording: Recording) -> Tensor:
    """(n, T): for each token, the index in `ROLES` of what it is.

    print(looking.roles(found.recordings[0])[0])
    """
    p = boxes.of(recording.prompts)
    n, width = p.input_ids.shape
    places = torch.arange(width, device=p.input_ids.device).expand(n, -1)
    role = torch.full((n, width), ROLES.index("the rest"), device=p.input_ids.device)
    role[(p.input_ids[:, :, None] == p.object_ids[:, None]).any(-1)] = ROLES.index("other objects")
    ids = token_ids(recording.subject.tokenizer, {label for world in p.worlds for label in world.labels})
    label_ids = torch.tensor([[ids[label] for label in world.labels] for world in p.worlds], device=p.input_ids.device)
    role[(p.input_ids[:, :, None] == label_ids[:, None]).any(-1)] = ROLES.index("other labels")
    role[:, 0] = ROLES.index("first token")
    role[places >= p.query[:, None] - 1] = ROLES.index("query")
    rows = torch.arange(n, device=p.input_ids.device)
    role[rows, p.object] = ROLES.index("queried object")
    role[rows, p.prev] = ROLES.index("queried label")
    return role


def selectivity(recording: Recording, heads: Sequence[Head], group: Group) -> Estimate:
    """The share that the token the paper names gets of the attention to tokens of its kind; the mean of `heads`.

    For A the queried object among the objects, from `last`; for B the label in the question among the question's
    tokens, from `last`; for C the queried label among the labels, from `query`; for D the object and label of the own
    statement among those of all statements so far, from `prev`, where it is not the first. A head that looks at all
    alike has one in seven for A and C, one in four for B. Intervals over contexts. Paper: section 4.

        print(looking.selectivity(found.recordings[0], found.circuit.groups["value_fetcher"], "value_fetcher"))
    """
    one_of("group", group, GROUPS)
    p, kinds = boxes.of(recording.prompts), roles(recording)
    named, kind, asked = _named(group, kinds, p)
    position = p.position(POSITIONS[group])
    kind &= torch.arange(kinds.shape[1], device=kinds.device) <= position[:, None]
    shares = []
    for head in heads:
        weights = replay.attention(recording, head, position)
        shares.append((weights * named).sum(-1) / (weights * kind).sum(-1).clamp(min=1e-12))
    share = torch.stack(shares).mean(0)[asked].double().cpu().numpy()
    return statistics.estimate(share, p.select(asked.nonzero()[:, 0]).contexts)


def _named(group: Group, kinds: Tensor, p: boxes.Prompts) -> tuple[Tensor, Tensor, Tensor]:
    """(n, T) twice: the token that the paper names for a group, and those of its kind; (n,): the prompts to ask."""
    at = {name: kinds == index for index, name in enumerate(ROLES)}
    objects, labels = at["queried object"] | at["other objects"], at["queried label"] | at["other labels"]
    places = torch.arange(kinds.shape[1], device=kinds.device)
    everywhere = torch.ones(len(p), dtype=torch.bool, device=kinds.device)
    if group == GROUPS[0]:
        return at["queried object"], objects, everywhere
    if group == GROUPS[1]:
        return places == p.query[:, None], at["query"], everywhere
    if group == GROUPS[2]:
        return at["queried label"], labels, everywhere
    earlier = (labels & (places < p.prev[:, None])).any(-1)
    return at["queried object"] | at["queried label"], objects | labels, earlier


def by_head(scores: Scores, recording: Recording, position: Tensor, prompt: int = 0) -> pd.DataFrame:
    """One row a head that has a path: its score, where it looks in one prompt, and what it does to each.

    Columns as `discovery.score_table`; `attention`, a list, how much it gives each token of prompt number `prompt` from
    `position` (n,); and `effects`, a list, the relative change of the answer's probability in each example that the
    head was patched in.

        table = looking.by_head(found.scores["value_fetcher"], recording, recording.prompts.last)
    """
    one, rows = recording.select(torch.tensor([prompt])), []
    table = score_table(scores)
    for row in table[table["score"].notna()].to_dict("records"):
        head = Head(row["layer"], row["index"])
        weights = replay.attention(one, head, position[[prompt]])[0, : int(recording.prompts.last[prompt]) + 1]
        effects = scores.per_example[head.layer, head.head]
        told = {str(name): value for name, value in row.items()}
        rows.append(told | {"attention": _short(weights), "effects": _short(effects[~effects.isnan()])})
    return pd.DataFrame(rows)


def running(found: Discovery) -> int:
    """The number of the first prompt that the model answers rightly, or 0: the one that a chapter's figures show.

    prompt = looking.running(found)
    """
    return int(next(iter(found.scores.values())).correct.int().argmax())


def step_by_step(found: Discovery, prompt: int) -> pd.DataFrame:
    """One prompt with the circuit's groups replaced one at a time, from the statement to the answer: D, C, B, A.

    First the run as it is. Then, a row a group, the outputs of its heads at their place are those of the source prompt,
    in a run in which everything after them is computed anew. Columns: `step`; `attention`, a list, what the group's
    heads give each token on average from their place (zeros in the first row); `objects`, the objects of the context in
    their order, `right`, which of them is asked for, `p`, the probability of each among them, and `clean`, the same in
    the run as it is; `words`, a sentence.

        table = looking.step_by_step(found, prompt=0)
    """
    row = torch.tensor([prompt])
    base, source = (recording.select(row) for recording in found.recordings)
    p, last = boxes.of(base.prompts), int(base.prompts.last[0])
    choices = p.choice_ids
    assert choices is not None  # prompts of this task have them
    variants: list[list[Edit]] = [[]]
    groups = [(group, heads) for group, heads in found.circuit.groups.items() if heads][::-1]
    for group, heads in groups:
        here, there = (one.prompts.position(POSITIONS[group]) for one in (base, source))
        variants.append(
            [Edit("z", h.layer, (h.head,), here, source.at("z", h.layer, there)[:, [h.head]]) for h in heads]
        )
    with torch.no_grad():
        p_all = replay.replay(base, variants, targets=choices).logits[:, 0].softmax(-1)
    world = p.worlds[0]
    right = [token == int(p.answer_ids[0]) for token in choices[0].tolist()]
    clean = p_all[0, right.index(True)].item()
    shared = {"objects": list(world.objects), "right": right, "clean": _short(p_all[0])}
    words_ = f"Nothing is replaced: {clean:.2f} for|the {world.objects[right.index(True)]}, which is right."
    rows = [{"step": "nothing", "attention": [0.0] * (last + 1), "p": _short(p_all[0]), "words": words_, **shared}]
    for after, (group, heads) in zip(p_all[1:], groups, strict=True):
        here = base.prompts.position(POSITIONS[group])
        looks = torch.stack([replay.attention(base, head, here)[0, : last + 1] for head in heads]).mean(0)
        who = f"Group {LETTERS[group]}, at {POSITIONS[group]}: {', '.join(map(str, heads[:4]))}"
        who += " and others" * (len(heads) > 4)
        told = f"{who}.|With their news from the other prompt:|{clean:.2f} becomes {after[right.index(True)]:.2f}."
        rows.append({"step": LETTERS[group], "attention": _short(looks), "p": _short(after), "words": told, **shared})
    return pd.DataFrame(rows)


def words(recording: Recording, prompt: int = 0) -> list[str]:
    """The tokens of one prompt as text, without the spaces around them.

    print(looking.words(recording)[-4:])
    """
    prompts = recording.prompts
    ids = prompts.input_ids[prompt, : int(prompts.last[prompt]) + 1]
    return [recording.subject.tokenizer.decode([token]).strip() for token in ids.tolist()]


def _short(values: Tensor) -> list[float]:
    return [round(x, 3) for x in values.tolist()]
