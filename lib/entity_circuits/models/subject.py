"""A language model ready for experiments, `Subject`, and the checks that every model must pass first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from . import devices, forms, modules, unchanged
from .alone import ALONE
from .forms import Form
from .identity import fingerprint as _fingerprint
from .specification import Specification

TOKENS = 24
"""How many tokens, from all over the vocabulary, a model is tried on."""

DECODER_ONLY = (
    "it is no decoder-only model whose blocks are known here (Llama, Mistral, Qwen, Gemma, OLMo, GPT-2, Pythia and "
    "others: models.forms), and has no layers where Llama has them, at `model.model.layers` with `self_attn.o_proj`."
)


class ModelCheckError(RuntimeError):
    """A model is not fit for the experiments; the message names the check that failed and what to do about it."""

    def __init__(self, name: str, check: str, what: str) -> None:
        super().__init__(f"{name} fails the check '{check}': {what}")
        self.check = check


@dataclass(frozen=True)
class Subject:
    """A model ready for experiments: in evaluation mode, no parameter asks for a gradient, padding on the right.

    `fingerprint` is a hex digest that differs wherever two models could give other numbers: see `identity`. It is of
    the model as it was then: one whose weights, config or tokenizer are changed afterwards has to be wrapped anew.
    `weights` is what `require_unchanged` compares with; None: nothing is compared. `specification` says how to load it
    in another process; None for a model that was wrapped in memory.
    """

    name: str
    model: Any
    tokenizer: Any
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    fingerprint: str
    weights: unchanged.State | None = field(default=None, repr=False, compare=False)
    specification: Specification | None = field(default=None, repr=False, compare=False)

    @ALONE
    def require_unchanged(self) -> None:
        """Raise `ValueError` that names what is not as it was when the model was wrapped: a weight, a buffer, a module,
        a setting of one, its own code, a field of the config; and as `require_plain` does. It takes milliseconds."""
        self.require_plain()
        if self.weights is not None and (name := unchanged.changed(self.weights, unchanged.seen(self.model))):
            raise ValueError(
                f"{name} of {self.name} was changed after the model was wrapped: its fingerprint and its recordings "
                "are of another model now. Wrap it anew: models.wrap(model, tokenizer)"
            )

    @ALONE
    def require_plain(self) -> None:
        """Raise `ValueError` for a hook, a `forward` put into a module, or training mode: every run does so."""
        if what := unchanged.foreign(self.model):
            raise ValueError(
                f"{self.name} has {what}, and is another model by that than the one that was wrapped. "
                "Remove hooks, put back the module's own forward, and call model.eval()"
            )

    @property
    def as_wrapped(self) -> Any:
        """The model in the state in which it was wrapped: the key by which passed checks are remembered."""
        return self.weights or self.model

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; of a model on several devices, where its tokens go in."""
        return next(self.model.parameters()).device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where each layer is, from the lowest: one and the same, unless the model is spread over several devices."""
        return tuple(next(block.parameters()).device for block in forms.of(self.model).blocks(self.model))

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the model's parameters."""
        return next(self.model.parameters()).dtype


def wrap(model: Any, tokenizer: Any, name: str = "in memory", fingerprint: str | None = None) -> Subject:
    """A Subject from a model in memory, put in evaluation mode and asking for no gradients.

    The tokenizer is set to pad on the right, with its end-of-sequence token if it has no other. A `fingerprint` that is
    given stands for the weights, and only for them: config, dtype, attention and tokenizer always count beside it (see
    `identity.fingerprint`). Without one all weights are hashed (0.4 GB/s or more). A model whose weights, modules or
    config are changed after that is refused where it is recorded or results are stored, and one with hooks or in
    training mode wherever it runs; a change of its tokenizer is not seen, and stored results of the old one would be
    served: wrap it anew.

    Raises `ModelCheckError` if the config does not tell the geometry, for what is no whole language model in memory (an
    adapter left unmerged, a body without a head, a module in two layers, weights that are not there), without a
    tokenizer, and for a model with hooks or with a `forward` put into a module.

        from entity_circuits import models

        known = models.load("qwen2.5-coder-0.5b")
        subject = models.wrap(known.model, known.tokenizer, name="mine", fingerprint="first draft")
        print(subject.layers, subject.heads, subject.head_size)
    """
    heads, layers, hidden = _geometry(model, name)
    if not callable(tokenizer) or not hasattr(tokenizer, "padding_side"):
        what = f"it needs its tokenizer beside it, as AutoTokenizer gives it, not {type(tokenizer).__name__}"
        raise ModelCheckError(name, "tokenizer", what)
    model.eval().requires_grad_(False)
    if what := unchanged.foreign(model):
        what = f"it has {what}, which would be in no fingerprint of it. Remove hooks, put back the own forward."
        raise ModelCheckError(name, "hooks", what)
    config = model.config
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Subject(
        name=name,
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or hidden // heads,
        fingerprint=_fingerprint(model, tokenizer, fingerprint),
        weights=unchanged.seen(model),
    )


def _geometry(model: Any, name: str) -> tuple[int, int, int]:
    """Heads, layers and width of what may be wrapped: a whole causal language model of transformers, in memory."""
    kind, config, what = type(model).__name__, getattr(model, "config", None), ""
    told = [getattr(config, field, None) for field in ("num_attention_heads", "num_hidden_layers", "hidden_size")]
    heads, layers, hidden = (one if isinstance(one, int) else 0 for one in told)
    if not isinstance(model, nn.Module):
        what = f"it is a {kind}, and no model of transformers in memory. By its name a model is had with models.load"
    elif held := modules.adapter(model):
        what = f"{held}, unmerged: wrap what merge_and_unload() gives, or save it: models.load(BASE, adapter=FOLDER)"
    elif not (heads and layers and hidden) or getattr(config, "is_encoder_decoder", False):
        what = DECODER_ONLY
    elif (give := getattr(model, "get_output_embeddings", None)) is None or give() is None:
        what = f"a {kind} gives no logits over a vocabulary: load it with AutoModelForCausalLM"
    elif shared := modules.twice(model):
        what = f"{shared}, so that an edit in one acts in the other: give each its own, by copy.deepcopy"
    if what:
        raise ModelCheckError(name, "architecture", what)
    for which, weight in model.state_dict().items():
        if not isinstance(weight, torch.Tensor) or weight.is_meta:
            what = f"its {which} is no tensor of numbers: quantised, or on the device 'meta'. Load the weights"
            raise ModelCheckError(name, "loading", what)
    return heads, layers, hidden


def put_back(subject: Subject) -> None:
    """Say that the weights are again what they were, after a training, say, that changed them for a while.

    For example:

        from entity_circuits import models, toy
        from entity_circuits.models import subject

        mine = toy.subject()
        mine.model.lm_head.weight.mul_(2).div_(2)
        subject.put_back(mine)
        print(mine.require_unchanged())
    """
    object.__setattr__(subject, "weights", unchanged.seen(subject.model))


def _require_words(model: Any, tokenizer: Any, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if beyond := sorted((number, word) for word, number in tokenizer.get_vocab().items() if number >= rows):
        number, word = beyond[0]
        what = f"its {len(beyond)} last words, from {word!r} ({number}), are beyond the {rows} rows of the "
        raise ModelCheckError(name, "tokenizer", what + "embedding. It belongs to another model: take this one's own.")


def check(subject: Subject) -> None:
    """Test on the model itself what every experiment relies on; `ModelCheckError` names the first check that fails.

    - architecture: decoder layers where the form of the model's type has them (`models.forms`), or Llama's
    - tokenizer: none of its words is beyond the embedding
    - settings: none that makes the model another one than its form says
    - attention: an implementation that heeds an edited mask and gives what the model asks for
    - projections: q, k, v and o are plain linear layers of the shapes that heads x head size ask for
    - head split: z, the input of the output projection, cut by head and sent through that head's columns of its weight,
      sums to its output
    - no-op edit: replacing z by a copy of itself leaves the logits as they are, bit for bit
    - causality: another last token leaves the logits of all before it as they are

    `load` does so unless told otherwise.

        from entity_circuits import models

        subject = models.load("qwen2.5-coder-0.5b", check=False)
        models.check(subject)
        print("fit for the experiments")
    """
    form = forms.of(subject.model)
    try:
        layers = form.blocks(subject.model)
    except AttributeError:
        layers = None
    if not isinstance(layers, nn.ModuleList) or len(layers) != subject.layers:
        raise ModelCheckError(subject.name, "architecture", DECODER_ONLY)
    _require_words(subject.model, subject.tokenizer, subject.name)
    _check_settings(subject, form)
    for index, layer in enumerate(layers):
        _check_projections(subject, form, index, layer)
    words = subject.model.get_input_embeddings().weight.shape[0]
    batch = torch.linspace(0, words - 1, TOKENS, dtype=torch.float64).long()[None].to(subject.device)
    clean, z, out = _observe(subject, batch)
    _check_head_split(subject, z, out)
    edited, _, _ = _observe(subject, batch, edit=torch.clone)
    if not torch.equal(clean, edited):
        raise ModelCheckError(
            subject.name,
            "no-op edit",
            f"replacing z by its copy moves the logits by {(clean - edited).abs().max().item():.2g}; the model or "
            "its attention does not give the same result twice. Try attention='eager', or another device.",
        )
    _check_causality(subject, batch, clean)


def _check_settings(subject: Subject, form: Form) -> None:
    config = subject.model.config
    for name in form.refused:
        if getattr(config, name, False):
            what = f"a {type(subject.model).__name__} with {name} is another model than the one known here"
            raise ModelCheckError(subject.name, "settings", f"{what}. Choose one without.")
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if (slides and window is None) or (window is not None and window < 2):
        what = f"sliding_window is {window} in its config: give how many tokens a layer with a window hears, 2 or more"
        raise ModelCheckError(subject.name, "settings", what)
    used = getattr(config, "_attn_implementation", None)
    if used not in unchanged.ATTENTION:
        what = f"its attention is run by {used!r}, which does not heed edited masks: load it with attention='sdpa'"
        raise ModelCheckError(subject.name, "attention", what)
    if used == "sdpa" and form.caps and config.attn_logit_softcapping:
        what = "its attention scores are capped, which 'sdpa' cannot do: load it with attention='eager'"
        raise ModelCheckError(subject.name, "attention", what)


def _check_projections(subject: Subject, form: Form, index: int, layer: Any) -> None:
    width, narrow = subject.heads * subject.head_size, subject.kv_heads * subject.head_size
    inputs = {"q_proj": width, "k_proj": narrow, "v_proj": narrow}
    expected = {form.fused: width + 2 * narrow} if form.fused else inputs
    for which, size, side in [*((name, size, "out") for name, size in expected.items()), (form.out, width, "in")]:
        linear = getattr(getattr(layer, form.attention, None), which, None)
        if linear is None:
            what = f"layer {index} has no {form.attention}.{which}. {DECODER_ONLY}"
            raise ModelCheckError(subject.name, "architecture", what)
        if type(linear) not in (nn.Linear, Conv1D) or not linear.weight.is_floating_point():
            what = f"{which} of layer {index} is a {type(linear).__name__}, not a plain linear layer of floats. "
            raise ModelCheckError(subject.name, "projections", what + "Load unquantised weights, adapters merged.")
        found = matrix(linear).shape[0 if side == "out" else 1]
        if found != size:
            raise ModelCheckError(
                subject.name,
                "projections",
                f"{which} of layer {index} has {side}put size {found}, and {subject.heads} heads "
                f"({subject.kv_heads} for keys and values) of size {subject.head_size} ask for {size}. "
                "Look at num_attention_heads, num_key_value_heads and head_dim of its config.",
            )


def _check_head_split(subject: Subject, z: list[torch.Tensor], out: list[torch.Tensor]) -> None:
    allowed = 200 * torch.finfo(subject.dtype).eps
    if subject.dtype == torch.float32:  # TF32 is float32 whose products are not
        allowed = max(allowed, 10 * devices.rounding(subject.device))
    for index, linear in enumerate(_outputs(subject)):
        by_head = z[index].cpu().double().unflatten(-1, (subject.heads, subject.head_size))
        columns = matrix(linear).cpu().double().unflatten(-1, (subject.heads, subject.head_size))
        total = torch.einsum("bthd,whd->btw", by_head, columns)
        if linear.bias is not None:
            total = total + linear.bias.cpu().double()
        whole = out[index].cpu().double()
        scale = whole.abs().max().item()
        error = (total - whole).abs().max().item()
        if not error <= allowed * max(scale, 1e-6):  # also catches NaN
            what = (
                f"in layer {index} the heads' parts miss the output of its projection by {error:.2g} of {scale:.2g}. "
            )
            raise ModelCheckError(subject.name, "head split", what + "Merge adapters, remove hooks and wrappers.")


def _check_causality(subject: Subject, batch: torch.Tensor, clean: torch.Tensor) -> None:
    other = batch.clone()
    other[0, -1] = batch[0, 0]
    moved, _, _ = _observe(subject, other)
    clean = clean.cpu().double()  # on the CPU, since not every device has float64
    before, size = (moved.cpu().double() - clean)[:, :-1].abs().max().item(), clean.abs().max().item()
    if not before <= max(1e-4, 5 * torch.finfo(subject.dtype).eps) * size:  # also catches NaN
        what = (
            f"another last token moves logits before it by {before:.2g} of {size:.2g}: it attends to what comes later. "
        )
        raise ModelCheckError(
            subject.name, "causality", what + "Take a causal model, or correct is_causal in its config."
        )


def matrix(linear: Any) -> torch.Tensor:
    """The weight (out, in) of a linear layer, of which GPT-2 keeps the transpose."""
    weight: torch.Tensor = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def _outputs(subject: Subject) -> list[Any]:
    """The output projection of each layer's attention."""
    form = forms.of(subject.model)
    return [forms.part(layer, f"{form.attention}.{form.out}") for layer in form.blocks(subject.model)]


@ALONE
def _observe(
    subject: Subject, ids: torch.Tensor, edit: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Logits of one run, with input and output of every output projection; `edit` replaces the input."""
    z: list[torch.Tensor] = []
    out: list[torch.Tensor] = []

    def before(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        z.append(args[0])
        return (edit(args[0]),) if edit else None

    def after(_: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        out.append(output)

    handles = []
    try:
        for linear in _outputs(subject):
            handles.append(linear.register_forward_pre_hook(before))
            handles.append(linear.register_forward_hook(after))
        with torch.no_grad():
            return subject.model(input_ids=ids, use_cache=False).logits, z, out
    finally:
        for handle in handles:
            handle.remove()
