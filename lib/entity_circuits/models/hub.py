"""Whether the Hugging Face hub can be reached, asked before anything is asked of it."""

import os

from .cached import FetchError
from .unpacking import first_line

SECONDS = 5.0
"""How long the hub may take to answer at all where the same file can be had elsewhere: its own client goes on trying
for half a minute."""


def require_answer() -> None:
    """Raises `FetchError` if the hub, or what stands in between, does not answer within `SECONDS`; any answer will do.

    `HF_ENDPOINT` names another host, and where `HF_HUB_OFFLINE` is set nothing is asked and the error says so.
    """
    from httpx2 import HTTPError
    from huggingface_hub import constants, get_session  # slow to import

    address = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    try:
        get_session().head(address, timeout=SECONDS, follow_redirects=False)
    except (HTTPError, OSError) as error:
        raise FetchError(f"the hub cannot be reached ({first_line(error)}).") from error
