"""Prompts as tables: the one place that needs the package `datasets`, which the engine works without."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def dataset_of(rows: list[dict[str, Any]]) -> "Dataset":
    """A Hugging Face dataset of these rows. Raises `ImportError` that says what to install where it is missing."""
    try:
        from datasets import Dataset  # slow to import
    except ImportError as error:
        raise ImportError("this makes a Hugging Face dataset: `pip install datasets` first") from error
    return Dataset.from_list(rows)
