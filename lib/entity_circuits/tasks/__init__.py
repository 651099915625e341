"""What a model is asked: prompts with named positions; and the paper's task, which methods use unless told another."""

from . import boxes as default  # noqa: F401
