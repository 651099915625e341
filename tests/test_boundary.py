"""Where a prompt ends and its answer begins: the answer is the token that comes next, or the prompt is refused."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from entity_circuits import boxes, prompts
from entity_circuits.tasks import spots, vocabulary
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORLD = boxes.World(("apple", "cup"), ("F", "Q"))
TEXT = "The cup is in Box F. Box F contains the"


def reader(split=r" ?\w+|[^\w\s]|\s", more=(), ending=None, lower=False, beginning=None):
    """A model that only reads, with a tokenizer of words and blanks that splits like this; `more` are other tokens."""
    known = {word: index for index, word in enumerate(dict.fromkeys([*tiny.words(), "Ġ", "Â", "<sep>", *more]))}
    inner = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    if lower:
        inner.normalizer = normalizers.Lowercase()
    if ending:
        inner.post_processor = processors.TemplateProcessing(
            single=f"$A {ending}", special_tokens=[(ending, known[ending])]
        )
    if beginning:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{beginning} $A", special_tokens=[(beginning, known[beginning])]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    model = SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(len(known), 1))
    return SimpleNamespace(tokenizer=made, device=torch.device("cpu"), model=model)


def written(subject, query="Box {label} contains the", world=WORLD, label=None):
    asked = None if label is None else [label]
    return boxes.from_worlds(subject, [world], [0], asked=asked, template=boxes.Template(query=query))


def test_the_answer_is_the_token_that_follows():
    subject = reader()
    for p in (written(subject), prompts.from_texts(subject, [TEXT], [" apple"])):
        assert subject.tokenizer.decode(p.answer_ids[0]) == " apple"


@pytest.mark.parametrize("end", [" ", "  ", "\t", "\n", "\r\n", "\x0b", "\xa0", "\u2009", "\u200b", "\u2060", "\ufeff"])
def test_a_prompt_that_ends_in_a_space_of_any_kind_is_refused(end):
    assert vocabulary.ends_in_space("the" + end) and not vocabulary.ends_in_space("the")
    with pytest.raises(ValueError, match="ends in a space, which belongs to the next token"):
        written(reader(), "Box {label} contains the" + end)
    with pytest.raises(ValueError, match="ends in a space, which belongs to the next token"):
        prompts.from_texts(reader(), [TEXT + end], [" apple"])


@pytest.mark.parametrize("end", ["the", "the:", 'the "', "the (", "the…", "the é", "the 7"])
def test_a_prompt_that_ends_otherwise_is_not(end):
    assert not vocabulary.ends_in_space(f"Box F contains {end}")


@pytest.mark.parametrize("ending", ["<eos>", "<sep>"])
def test_a_tokenizer_that_ends_every_text_with_a_token_of_its_own_is_refused(ending):
    says = "ends every text with an end token" if ending == "<eos>" else "otherwise together than apart"
    with pytest.raises(ValueError, match=says):
        written(reader(ending=ending))
    with pytest.raises(ValueError, match=r"ends every text with an end token|is not one token"):
        prompts.from_texts(reader(ending=ending), [TEXT], [" apple"])


def test_a_text_that_writes_the_bos_token_which_the_tokenizer_adds_is_refused():
    """As chat templates write it; where the tokenizer adds none, a text begins as it likes."""
    adds, adds_none = reader(beginning="<sep>"), reader()
    begun = boxes.Template("<sep>the {object} is in Box {label}")
    for subject in (adds, adds_none):
        subject.tokenizer.add_special_tokens({"bos_token": "<sep>"})
    assert prompts.from_texts(adds, [TEXT], [" apple"]).input_ids[0, :2].tolist() != [adds.tokenizer.bos_token_id] * 2
    for make in (
        lambda subject: prompts.from_texts(subject, [TEXT, f"<sep>{TEXT}"], [" apple"] * 2),
        lambda subject: boxes.from_worlds(subject, [WORLD] * 2, [0, 1], template=[boxes.Template(), begun]),
    ):
        with pytest.raises(ValueError, match=r"text 1 begins with '<sep>'.*before every text: leave it out"):
            make(adds)
        assert int(make(adds_none).input_ids[1, 0]) == adds_none.tokenizer.bos_token_id
    twice = prompts.from_texts(adds_none, [f"<sep><sep>{TEXT}"], [" apple"])
    assert twice.input_ids[0, :2].tolist() == [adds_none.tokenizer.bos_token_id] * 2


@pytest.mark.parametrize("label", [None, "M"])
def test_a_tokenizer_that_joins_the_last_word_of_the_prompt_to_the_answer_is_refused(label):
    """ "holds apple" is one token here, "the apple" is two; also where the asked label is in no box."""
    joined = reader(r" ?holds \w+| ?\w+|[^\w\s]|\s", more=["Ġholds" + "Ġapple"])
    assert written(joined, label=label).last.shape == (1,)
    with pytest.raises(ValueError, match=r"reads '.*holds' and ' apple' otherwise together than apart"):
        written(joined, "Box {label} holds", label=label)
    with pytest.raises(ValueError, match="is not one token"):
        prompts.from_texts(joined, ["Box F holds"], [" apple"])


def test_words_that_are_one_token_cannot_be_told_apart():
    lower = reader(lower=True, more=["Ġf", "Ġq", "Ġbox", "box", "Ġs", "Ġt"])
    with pytest.raises(ValueError, match="'Cup' and 'cup' are one token of this tokenizer"):
        written(lower, world=boxes.World(("Cup", "cup"), ("F", "Q")))


def test_a_piece_of_text_that_ends_in_several_tokens_means_the_last_of_them_and_none_of_the_next_word():
    """A face is four tokens of bytes, é two; a space belongs to the next word, a line break of its own does not."""
    known = {token: index for index, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġb"])}
    inner = Tokenizer(models.BPE(known, merges=[("Ġ", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for trim in (False, True):
        inner.post_processor = processors.ByteLevel(trim_offsets=trim)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
        for text, piece, index in (
            ("a\U0001f642b", "\U0001f642", 4),
            ("caf\u00e9 b", "caf\u00e9", 4),
            ("a b", " b", 1),
        ):
            assert spots.of(tokenizer, "x", 0, text, piece) == index
        with pytest.raises(ValueError, match="'x' of text 0: 'a ' ends in what belongs to the next token of 'a b'"):
            spots.of(tokenizer, "x", 0, "a b", "a ")
        if not trim:
            assert spots.of(tokenizer, "x", 0, "a\nb", "a\n") == 1
