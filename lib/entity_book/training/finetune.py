"""How the shipped adapters were made: LoRA on the attention projections, loss on the answer only, seeded throughout.

A training is a chain of segments of some steps. The state after each (weights, moments, losses) is a stored result that
follows from the one before, so a training that is interrupted and started again ends in the very same weights.
"""

import contextlib
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from entity_circuits import results
from entity_circuits.arguments import boolean, finite, integer, one_of
from entity_circuits.models.precision import fast_float32
from entity_circuits.models.subject import Subject, put_back
from entity_circuits.results import Store
from torch import Tensor
from tqdm.auto import tqdm

from . import data as training_data
from . import own
from .data import Kind
from .own import Answers

if TYPE_CHECKING:
    from datasets import Dataset


TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides the model. `checkpoint` is the length of a segment, in steps.

    With `answers="own"` the answers are the model's own greedy ones; `replay` is the share of every batch that is plain
    text of the model's own (`own.plain_text`) instead of examples. The defaults are the protocol of the shipped
    adapters; `data/adapters/README.md` says how they were chosen.
    """

    kind: Kind
    seed: int = 0
    steps: int = 80
    batch: int = 16
    learning_rate: float = 3e-4
    rank: int = 16
    held_out: int = 64
    checkpoint: int = 20
    full: bool = False
    answers: Answers = "given"
    replay: float = 0.0

    def __post_init__(self) -> None:
        one_of("kind of examples", self.kind, Kind)
        one_of("answers", self.answers, Answers)
        for name in ("steps", "batch", "rank", "held_out", "checkpoint"):
            object.__setattr__(self, name, integer(name, getattr(self, name)))
        object.__setattr__(self, "seed", integer("seed", self.seed, least=0))
        boolean("full", self.full)
        finite("learning_rate", self.learning_rate, 0, inside=True)
        finite("replay", self.replay, 0, 1)
        if not 0 < self.fresh <= self.batch:
            raise ValueError(f"replay={self.replay} of a batch of {self.batch} leaves no example to learn from")

    @property
    def name(self) -> str:
        """`arithmetic` for seed 0, `arithmetic-seed1` for another; `-own` and `-replay` for answers and texts so."""
        more = "-own" * (self.answers == "own") + "-replay" * (self.fresh < self.batch)
        return self.kind + more + (f"-seed{self.seed}" if self.seed else "")

    @property
    def fresh(self) -> int:
        """How many of a batch are examples, and no text of the model's own."""
        return self.batch - round(self.batch * self.replay)


@dataclass(frozen=True)
class Trained:
    """A finished training: the trained weights by name, `losses` (steps,) of the batches, and the held-out record.

    `held_out` (k, 3) has the step, the loss in nats a token, and the share of answers that are right token for token.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    losses: Tensor
    held_out: Tensor
    seconds: float


def train(subject: Subject, recipe: Recipe, store: Store | None = None) -> Trained:
    """Train an adapter (or, with `recipe.full`, all weights) of a model on one kind of data; the model is put back.

    The model computes in its own dtype (bfloat16 is the faster one where the processor multiplies it natively); the
    trained weights are float32. With the same recipe, model, dtype and number of threads the result is the same, also
    after an interrupt, if a `store` keeps the segments that were finished. Paper: section 2 (Goat was tuned in this
    way, FLoat in full).

        subject = models.load("qwen2.5-coder-0.5b", dtype=torch.bfloat16)
        trained = finetune.train(subject, finetune.Recipe("arithmetic", steps=60))
        print(trained.held_out)
    """
    store = results.at(store)
    held_out = training_data.examples(recipe.kind, recipe.held_out, recipe.seed, "held_out")
    batches = _lessons(subject, recipe, store)
    inputs = results.key(__name__, subject, **asdict(recipe))
    ends = [*range(recipe.checkpoint, recipe.steps, recipe.checkpoint), recipe.steps]
    with _trainable(subject, recipe) as parameters, fast_float32(subject):
        bar = tqdm(total=recipe.steps, desc=f"training {recipe.name}", unit="step", disable=None)
        state = {f"weight/{name}": weight.detach().clone() for name, weight in parameters.items()}
        state |= {"losses": torch.zeros(0), "held_out": torch.zeros(0, 3), "seconds": torch.zeros(())}
        for begin, end in zip([0, *ends], ends, strict=False):
            before = state
            state = store.keep(
                f"training-{recipe.name}",
                inputs | {"until": end},
                lambda: _segment(subject, recipe, parameters, before, batches[begin:end], held_out, bar),  # noqa: B023
            )
            bar.update(end - bar.n)
        bar.close()
        weights = {name.removeprefix("weight/"): value for name, value in state.items() if name.startswith("weight/")}
        return Trained(recipe, weights, state["losses"], state["held_out"], float(state["seconds"]))


def evaluate(subject: Subject, data: "Dataset", batch: int = 64) -> Tensor:
    """(n, 2) float64: for each example the mean loss of its answer in nats a token, and 1 where each token is right.

    Token for token under the right answer's own beginning, which is what greedy decoding would have to reproduce.

        data = training_data.examples("arithmetic", 128, part="held_out")
        loss, right = finetune.evaluate(subject, data).mean(0)
        print(loss, right)
    """
    batch = integer("batch", batch)
    rows = _tokens(subject, data)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    found = torch.empty(len(rows), 2, dtype=torch.double)
    for begin in range(0, len(order), batch):
        part = order[begin : begin + batch]
        with torch.no_grad(), fast_float32(subject):
            losses, right, owner = _losses(subject, [rows[i] for i in part])
        for place, i in enumerate(part):
            mine = owner == place
            found[i, 0], found[i, 1] = losses[mine].mean(), right[mine].all()
    return found


@contextlib.contextmanager
def _trainable(subject: Subject, recipe: Recipe) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Inside, the model has float32 parameters to train, by the names they are saved under; then it is as before."""
    model = subject.model
    if recipe.full:
        before, dtype = {name: value.detach().clone() for name, value in model.named_parameters()}, subject.dtype
        try:
            model.float().requires_grad_(True)
            yield dict(model.named_parameters())
        finally:
            model.to(dtype).requires_grad_(False).eval()
            with torch.no_grad():
                for name, value in model.named_parameters():
                    value.copy_(before[name])
            put_back(subject)
        return
    import peft  # slow to import

    config = peft.LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=list(TARGETS))
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)  # decides the adapter's initial weights
        wrapped = peft.get_peft_model(model, config)
    try:
        named = ((name.replace(".default.", "."), value) for name, value in wrapped.named_parameters())
        yield {name: value for name, value in named if value.requires_grad}
    finally:
        wrapped.unload()
        model.eval()
        vars(model).pop("peft_config", None)  # what peft leaves behind, depending on its version


def _segment(
    subject: Subject,
    recipe: Recipe,
    parameters: dict[str, torch.nn.Parameter],
    before: dict[str, Tensor],
    batches: list[list[tuple[list[int], int]]],
    held_out: "Dataset",
    bar: Any,
) -> dict[str, Tensor]:
    """The state after these batches, from the state before them."""
    begin = len(before["losses"])
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=0.0)
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(before[f"weight/{name}"])
        if begin:
            moments = {key: before[f"{key}/{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(float(begin)), **moments}
    record = list(before["held_out"]) or [_score(subject, held_out, 0)]
    losses, clock = before["losses"].tolist(), time.perf_counter()
    subject.model.train()
    for step, batch in enumerate(batches, start=begin):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        loss = _losses(subject, batch)[0].mean()
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {float(loss)} at step {step}: try a lower learning rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        bar.update()
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    subject.model.eval()
    seconds = float(before["seconds"]) + time.perf_counter() - clock
    record.append(_score(subject, held_out, len(losses)))
    state = {f"weight/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        state |= {f"{key}/{name}": optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")}
    state |= {"losses": torch.tensor(losses), "held_out": torch.stack(record), "seconds": torch.tensor(seconds)}
    return {name: value.clone() for name, value in state.items()}


def _score(subject: Subject, held_out: "Dataset", step: int) -> Tensor:
    return torch.cat((torch.tensor([float(step)]), evaluate(subject, held_out).mean(0).float()))


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over a tenth of the steps, then half a cosine down to zero."""
    warm = max(steps // 10, 1)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _tokens(subject: Subject, data: "Dataset") -> list[tuple[list[int], int]]:
    """Token ids of prompt and answer together, and where the answer begins: tokenised apart (a space is between)."""
    rows = []
    for prompt, answer in zip(data["prompt"], data["answer"], strict=True):
        asked = list(subject.tokenizer(prompt)["input_ids"])
        rows.append((asked + list(subject.tokenizer(answer, add_special_tokens=False)["input_ids"]), len(asked)))
    return rows


def _lessons(subject: Subject, recipe: Recipe, store: Store) -> list[list[tuple[list[int], int]]]:
    """The batches of a training: examples, and in each as many own texts as the recipe says."""
    n, rest = recipe.steps * recipe.fresh, recipe.batch - recipe.fresh
    examples = own.lessons(subject, recipe.kind, n, recipe.seed, recipe.answers, store)
    batches = _batches(subject, examples, recipe.fresh, recipe.seed)
    if not rest:
        return batches
    texts = _batches(subject, own.plain_text(subject, recipe.steps * rest, recipe.seed, store), rest, recipe.seed)
    return [one + two for one, two in zip(batches, texts, strict=True)]


def _batches(subject: Subject, data: "Dataset", size: int, seed: int) -> list[list[tuple[list[int], int]]]:
    """Batches of similar length, to pad less: sorted within windows of eight batches, then in random order."""
    rows, window = _tokens(subject, data), 8 * size
    batches = []
    for begin in range(0, len(rows), window):
        some = sorted(rows[begin : begin + window], key=lambda row: len(row[0]))
        cut = [some[i : i + size] for i in range(0, len(some), size)]
        random.Random(f"{seed}/{begin}").shuffle(cut)
        batches += cut
    return batches


def _losses(subject: Subject, rows: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
    """For every answer token of a batch: its loss in float32, whether it is the most likely one, and its row."""
    width = max(len(ids) for ids, _ in rows)
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows], device=subject.device)
    owner = torch.tensor([row for row, (ids, begin) in enumerate(rows) for _ in range(begin, len(ids))])
    place = torch.tensor([i for ids, begin in rows for i in range(begin, len(ids))])
    # Padding is on the right and attention causal: no answer token sees it, and no mask is needed.
    hidden = subject.model.base_model(input_ids=padded, use_cache=False).last_hidden_state[owner, place - 1]
    logits = subject.model.get_output_embeddings()(hidden).float()
    wanted = padded[owner, place]
    return F.cross_entropy(logits, wanted, reduction="none"), logits.argmax(-1) == wanted, owner
