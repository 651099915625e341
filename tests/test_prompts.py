"""Claims about prompts of any task: positions are found where the words are, or it is said what cannot be found."""

from dataclasses import dataclass, replace

import pytest
import tiny
import torch
from entity_circuits import boxes, path_patching, prompts, runs, values
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import ablation, cmap, dcm, interchange, kept, knockout, metrics
from entity_circuits.results import Store
from entity_circuits.tasks import triples
from entity_circuits.tasks.rounds import Experiment, Round

SUBJECT = tiny.subject(dtype=torch.float64)
TEXTS = [
    "There is a dog and a cup, the cup has a key and the",
    "There is a cup and a dog, the dog has a bell and the",
    "There is a key and a bell, the bell has a cup and the",
    "There is a bell and a key, the key has a dog and the",
]
NAMES = [("dog", "cup"), ("cup", "dog"), ("key", "bell"), ("bell", "key")]


def made(subject=SUBJECT, texts=TEXTS, names=NAMES, **changed):
    given = {
        "positions": {"first": [one for one, _ in names], "second": [(other, 2) for _, other in names], "comma": ","},
        "wrong": [f" {other}" for _, other in names],
        "choices": [(f" {one}", f" {other}") for one, other in names],
    }
    return prompts.from_texts(subject, texts, [f" {one}" for one, _ in names], **{**given, **changed})


@dataclass(frozen=True, eq=False, kw_only=True)
class Own(prompts.Prompts):
    """Prompts of a class of one's own, with a place that is no tensor."""

    verb: tuple[int, ...] = ()

    def _named(self, name):
        return torch.tensor(self.verb)[:, None] if name == "verb" else super()._named(name)


def test_what_a_class_of_ones_own_holds_is_part_of_its_prompts():
    one, same, other = (Own(**vars(made()), verb=verb) for verb in ((1, 1, 1, 1), (1, 1, 1, 1), (2, 2, 2, 2)))
    assert one.digest == same.digest != other.digest
    assert one.select([0, 1]).digest != other.select([0, 1]).digest


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_metric_in_another_dtype_than_the_model_s_is_taken_everywhere(dtype):
    def value(outcome, _):
        return outcome.logits[..., 0].to(dtype)

    own = metrics.Metric("own", lambda p: p.answer_ids[:, None], value, metrics.top)
    subject = tiny.subject()
    p, source = made(subject), made(subject, texts=TEXTS[::-1], names=NAMES[::-1])
    path_patching.discover(subject, p, source, rounds=ROUNDS, metric=own, statistic="mean")
    circuit, means = {"last": [Head(1, 2)]}, ablation.means(subject, prompts=p)
    ablation.circuit_accuracy(subject, circuit, p, means, metric=own)
    ablation.full_without(subject, [circuit], p, means, metric=own)


def test_a_target_that_stands_twice_is_chosen_and_one_that_is_no_candidate_has_no_number():
    base, source = made(), made(texts=TEXTS[::-1], names=NAMES[::-1])
    top = runs.run(SUBJECT, base).top[0]
    two = torch.stack((top, base.answer_ids, top), dim=1)
    pairs = triples.Triples("said", base, source, top, two, ("said", "base", "again"))
    nothing = interchange.patch(SUBJECT, [], pairs, position="last")
    assert nothing["hit"].all() and nothing["chosen"].all()
    missed = interchange.patch(SUBJECT, [], replace(pairs, targets=top + 1), position="last")
    assert missed["target_logprob"].isna().all() and not missed["chosen"].any()


ROUNDS = [
    Round("movers", "last", share=3 / 32),
    Round("inhibitors", "last", into="movers", through="q", share=3 / 32),
    Round("copies", "second", into="inhibitors", through="v", heard_at="last", share=3 / 32),
]


def other(subject=SUBJECT):
    return made(subject, TEXTS[::-1], NAMES[::-1])


def word(p, name):
    return [SUBJECT.tokenizer.decode([p.input_ids[row, at]]).strip() for row, at in enumerate(p.position(name))]


def test_prompts_whose_positions_have_other_names_are_other_prompts():
    """The same tokens under the names a and x, or x and z: x is another token, and results at x are other results."""
    ids, one, two = torch.arange(12).view(2, 6), torch.tensor([1, 1]), torch.tensor([2, 2])
    bare = {"input_ids": ids, "last": two + 3, "answer_ids": one, "contexts": one}
    named = [{"a": one, "x": two}, {"x": one, "z": two}, {"x": two, "a": one}, {"a": one}, {}]
    digests = [prompts.Prompts(**bare, positions=names).digest for names in named]
    assert digests[0] == digests[2] and len(set(digests)) == 4


def test_the_digest_of_prompts_about_boxes_is_that_of_the_files_of_data():
    p = boxes.prompts(SUBJECT, 6, 3)
    tensors = {k: v for k, v in vars(p).items() if torch.is_tensor(v)} | {f"at {k}": v for k, v in p.positions.items()}
    assert p.digest == values.digest(*(tensors[name] for name in sorted(tensors)))


HAND_MADE = {
    "a position called last": ("'last'", lambda p: {"positions": {"last": p.last - 3}}),
    "a position called by a number": ("int", lambda p: {"positions": {3: p.last}}),
    "no wrong answer": ("wrong_ids", lambda p: {"wrong_ids": p.answer_ids * 0 - 1}),
    "the right answer as the wrong one": ("wrong_ids", lambda p: {"wrong_ids": p.answer_ids}),
    "choices of other prompts": ("choice_ids", lambda p: {"choice_ids": p.choice_ids[:2]}),
    "choices filled up with no token": (
        "equally many",
        lambda p: {"choice_ids": torch.cat((p.choice_ids, p.choice_ids[:, :1] * 0 - 1), 1)},
    ),
}


@pytest.mark.parametrize(("says", "changed"), HAND_MADE.values(), ids=HAND_MADE)
def test_prompts_made_by_hand_that_do_not_fit_together_are_refused(says, changed):
    p = made()
    with pytest.raises(ValueError, match=says):
        replace(p, **changed(p))


@pytest.mark.parametrize("name", ["answer_ids", "wrong_ids", "choice_ids"])
def test_answers_beyond_the_vocabulary_are_refused_before_a_run(name):
    p = made()
    with pytest.raises(ValueError, match="token 9999 is none of the"):
        runs.run(SUBJECT, replace(p, **{name: getattr(p, name) * 0 + 9999}))


def test_a_text_with_a_word_that_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"'A wheelbarrow and the'.*<unk>"):
        prompts.from_texts(SUBJECT, ["A wheelbarrow and the"], [" cup"])


@pytest.mark.parametrize("where", [(1, 2), ("dog", 1.5), ("dog",), ("dog", 1, 2), ("dog", "1"), (), ("dog", True)])
def test_a_position_that_is_no_place_is_refused_in_words(where):
    with pytest.raises(ValueError, match="'first'"):
        prompts.from_texts(SUBJECT, TEXTS[:1], [" dog"], positions={"first": where})


def test_positions_are_the_last_tokens_of_the_words_that_name_them():
    p = made(
        positions={"first": [a for a, _ in NAMES], "second": [(b, 2) for _, b in NAMES], "has": "the dog has" and -5}
    )
    assert word(p, "first") == [one for one, _ in NAMES]
    assert word(p, "second") == [two for _, two in NAMES]
    assert word(p, "has") == ["has"] * 4
    assert word(p, "second+1") == ["has"] * 4
    assert word(p, "last") == ["the"] * 4
    piece = prompts.from_texts(SUBJECT, TEXTS[:1], [" dog"], positions={"dog": "a dog and"})
    assert word(piece, "dog") == ["and"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": {"x": "bird"}}, "'bird' is not in 'There is a dog"),
        ({"positions": {"x": "a"}}, r"'a' stands \d+ times in 'There.*say which"),
        ({"positions": {"x": ("has", 2)}}, "stands 1 times.*not 2"),
        ({"positions": {"x": 99}}, "token 99, and the text has"),
        ({"positions": {"x": ["dog"]}}, "1 positions called 'x' for 4 texts"),
        ({"positions": {"last": "has"}}, "no position can be called 'last'"),
        ({"positions": {"x+1": "has"}}, "no position can be called"),
        ({"texts": [*TEXTS[:3], TEXTS[3] + " "]}, "text 3 ends in a space"),
        ({"wrong": [" dog"]}, "1 wrong for 4 texts"),
        ({"wrong": [" dog", " cup", " key", " unheard"]}, "' unheard' after .* is not one token"),
        ({"wrong": [" dog", " cup", " key", "bell"]}, "would join the last word.*write ' bell'"),
        ({"texts": [], "names": []}, "there are no texts"),
    ],
)
def test_what_cannot_be_found_is_said_with_the_text_it_is_not_in(change, message):
    with pytest.raises(ValueError, match=message):
        made(**change)


def test_a_place_that_prompts_do_not_have_is_refused_with_those_they_have():
    with pytest.raises(ValueError, match=r"no place called 'query'.*last, first, second, comma, everywhere"):
        made().position("query")
    with pytest.raises(ValueError, match="not one token in every"):
        made().position("last+1")
    assert made().places("everywhere").shape == made().input_ids.shape


def test_prompts_about_boxes_are_prompts_with_the_same_positions():
    p = boxes.prompts(SUBJECT, n=6, boxes=3)
    assert torch.equal(p.position("query"), p.query) and torch.equal(p.position("prev+1"), p.prev + 1)
    assert torch.equal(p.choice_ids, p.object_ids)
    again = prompts.from_texts(
        SUBJECT,
        p.texts,
        p.answer_ids.tolist(),
        positions={"query": p.query.tolist(), "prev": p.prev.tolist(), "object": p.object.tolist()},
        contexts=p.contexts.tolist(),
        choices=p.object_ids.tolist(),
    )
    source = boxes.noise(SUBJECT, p)
    one = path_patching.discover(SUBJECT, Experiment(p, source, boxes.ROUNDS))
    two = path_patching.discover(SUBJECT, again, source, rounds=boxes.ROUNDS)
    assert one.circuit.groups == two.circuit.groups
    assert all(
        torch.equal(one.scores[group].change.nan_to_num(), two.scores[group].change.nan_to_num())
        for group in one.scores
    )
    assert one.circuit.groups == path_patching.discover(SUBJECT, n=6, boxes=3).circuit.groups


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_rounds_of_any_task_by_any_metric_are_the_same_by_replay_and_by_definition(metric):
    found = [
        path_patching.discover(SUBJECT, made(), other(), rounds=ROUNDS, metric=metric, method=method, statistic="mean")
        for method in ("replay", "definition")
    ]
    assert found[0].circuit.groups == found[1].circuit.groups
    sizes = [len(some) for some in found[0].circuit.groups.values()]
    assert sizes[:2] == [3, 3] and sizes[2] in (0, 3)  # 0: the receivers sit in the lowest layer
    for one, two in zip(found[0].scores.values(), found[1].scores.values(), strict=True):
        assert torch.allclose(one.change, two.change, atol=1e-9, equal_nan=True)
        assert one.change.isnan().all() or one.change.nan_to_num().abs().max() > 1e-4
    assert found[0].circuit.positions == {"movers": "last", "inhibitors": "last", "copies": "second"}
    assert Circuit.from_json(found[0].circuit.to_json()) == found[0].circuit


def test_a_logit_difference_is_that_of_the_two_answers_and_its_change_that_of_one_head():
    p, q = made(), other()
    scores = path_patching.sweep(SUBJECT, p, q, position="last", metric="logit_difference", senders=[Head(2, 3)])
    logits = SUBJECT.model(input_ids=p.input_ids).logits[:, -1]
    rows = torch.arange(len(p))
    difference = logits[rows, p.answer_ids] - logits[rows, p.wrong_ids]
    assert torch.allclose(scores.logprob, difference, atol=1e-9)
    assert scores.correct.tolist() == (difference > 0).tolist()
    assert torch.equal(scores.per_example[2, 3], scores.change[2, 3])


def test_a_choice_is_among_the_choices_alone():
    outcome = path_patching.way("definition")(
        runs.record(SUBJECT, made()), [[]], targets=metrics.CHOICE.targets(made())
    )
    value = metrics.CHOICE.value(outcome, made())[0].exp()
    logits = SUBJECT.model(input_ids=made().input_ids).logits[:, -1].gather(1, made().choice_ids)
    assert torch.allclose(value, logits.softmax(-1)[:, 0], atol=1e-9)
    assert metrics.CHOICE.correct(outcome, made())[0].tolist() == (logits.argmax(1) == 0).tolist()


def test_a_metric_that_lacks_what_it_needs_of_any_prompt_says_so():
    p = made()
    swapped = p.choice_ids.clone()
    swapped[2] = p.wrong_ids[2]  # the answer of this one prompt is not among its choices
    for metric, lacking, message in (
        ("choice", replace(p, choice_ids=swapped), "among the choices of every prompt"),
        ("choice", replace(p, choice_ids=None), "needs the answers to choose among"),
        ("logit_difference", replace(p, wrong_ids=None), "needs a wrong answer"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.named(metric).targets(lacking)
    with pytest.raises(ValueError, match="one of 'log_probability', 'logit_difference', 'choice'"):
        metrics.named("accuracy")
    assert metrics.named(metrics.CHOICE) is metrics.named("choice")


def test_a_circuit_of_any_groups_is_ablated_where_its_groups_act_both_ways_alike():
    p = made()
    means = ablation.means(SUBJECT, other())
    found = path_patching.discover(SUBJECT, p, other(), rounds=ROUNDS, statistic="mean").circuit
    assert set(ablation.kept(found)) == {"last", "second"}
    for metric in metrics.METRICS:
        one, two = (
            ablation.circuit_accuracy(SUBJECT, found, p, means, metric=metric, method=method)
            for method in ("replay", "definition")
        )
        assert torch.allclose(one.logprob, two.logprob, atol=1e-9) and torch.equal(one.correct, two.correct)
        assert ablation.full_model(SUBJECT, p, metric=metric).logprob.shape == (1, 4)
    assert one.average().n == 4


def test_knockout_masks_and_cross_model_patching_take_positions_of_any_task():
    p, q = made(), other()
    curves = [
        knockout.sweep(SUBJECT, p, conditions=["last->second", "second->first"], starts=[0, 2, 4], method=method)
        for method in ("replay", "definition")
    ]
    assert torch.allclose(curves[0].logprob, curves[1].logprob, atol=1e-9)
    with pytest.raises(ValueError, match="no random keys"):
        knockout.sweep(SUBJECT, p, conditions=["last->random"])
    pairs = interchange.record(SUBJECT, triples.between(p, q))
    heads = [Head(3, 1), Head(2, 4)]
    tables = [interchange.patch(SUBJECT, heads, pairs, position="second", method=m) for m in ("replay", "definition")]
    assert tables[0]["answer"].tolist() == tables[1]["answer"].tolist()
    mask = dcm.learn(SUBJECT, heads, pairs, pairs, position="second", steps=4)
    assert mask.position == "second" and len(mask.keep) == 2
    tuned = tiny.subject(dtype=torch.float64, seed=1)
    for method in ("replay", "definition"):
        patched = cmap.patch(SUBJECT, tuned, {"second": heads}, p, site="v", method=method)
        assert (patched.logprob - patched.base_logprob).abs().max() > 1e-6


def test_keys_are_received_too_and_both_ways_alike():
    given = {"position": "first", "receivers": [Head(2, 1), Head(3, 6)], "composition": "k"}
    one, two = (path_patching.sweep(SUBJECT, made(), other(), **given, method=m) for m in ("replay", "definition"))
    assert torch.allclose(one.change, two.change, atol=1e-9, equal_nan=True)
    assert one.change[0].abs().max() > 1e-6


def test_rounds_that_do_not_follow_each_other_are_refused_before_anything_runs():
    p, q = made(), other()
    for rounds, message in (
        ([Round("a", "second")], "read at the answer"),
        ([Round("a", "last", into="b", through="q")], "only .* come before"),
        ([Round("a", "last"), Round("a", "last")], "two rounds"),
        ([Round("a", "nowhere")], "read at the answer"),
        ([Round("a", "last"), Round("b", "nowhere", into="a", through="v")], "no place called"),
        ([], "no rounds"),
    ):
        with pytest.raises(ValueError, match=message):
            path_patching.discover(SUBJECT, p, q, rounds=rounds)
    with pytest.raises(ValueError, match="go together"):
        Round("a", "last", into="b")
    with pytest.raises(ValueError, match="come with source prompts and rounds"):
        path_patching.discover(SUBJECT, p)
    with pytest.raises(ValueError, match="k of 'movers'"):
        path_patching.discover(SUBJECT, p, q, rounds=ROUNDS, k={"movers": 0})
    with pytest.raises(ValueError, match="no metric called"):
        path_patching.discover(SUBJECT, p, q, rounds=ROUNDS, metric="logits")


def test_another_metric_is_another_stored_result(tmp_path):
    store, p, q = Store(tmp_path), made(), other()
    one = path_patching.sweep(SUBJECT, p, q, position="last", store=store)
    two = path_patching.sweep(SUBJECT, p, q, position="last", store=store, metric="choice")
    assert not torch.allclose(one.change, two.change)
    assert kept.positions(p, "second").shape == (4, 1)
