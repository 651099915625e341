"""Trainings are units: the interval about a kind of training is Student's t over its trainings."""

import math

import numpy as np
import pytest
from entity_circuits import units


def test_three_trainings_leave_two_degrees_of_freedom():
    found = units.over([0.199, 0.104, 0.166])
    half = 4.302653 * np.std([0.199, 0.104, 0.166], ddof=1) / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.469 / 3, 0.469 / 3 - half, 0.469 / 3 + half))
    assert (found.n, found.contexts) == (3, 3)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    drawn = np.random.default_rng(0).normal(size=(1500, 3))
    covered = np.mean([(one := units.over(row)).low <= 0 <= one.high for row in drawn])
    assert 0.935 <= covered <= 0.965


def test_one_training_has_no_interval_and_none_is_refused():
    one = units.over([0.2])
    assert one.value == 0.2 and math.isnan(one.low) and math.isnan(one.high)
    for wrong in ([], [0.1, math.nan], [[0.1, 0.2]]):
        with pytest.raises(ValueError, match="one finite number"):
            units.over(wrong)
    with pytest.raises(ValueError, match="level"):
        units.over([1, 2], level=1.0)
