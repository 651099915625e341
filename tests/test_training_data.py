"""What the adapters are trained on: right answers, nothing of the boxes task, parts that never share a prompt."""

import contextlib
import io
import re

import pytest
from entity_book.training import data as training_data
from entity_circuits.tasks import vocabulary

WORDS = {word.lower() for word in vocabulary.objects()} | {"box", "boxes", "contains", "contain", "container", "drawer"}


@pytest.mark.parametrize("kind", training_data.KINDS)
def test_no_box_no_object_and_no_single_capital_letter_is_in_any_text(kind):
    for part in ("training", "held_out"):
        data = training_data.examples(kind, 1500, seed=3, part=part)
        for prompt, answer in zip(data["prompt"], data["answer"], strict=True):
            words = re.findall(r"[A-Za-z]+", prompt + answer)
            assert not {word.lower() for word in words} & WORDS, prompt
            assert not [word for word in words if len(word) == 1 and word.isupper()], prompt


@pytest.mark.parametrize("kind", ["code", "code-binding", "code-other"])
def test_a_program_prints_what_its_answer_says(kind):
    data = training_data.examples(kind, 300, seed=1)
    for prompt, answer in zip(data["prompt"], data["answer"], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(prompt, {})
        assert f" {printed.getvalue()}" == answer


def test_arithmetic_is_right():
    data = training_data.examples("arithmetic", 500, seed=1)
    seen = set()
    for prompt, answer in zip(data["prompt"], data["answer"], strict=True):
        a, sign, b = re.search(r"(\d+) ([-+*/]) (\d+)", prompt).groups()
        a, b = int(a), int(b)
        seen.add(sign)
        if sign == "/":
            quotient, rest = divmod(a, b)
            assert answer == (f" {quotient} remainder {rest}\n" if rest else f" {quotient}\n")
        else:
            assert answer == f" {({'+': a + b, '-': a - b, '*': a * b})[sign]}\n"
    assert seen == set("+-*/")


def test_code_binding_looks_up_a_name_and_code_other_never_does():
    for prompt in training_data.examples("code-binding", 300)["prompt"]:
        assert re.search(r"^\w+ = ", prompt, re.MULTILINE), prompt
    for prompt in training_data.examples("code-other", 300)["prompt"]:
        assert not re.search(r"^\w+ \+?= |for ", prompt, re.MULTILINE), prompt


def test_shuffled_has_the_questions_of_arithmetic_and_its_answers_at_other_questions():
    right, wrong = (training_data.examples(kind, 400, seed=2) for kind in ("arithmetic", "shuffled"))
    assert right["prompt"] == wrong["prompt"]
    assert sorted(right["answer"]) == sorted(wrong["answer"])
    same = sum(a == b for a, b in zip(right["answer"], wrong["answer"], strict=True))
    assert same < 0.05 * 400


@pytest.mark.parametrize("kind", training_data.KINDS)
def test_parts_share_no_prompt_and_no_prompt_comes_twice(kind):
    training = training_data.examples(kind, 800, seed=0)["prompt"]
    held_out = training_data.examples(kind, 200, seed=7, part="held_out")["prompt"]
    assert len(set(training)) == 800
    assert not set(training) & set(held_out)


def test_a_seed_decides_the_examples():
    one, same, other = (training_data.examples("code", 50, seed=seed)["prompt"] for seed in (4, 4, 5))
    assert one == same
    assert one != other


def test_an_unknown_kind_and_no_examples_are_refused():
    with pytest.raises(ValueError, match="called 'poetry': one of 'arithmetic'"):
        training_data.examples("poetry", 3)
    with pytest.raises(ValueError, match="at least 1"):
        training_data.examples("code", 0)
