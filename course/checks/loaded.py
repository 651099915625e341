"""The model of a notebook, loaded once: the cell may be run again, and a second model would not fit into 8 GB."""

from entity_circuits import models

from .words import once


@once
def model(name):
    """`models.load(name)`, and the same model whenever it is asked for again."""
    return models.load(name)
