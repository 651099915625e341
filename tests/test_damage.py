"""A flipped bit in what is cached, stored or shipped is told by name, repaired, or changes nothing.

A few flips of each file; `python -m pytest tests/faults/test_flips.py` tries many.
"""

import flips

EXPECTED = {"error", "repaired", "harmless"}


def test_a_flipped_bit_is_told_repaired_or_changes_nothing(tmp_path, monkeypatch):
    for case in flips.every(tmp_path, monkeypatch):
        for name, outcomes in flips.counted(case, flips=2).items():
            assert outcomes.total() == 2 and outcomes.keys() <= EXPECTED, name
