"""The prompt that stands as the example on the pages: one of those in which the circuit is looked for."""

from entity_circuits.models.subject import Subject
from entity_circuits.results import Store
from entity_circuits.runs import answers
from entity_circuits.tasks import boxes, desiderata
from entity_circuits.tasks.boxes import Prompts
from entity_circuits.tasks.triples import Triples

LOOKED_AT = 10
"""In how many contexts a prompt that is answered rightly is looked for."""


def prompt(subject: Subject, boxes_: int = 7, seed: int = 0, store: Store | None = None) -> Prompts:
    """The first prompt of the set `discovery` that the model answers rightly, alone; the very first if it answers none.

    The maps of chapter 3 show the same prompt (`looking.running`).

    Args:
        subject: the model.
        boxes_: how many boxes a context has.
        seed: of the contexts, as in `path_patching.discover`.
        store: keeps what the model answers for the next page that asks.

    For example:

        print(running.prompt(models.load("qwen2.5-coder-0.5b")).texts[0])
    """
    asked = boxes.prompts(subject, LOOKED_AT * boxes_, boxes_, seed, split="discovery")
    return asked.select([int(answers.evaluate(subject, asked, store=store).correct.int().argmax())])


def pair(subject: Subject, boxes_: int = 7, seed: int = 0, store: Store | None = None) -> Triples:
    """`prompt` as the base of a pair for which each hypothesis about what heads carry predicts another word.

    Drawn as the pairs of chapter 5 are, in the set of the prompt. Parameters as for `prompt`.

        print(running.pair(models.load("qwen2.5-coder-0.5b")).source.texts[0])
    """
    drawn = desiderata.triples(subject, "label", LOOKED_AT * boxes_, boxes_, seed, split="discovery")
    (text,) = prompt(subject, boxes_, seed, store).texts
    return drawn.select([boxes.of(drawn.base).texts.index(text)])
