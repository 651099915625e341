"""The prompt that stands as the example on the pages: one of those in which the circuit is looked for."""

from entity_circuits.models.subject import Subject
from entity_circuits.runs import answers
from entity_circuits.tasks import boxes
from entity_circuits.tasks.boxes import Prompts

LOOKED_AT = 10
"""In how many contexts a prompt that is answered rightly is looked for."""


def prompt(subject: Subject, boxes_: int = 7, seed: int = 0) -> Prompts:
    """The first prompt of the set `discovery` that the model answers rightly, alone; the very first if it answers none.

    The maps of chapter 3 show the same prompt (`looking.running`).

    Args:
        subject: the model.
        boxes_: how many boxes a context has.
        seed: of the contexts, as in `path_patching.discover`.

    For example:

        print(running.prompt(models.load("qwen2.5-coder-0.5b")).texts[0])
    """
    asked = boxes.prompts(subject, LOOKED_AT * boxes_, boxes_, seed, split="discovery")
    return asked.select([int(answers.evaluate(subject, asked).correct.int().argmax())])
