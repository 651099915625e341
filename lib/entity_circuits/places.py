"""Where things are on disk: the repository, its data, the cache of models, the results of the book."""

import os
from pathlib import Path

import platformdirs

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: the package is installed from it with `pip install -e .`, so its data lie beside it."""


def data(*parts: str) -> Path:
    """A file of the repository's `data/` folder.

    Raises `FileNotFoundError` if the package was installed without its checkout.

        from entity_circuits import places

        print(places.data("models.toml").name)
    """
    path = ROOT.joinpath("data", *parts)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing. The library reads its data from the repository: clone it and `pip install -e .` there."
        )
    return path


def cache() -> Path:
    """The folder that keeps fetched models (`ENTITY_CIRCUITS_CACHE`, or the user's cache folder). Not created here."""
    chosen = os.environ.get("ENTITY_CIRCUITS_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("entity-circuits"))


def results() -> Path:
    """The folder of stored results (`ENTITY_CIRCUITS_RESULTS`, or the checkout's `build/results`). Not created here."""
    chosen = os.environ.get("ENTITY_CIRCUITS_RESULTS")
    return Path(chosen).expanduser() if chosen else ROOT / "build" / "results"


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, with the folders above it; a failure leaves the file that was there.

    For example:

        from pathlib import Path

        from entity_circuits import places

        places.write(Path("notes/today.txt"), "one circuit")
        print(Path("notes/today.txt").read_text())
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
