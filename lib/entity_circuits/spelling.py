"""What a misspelt name was probably meant to be: for the messages of errors."""

import difflib
from collections.abc import Iterable


def meant(wrong: str, known: Iterable[str]) -> str:
    """` Did you mean 'X'?` for the known name that is most like a wrong one, with the space before it; or nothing.

    For example:

        from entity_circuits.spelling import meant

        print(meant("qwen2.5-codr-0.5b", ["qwen2.5-coder-0.5b", "llama-7b"]))
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wrong.lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""
