"""Many flipped bits in what is cached, stored or shipped. `FLIPS`, 20 unless given, is how many of each file.

FLIPS=100 python -m pytest tests/faults/test_flips.py
"""

import os
from collections import Counter

import flips
import pytest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(0)]


def test_a_flipped_bit_is_told_repaired_or_changes_nothing(tmp_path, monkeypatch, capsys, record_property):
    counted: Counter[str] = Counter()
    for case in flips.every(tmp_path, monkeypatch):
        for name, outcomes in flips.counted(case, int(os.environ.get("FLIPS", "20"))).items():
            with capsys.disabled():
                print(f"\n{name:46}", ", ".join(f"{kind} {outcomes[kind]}" for kind in sorted(outcomes)), end="")
            counted += outcomes
    for kind, number in counted.items():
        record_property(f"flipped bits, {kind}", number)
