"""What a model may be called: an entry of the registry, a folder or a GGUF file, or a hub id."""

import os
import re
from pathlib import Path

from ..spelling import meant
from .registry import registry

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+\.gguf))?(?:@(?P<revision>[\w./-]+))?")

CONVERT = (
    "Pickled weights can run code when they are opened, so only safetensors and GGUF are read. Convert them once: "
    "`torch.load(file, weights_only=True)`, then `safetensors.torch.save_file(tensors, file)`."
)


def text(name: str | os.PathLike[str]) -> str:
    """A name as text. `ValueError` for an empty one, which is no name and never the current folder; `TypeError` if it
    is neither text nor a path.

    For example:

        from pathlib import Path

        from entity_circuits.models import naming

        print(naming.text(Path("mine")))
    """
    found = os.fspath(name)
    if not isinstance(found, str):
        raise TypeError(f"a model is named by a text or a path, not by {found!r}")
    if not found.strip():
        raise ValueError(f"{found!r} is no name of a model. The current folder is '.'.")
    return found


def path_of(name: str) -> Path:
    """The path that a name would be, with `~` expanded. `ValueError` for the home of a user that is not known.

    For example:

        from entity_circuits.models import naming

        print(naming.path_of("models/mine").name)
    """
    try:
        return Path(text(name)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name!r} is no path here: {error}") from error


def unknown(name: str) -> ValueError:
    """The error for a name that nothing has, with the names that are known.

    For example:

        from entity_circuits.models import naming

        print(naming.unknown("lama-7b"))
    """
    entries = registry()
    return ValueError(
        f"there is no model {name!r}.{meant(name, entries)} It is no folder, no GGUF file, no hub id "
        f"(owner/repository), and not one of the registry: {', '.join(entries)}"
    )
