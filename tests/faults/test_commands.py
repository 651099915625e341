"""Every malformed command ends with a sentence, not with 0, without a traceback, and starts no work."""

import pytest
from malformed import BOOK, OTHERS

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("command", [*BOOK, *OTHERS], ids=" ".join)
def test_a_malformed_command_is_refused_in_words_before_any_work(command, refused, record_property):
    refused(command)
    record_property("malformed commands refused", 1)
