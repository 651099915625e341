"""Claims about the definition: an edit does what it says, to what it says, and nothing else."""

import copy
from dataclasses import replace

import families
import pytest
import tiny
import torch
import transformers
from entity_circuits import knockout, runs
from entity_circuits.models.subject import wrap
from entity_circuits.runs import answers, definition, edits, replay
from entity_circuits.runs.edits import Edit, Read
from entity_circuits.tasks import boxes
from entity_circuits.tasks.prompts import Prompts, from_texts


def setting(family="qwen2", dtype=torch.float32, n=6):
    subject = tiny.subject(family, dtype=dtype)
    base, source = boxes.prompts(subject, n, boxes=3), boxes.prompts(subject, n, boxes=3, seed=1)
    return subject, base, runs.record(subject, base), runs.record(subject, source)


def words(subject, prompts):
    return torch.arange(subject.model.config.vocab_size).expand(len(prompts), -1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_run_without_edits_is_the_model_itself(family):
    subject, base, _, _ = setting(family)
    plain = subject.model(input_ids=base.input_ids).logits[torch.arange(len(base)), base.last]
    assert torch.allclose(runs.run(subject, base, targets=words(subject, base)).logits[0], plain, atol=1e-5)


@pytest.mark.parametrize("site", ["z", "q", "k", "v"])
def test_replacing_an_activation_by_itself_changes_nothing(site):
    subject, base, _, _ = setting("llama")
    read = [Read(site, 1, base.query)]
    clean = runs.run(subject, base, read=read, targets=words(subject, base))
    every = tuple(range(subject.heads))
    same = runs.run(subject, base, [Edit(site, 1, every, base.query, clean.reads[0][0])], targets=words(subject, base))
    assert torch.equal(same.logits, clean.logits)


@pytest.mark.parametrize("site", ["k", "v"])
def test_a_key_or_value_of_one_head_of_a_group_changes_that_head_alone(site):
    subject, base, _, source = setting("qwen2", torch.float64)
    assert subject.kv_heads < subject.heads
    read = [Read("z", 1, base.last)]
    clean = runs.run(subject, base, read=read).reads[0][0]
    edit = Edit(site, 1, (1,), base.query, source.at(site, 1, source.prompts.query)[:, [1]])
    edited = runs.run(subject, base, [edit], read=read).reads[0][0]
    moved = (edited - clean).abs().amax(dim=(0, 2)) > 1e-9
    assert moved.tolist() == [head == 1 for head in range(subject.heads)]


def test_what_is_kept_and_what_is_put_in_its_place_add_up_head_by_head():
    subject, base, recording, source = setting(dtype=torch.float64)
    value, keep = source.at("z", 1, source.prompts.query)[:, [0, 5]], torch.tensor([0.25, 1.0])
    edit = Edit("z", 1, (0, 5), base.query, value, keep=keep)
    found = runs.run(subject, base, [edit], read=[Read("z", 1, base.query)]).reads[0][0]
    was = recording.at("z", 1, base.query)
    assert torch.allclose(found[:, 0], 0.25 * was[:, 0] + 0.75 * value[:, 0], atol=1e-12)
    assert torch.allclose(found[:, 5], was[:, 5], atol=1e-12)
    low = was[:, [0, 5]].to(torch.bfloat16)
    assert edit.mixed(low).dtype == replace(edit, keep=None).mixed(low).dtype == torch.bfloat16


def test_earlier_positions_and_lower_layers_do_not_move():
    subject, base, _, source = setting(dtype=torch.float64)
    edit = Edit("z", 2, (0, 1), base.query, source.at("z", 2, source.prompts.query)[:, [0, 1]])
    read = [Read("z", layer, where) for layer in range(4) for where in (base.prev, base.query, base.last)]
    clean, edited = runs.run(subject, base, read=read).reads, runs.run(subject, base, [edit], read=read).reads
    moved = [bool((a - b).abs().max() > 1e-9) for a, b in zip(clean, edited, strict=True)]
    assert moved == [False] * 6 + [False, True, False] + [False, True, True]


def test_forbidding_attention_to_a_key_removes_its_value_from_the_head():
    subject, base, _, source = setting(dtype=torch.float64)
    every = tuple(range(subject.heads))
    cut = [Edit("score", 1, every, base.last, key=base.query)]
    other = [Edit("v", 1, every, base.query, source.at("v", 1, source.prompts.query))]
    read = [Read("z", 1, base.last)]
    clean, without, both = (runs.run(subject, base, edits, read=read).reads[0] for edits in ([], cut, [*cut, *other]))
    assert (clean - without).abs().max() > 1e-3
    assert torch.allclose(without, both, atol=1e-12), "what cannot be attended to cannot matter"


def test_cutting_a_future_position_changes_nothing():
    subject, base, _, _ = setting(dtype=torch.float64)
    cut = [Edit("score", layer, (0, 1), base.query, key=base.last) for layer in range(4)]
    assert torch.allclose(runs.run(subject, base, cut).logprob, runs.run(subject, base).logprob, atol=1e-12)


def test_a_value_heard_at_one_position_moves_its_heads_there_alone():
    subject, base, _, source = setting(dtype=torch.float64)
    given = source.at("v", 1, source.prompts.prev)[:, [2]]
    read = [Read("z", 1, base.query), Read("z", 1, base.last)]
    wide = runs.run(subject, base, [Edit("v", 1, (2,), base.prev, given)], read=read).reads
    narrow = runs.run(subject, base, [Edit("v", 1, (2,), base.prev, given, seen_by=base.query)], read=read).reads
    clean = runs.run(subject, base, read=read).reads
    assert torch.allclose(narrow[0], wide[0], atol=1e-12)
    assert torch.allclose(narrow[1], clean[1], atol=1e-12)
    assert (wide[1] - clean[1]).abs().max() > 1e-6


def test_batches_and_the_order_of_prompts_change_nothing():
    subject, base, recording, source = setting(dtype=torch.float64)
    edit = Edit("z", 1, (3,), base.query, source.at("z", 1, source.prompts.query)[:, [3]])
    whole = runs.run(subject, base, [edit]).logprob[0]
    assert torch.allclose(runs.run(subject, base, [edit], batch=2).logprob[0], whole, atol=1e-12)
    order = torch.tensor([4, 2, 0, 1, 5, 3])
    shuffled = runs.run(subject, base.select(order), [edit.rows(order)]).logprob[0]
    assert torch.allclose(shuffled, whole[order], atol=1e-12)
    in_pieces = runs.record(subject, base, batch=2)
    assert torch.allclose(tiny.recorded(in_pieces, "z"), tiny.recorded(recording, "z"), atol=1e-12)


def test_a_recording_of_some_prompts_is_that_of_these_by_their_numbers_or_by_a_mask():
    _, base, recording, _ = setting()
    mask = torch.tensor([False, True, False, False, True, True])
    index = torch.tensor([1, 4, 5])
    for part in (recording.select(mask), recording.select(index)):
        assert part.prompts.digest == base.select(index).digest
        for name in ("residual", "z", "k", "v"):
            assert torch.equal(tiny.recorded(part, name), tiny.recorded(recording, name)[:, index]), name


def test_a_recording_holds_what_the_model_computes():
    subject, base, recording, _ = setting("qwen3", torch.float64)
    states = subject.model(input_ids=base.input_ids, output_hidden_states=True).hidden_states
    residual = tiny.recorded(recording, "residual")
    assert torch.allclose(residual[:-1], torch.stack(states[:-1]), atol=1e-12)
    attention = subject.model.model.layers[2].self_attn
    normed = subject.model.model.layers[2].input_layernorm(residual[2])
    keys = attention.k_proj(normed).unflatten(-1, (subject.kv_heads, -1))
    assert torch.allclose(keys, recording.span("k", 2), atol=1e-12)
    added = attention.o_proj(recording.span("z", 2).flatten(-2))
    after = residual[2] + added
    block = subject.model.model.layers[2]
    assert torch.allclose(after + block.mlp(block.post_attention_layernorm(after)), residual[3], atol=1e-10)


def test_no_gradient_is_kept_unless_an_edit_asks_for_it():
    subject, base, _, source = setting()
    value = source.at("z", 1, source.prompts.last)[:, [0]]
    assert not runs.run(subject, base, [Edit("z", 1, (0,), base.last, value)]).logprob.requires_grad
    asked = runs.run(subject, base, [Edit("z", 1, (0,), base.last, value.clone().requires_grad_(True))])
    assert asked.logprob.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 4}, "layers 0 to 3"),
        ({"heads": (8,)}, "heads 0 to 7"),
        ({"heads": ()}, "heads"),
        ({"position": "beyond"}, "position of an edit"),
        ({"value": "narrow"}, "must have shape"),
        ({"value": None}, "must have shape"),
        ({"keep": torch.ones(3)}, "one number a head"),
        ({"seen_by": "last"}, "belongs to"),
    ],
)
def test_an_edit_of_something_that_is_not_there_is_refused_before_the_model_runs(change, message, monkeypatch):
    subject, base, _, source = setting()
    named = {"beyond": base.last + 1, "last": base.last, "narrow": torch.zeros(len(base), 1, 3)}
    value = source.at("z", 1, source.prompts.last)[:, [0]]
    given = {"site": "z", "layer": 1, "heads": (0,), "position": base.last, "value": value, **change}
    given = {key: named.get(item, item) if isinstance(item, str) else item for key, item in given.items()}
    monkeypatch.setattr(definition, "_forward", lambda *_: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match=message):
        runs.run(subject, base, [Edit(**{**given, "site": "z"})])


@pytest.mark.parametrize("lacking", ["position", "key", "both"])
def test_a_score_edit_that_is_half_one_is_refused(lacking):
    subject, base, _, _ = setting(n=3)
    given = {"position": base.last, "key": base.query}
    edits.check(Edit("score", 1, (0,), **given), subject, base)
    given = {name: where for name, where in given.items() if lacking not in (name, "both")}
    with pytest.raises(ValueError, match="it has both and no value"):
        edits.check(Edit("score", 1, (0,), **given), subject, base)


@pytest.mark.parametrize("more", [{"value": torch.zeros(3, 1, 8)}, {"keep": torch.ones(1)}])
def test_a_score_edit_takes_no_value(more):
    subject, base, _, _ = setting(n=3)
    with pytest.raises(ValueError, match="it has both and no value"):
        edits.check(Edit("score", 1, (0,), base.last, key=base.query, **more), subject, base)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_recording_that_shares_contexts_is_that_of_whole_prompts(family):
    subject = tiny.subject(family, dtype=torch.float64)
    whole = boxes.prompts(subject, 9, boxes=3)
    uneven = boxes.from_worlds(
        subject,
        whole.worlds,
        whole.queries,
        template=[boxes.Template(), boxes.Template(join=" ")] * 4 + [boxes.Template()],
    )
    for prompts in (whole, uneven):
        plain, shared = (runs.record(subject, prompts, batch=6, share_context=share) for share in (False, True))
        for row, last in enumerate(prompts.last.tolist()):
            for name in ("residual", "z", "k", "v"):
                one, other = (tiny.recorded(found, name)[:, row, : last + 1] for found in (plain, shared))
                assert (one - other).abs().max() < 1e-11


def test_a_token_that_prompts_of_a_context_share_is_kept_once():
    subject, n = tiny.subject(), 9
    p = boxes.prompts(subject, n, boxes=3)
    plain, shared = (runs.record(subject, p, share_context=share) for share in (False, True))
    assert len(plain.z[0]) == int((p.last + 1).sum())
    assert len(shared.z[0]) < len(plain.z[0]) / 2
    part = shared.select(torch.tensor([1, 4]))
    assert all(one is other for one, other in zip(part.z, shared.z, strict=True)), "a selection copies nothing"


def test_a_recording_of_some_positions_holds_these_alone_and_says_so():
    subject, base, recording, _ = setting(dtype=torch.float64)
    for share in (False, True):
        kept = runs.record(subject, base, share_context=share, positions=[base.last, base.query])
        for position in (base.last, base.query):
            for site in ("z", "k", "v"):
                assert torch.allclose(kept.at(site, 2, position), recording.at(site, 2, position), atol=1e-11)
            assert torch.allclose(kept.stream(-1, position), recording.stream(-1, position), atol=1e-11)
        assert len(kept.z[0]) <= 2 * len(base)
        edit = Edit("z", 1, (3,), base.query, 0 * kept.at("z", 1, base.query)[:, [3]])
        with pytest.raises(ValueError, match="not kept"):
            kept.at("z", 2, base.prev)
        with pytest.raises(ValueError, match="not kept"):
            kept.span("k", 0)
        with pytest.raises(ValueError, match="not kept"):
            replay.replay(kept, [[edit]])
        literal = runs.rerun(kept, [[edit]], frozen=True).logprob
        assert torch.allclose(literal, runs.rerun(recording, [[edit]], frozen=True).logprob, atol=1e-11)
        assert torch.allclose(kept.whole().span("z", 0), recording.span("z", 0), atol=1e-11)
        assert recording.whole() is recording


def test_another_z_is_read_where_it_was_put_and_nowhere_else():
    subject, base, _, _ = setting(dtype=torch.float64)
    shared = runs.record(subject, base, share_context=True)
    new = [shared.at("z", layer, base.prev) + 1 for layer in range(subject.layers)]
    moved = shared.with_z(base.prev, new)
    for layer in range(subject.layers):
        assert torch.equal(moved.at("z", layer, base.prev), new[layer])
        assert torch.equal(moved.at("z", layer, base.last), shared.at("z", layer, base.last))
        for table in ("residual", "k", "v"):
            assert torch.equal(moved.span(table, layer), shared.span(table, layer))


class KeepsAll(transformers.LlamaForCausalLM):
    """A model that gives the logits of all tokens, whatever is asked for."""

    def forward(self, input_ids=None, attention_mask=None, **options):
        options.pop("logits_to_keep", None)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)


def test_a_model_that_gives_other_logits_than_are_asked_for_is_refused():
    subject = wrap(KeepsAll(transformers.LlamaConfig(**tiny.SHAPE | {"num_hidden_layers": 2})), tiny.tokenizer())
    with pytest.raises(RuntimeError, match="gives the logits of 25 tokens where those of 1 are asked for"):
        runs.run(subject, boxes.prompts(subject, n=3, boxes=3))


def test_a_model_whose_heads_take_their_queries_from_several_is_refused():
    made = transformers.DiffLlamaForCausalLM(transformers.DiffLlamaConfig(**tiny.SHAPE | {"num_hidden_layers": 2}))
    subject = wrap(made, tiny.tokenizer())
    p = boxes.prompts(subject, n=3, boxes=3)
    with pytest.raises(RuntimeError, match="queries, keys and values of some heads move what others give out"):
        runs.run(subject, p, [Edit("z", 0, (0,), p.last, torch.zeros(3, 1, subject.head_size))])


def test_prompts_that_a_longrope_model_would_rotate_by_the_longest_of_them_are_refused():
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rotation = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 44, **factors}
    shape = tiny.SHAPE | {"num_hidden_layers": 2, "original_max_position_embeddings": 44}
    subject = wrap(
        transformers.Phi3ForCausalLM(transformers.Phi3Config(**shape, rope_parameters=rotation)), tiny.tokenizer()
    )
    short, long = (boxes.prompts(subject, n=6, boxes=count) for count in (3, 6))
    for call in (runs.run, runs.record, answers.evaluate):
        call(subject, short)
        with pytest.raises(ValueError, match=r"has 46 tokens with its padding.*longrope.*take prompts of 44 at most"):
            call(subject, long)
    subject.require_unchanged()


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_padding_beyond_what_a_model_was_made_for_is_refused_with_the_way_to_leave_it_out(name):
    """GPT-2 has no place for it; a dynamic rotation turns all tokens by the longest row, were it of padding alone."""
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}
    subject = families.subject(name, max_position_embeddings=16, **(dynamic if name == "Llama" else {}))
    short, long = "the cup is in the", "the cup is in the box and the dog is in the box and the key is in the"
    some = from_texts(subject, [short, long], [" box", " box"])
    alone, chosen = from_texts(subject, [short], [" box"]), some.select(some.last < 16)
    right = runs.run(subject, alone).logprob
    for call in (runs.run, runs.record, answers.evaluate):
        with pytest.raises(ValueError, match=r"up to 5 tokens, 19 with their padding.*input_ids\[:, :5\]"):
            call(subject, chosen)
    assert torch.equal(runs.run(subject, replace(chosen, input_ids=chosen.input_ids[:, :5])).logprob, right)


def test_prompts_padded_on_the_left_are_refused():
    subject, base, _, _ = setting()
    left = torch.cat((torch.full((6, 2), subject.tokenizer.pad_token_id), base.input_ids), 1)
    with pytest.raises(ValueError, match="padded on the right"):
        runs.run(
            subject,
            Prompts(input_ids=left, last=base.last + 2, answer_ids=base.answer_ids, contexts=base.contexts),
        )


def test_prompts_changed_in_place_after_they_were_recorded_are_other_prompts():
    subject, base, recording, other = setting()
    recording.require(subject, base)
    was = base.digest
    base.input_ids[:, 1] = other.prompts.input_ids[:, 2]
    with pytest.raises(ValueError, match="the recording is of other prompts"):
        recording.require(subject, base)
    assert recording.prompts.digest == was


def test_lists_that_can_be_read_but_once_are_read_once():
    """Edits, reads, variants and heads given by a generator do what they do as a list."""
    subject, base, recording, other = setting()
    edit = Edit("z", 0, tuple(range(subject.heads)), base.last, other.at("z", 0, base.last))
    look = Read("z", 1, base.last)
    right = runs.run(subject, base, [edit], read=[look])
    assert not torch.allclose(right.logprob, runs.run(subject, base).logprob, atol=1e-3)
    for found in (
        runs.run(subject, base, iter([edit]), read=iter([look])),
        runs.rerun(recording, iter([iter([edit])]), read=iter([look])),
        replay.replay(recording, iter([iter([edit])]), read=iter([look])),
    ):
        assert torch.allclose(found.logprob, right.logprob, atol=1e-5)
        assert torch.allclose(found.reads[0], right.reads[0], atol=1e-5)


def swapped(model):
    layers = model.model.layers
    layers[1], layers[2] = layers[2], layers[1]


def shortened(model):
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2


def another_o_proj(model):
    model.model.layers[1].self_attn.o_proj = copy.deepcopy(model.model.layers[0].self_attn.o_proj)


@pytest.mark.parametrize("change", [swapped, shortened, another_o_proj], ids=lambda change: change.__name__)
def test_a_model_whose_modules_were_changed_after_a_run_gives_once_wrapped_anew_what_a_fresh_one_gives(change):
    found = []
    for begun in (True, False):
        before = tiny.subject()
        p = boxes.prompts(before, n=2, boxes=2)
        if begun:
            runs.record(before, p)
        change(before.model)
        subject = wrap(before.model, before.tokenizer)
        edits = [Edit("z", 1, (0, 5), p.last, torch.zeros(2, 2, 8))]
        found.append([runs.run(subject, p, edits).logprob, *runs.record(subject, p).z])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def without_numbers():
    """A model and two prompts, after the second of which it gives no numbers: one word has no embedding."""
    made = tiny.model("llama")
    with torch.no_grad():
        made.model.embed_tokens.weight[tiny.tokenizer()(" ball")["input_ids"][0]] = torch.nan
    subject = wrap(made, tiny.tokenizer())
    texts = ["The apple is in Box F. Box F contains the", "The ball is in Box G. Box G contains the"]
    return subject, from_texts(subject, texts, [" apple", " ball"], positions={"object": [1, 1]})


def replayed(subject, base, vocabulary=True):
    z = torch.zeros(len(base), 1, subject.head_size)
    return replay.replay(runs.record(subject, base), [[Edit("z", 1, (0,), base.last, z)]], vocabulary=vocabulary)


SAYING = {
    "evaluate": answers.evaluate,
    "run": runs.run,
    "replay": replayed,
    "replay, no vocabulary": lambda subject, base: replayed(subject, base, vocabulary=False),
    "recorded answers": lambda subject, base: replay.recorded_answers(runs.record(subject, base)),
    "knockout": lambda subject, base: knockout.sweep(subject, base, conditions=["last->object"], starts=[0, 4]),
}


@pytest.mark.parametrize("says", SAYING)
def test_a_prompt_after_which_the_logits_are_no_numbers_is_named_and_counts_as_no_answer(says):
    subject, base = without_numbers()
    SAYING[says](subject, base.select([0]))
    with pytest.raises(ValueError, match=r"NaN or infinite after the prompt 'The ball is .*float16"):
        SAYING[says](subject, base)
    with pytest.raises(ValueError, match="NaN or infinite after the prompt 'The ball"):  # also as the first of all
        SAYING[says](without_numbers()[0], base.select([1, 0]))


def test_a_model_of_an_unknown_type_that_gives_no_numbers_is_told_so_and_not_that_it_does_not_do_what_edits_say():
    subject, base = without_numbers()
    subject.model.__class__ = type("Derived", (type(subject.model),), {})
    edit = Edit("z", 1, (0,), base.last[[1]], torch.zeros(1, 1, subject.head_size))
    with pytest.raises(ValueError, match="NaN or infinite after the prompt 'The ball"):
        runs.run(subject, base.select([1]), [edit])


def test_words_that_cannot_be_said_have_logits_of_minus_infinity_and_are_no_fault():
    made = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**tiny.SHAPE | {"num_key_value_heads": None}))
    made.set_output_embeddings(torch.nn.Linear(64, len(tiny.words())))
    with torch.no_grad():
        made.get_output_embeddings().bias[8] = -torch.inf
    subject = wrap(made, tiny.tokenizer())
    base = boxes.prompts(subject, 3, boxes=3)
    recording, words = runs.record(subject, base), torch.tensor([[8, 20]] * 3)
    for found in (
        runs.run(subject, base, targets=words),
        replay.replay(recording, [[]], targets=words),
        replay.replay(recording, [[]], targets=words, vocabulary=False),
    ):
        assert torch.isneginf(found.logits[..., 0]).all() and torch.isfinite(found.logits[..., 1]).all()


def test_a_value_that_is_beyond_the_numbers_of_the_models_dtype_is_refused_before_it_becomes_infinity():
    subject = tiny.subject("llama", dtype=torch.float16)
    base = boxes.prompts(subject, 3, boxes=3)
    edit = Edit("z", 1, (0,), base.last, torch.full((3, 1, subject.head_size), 1e6))
    for made in (lambda: runs.run(subject, base, [edit]), lambda: runs.rerun(runs.record(subject, base), [[edit]])):
        with pytest.raises(ValueError, match=r"is 1e\+06, and the float16 of the model ends at 6.55e\+04"):
            made()


ELSEWHERE = {
    "OPT": {"ffn_dim": 96, "word_embed_proj_dim": 64},  # no layers where Llama has them
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},  # some of another kind
}


@pytest.mark.parametrize("family", ELSEWHERE)
def test_a_model_whose_parts_are_elsewhere_is_refused_by_name_without_edits_too(family):
    config = getattr(transformers, f"{family}Config")(**{**tiny.SHAPE, **ELSEWHERE[family]})
    subject = wrap(getattr(transformers, f"{family}ForCausalLM")(config), tiny.tokenizer())
    base = boxes.prompts(subject, 3, boxes=3)
    with pytest.raises(RuntimeError, match=f"is a {family}ForCausalLM, which is not known here.*no attribute"):
        runs.run(subject, base)
