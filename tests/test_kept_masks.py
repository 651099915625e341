"""Masks and answers that are kept: they come back, for these models only, and a third of a group is chosen by size."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from entity_book.studies import kept_masks, semantics, worth
from entity_circuits.methods.dcm import Asked
from entity_circuits.results import Store
from test_semantics import GROUPS, SIZES, A, B, biased


@pytest.fixture(scope="module")
def made():
    one = semantics.study(biased(), GROUPS, store=Store(None), name="one", **SIZES)
    asked = {A: ("object", "position"), B: ("position",)}
    sweeps = {
        ("one", group, target): tuple(
            one.masks([Asked(GROUPS[group], "last", target, penalty) for penalty in (0.0, 2.0)], steps=8)
        )
        for group, targets in asked.items()
        for target in targets
    }
    masks = {key: kept_masks.third(some) for key, some in sweeps.items()}
    return one, kept_masks.Kept(sweeps, tuple(worth.tried(one, masks, draws=2)))


def test_what_is_kept_comes_back_for_the_same_models_only(made, tmp_path, monkeypatch):
    _, found = made
    monkeypatch.setattr(kept_masks, "folder", lambda: tmp_path)
    assert kept_masks.kept("two", ["a", "b"]) is None
    kept_masks.keep(found, tmp_path / "two.safetensors", ["a", "b"], "as in a test")
    assert kept_masks.kept("two", ["a", "c"]) is None
    back = kept_masks.kept("two", ["a", "b"])
    assert back is not None
    pd.testing.assert_frame_equal(worth.table(back.tried), worth.table(found.tried))
    assert list(back.masks) == list(found.masks)
    for one, other in zip(back.masks.values(), found.masks.values(), strict=True):
        assert (one.heads, one.selected, one.penalty, one.converged) == (
            other.heads,
            other.selected,
            other.penalty,
            other.converged,
        )
        assert torch.equal(one.keep, other.keep) and torch.allclose(one.trace.double(), other.trace.double(), atol=1e-3)


def test_the_mask_that_is_chosen_patches_nearest_to_a_third_of_its_group_whatever_it_is_worth(made):
    _, found = made
    for masks in found.sweeps.values():
        best = kept_masks.third(masks)
        assert best.selected == best.settled
        off = [abs(len(mask.settled) - len(mask.heads) / 3) for mask in masks]
        assert abs(len(best.settled) - len(best.heads) / 3) == min(off)
    same = kept_masks.third([masks[0], masks[0]])
    assert same.penalty == masks[0].penalty


@pytest.mark.parametrize("batch", [49, 5])
def test_parts_of_the_test_pairs_add_up_to_all_of_them_however_many_are_run_at_once(made, monkeypatch, batch):
    one, found = made
    monkeypatch.setitem(semantics.BATCH, "test", batch)
    parts = [worth.tried(part, found.masks, draws=2) for part in kept_masks.in_parts(one, contexts=1)]
    assert len(parts) == 2
    for whole, some in zip(found.tried, worth.joined(parts), strict=True):
        assert np.array_equal(whole.hits.to_numpy(), some.hits.to_numpy()) or whole.group not in (A, B)
        assert np.array_equal(whole.contexts, some.contexts) and whole.target == some.target


def test_masks_are_learned_for_all_that_is_wanted_at_every_price():
    one = semantics.study(biased(), GROUPS, store=Store(None), name="one", **SIZES)
    found = kept_masks.swept(one, {A: ("object",), B: ("position", "label"), "nowhere": ("object",)}, steps=4)
    assert list(found) == [("one", A, "object"), ("one", B, "position"), ("one", B, "label")]
    assert all(sorted(mask.penalty for mask in masks) == sorted(kept_masks.PENALTIES) for masks in found.values())


def test_prices_tell_how_many_heads_stay_and_whether_the_mask_stood_still(made):
    _, found = made
    table = kept_masks.prices(found)
    assert len(table) == sum(map(len, found.sweeps.values())) and (table["settled"] <= table["heads"]).all()
    assert (table.groupby(["group", "desideratum"])["chosen"].sum() == 1).all()
    ordered = table.sort_values("penalty").groupby(["group", "desideratum"])["settled"]
    assert (ordered.first() >= ordered.last()).all(), "a higher price keeps no more heads"


def test_answers_that_were_run_again_are_counted_and_those_of_other_heads_refused(made):
    one, found = made
    again = worth.tried(one, found.masks, draws=1)
    equal, count = worth.same(found.tried, again)
    assert equal == count > 100
    again[0].hits.iloc[0, 0] = not again[0].hits.iloc[0, 0]
    assert worth.same(found.tried, again) == (count - 1, count)
    with pytest.raises(ValueError, match="other heads"):
        worth.same(found.tried, [replace(again[0], heads=())])
    with pytest.raises(ValueError, match="not the first"):
        worth.same(found.tried, [replace(again[0], contexts=again[0].contexts + 1)])


def test_where_nothing_is_kept_both_studies_are_learned_at_one_price(made):
    one, _ = made
    other = semantics.study(biased(1), GROUPS, name="other", **SIZES)
    found = kept_masks.live([one, other], penalty=0.0, steps=4, draws=1)
    assert len(found.masks) == 8 + 5 and {tried.model for tried in found.tried} == {"one", "other"}
    assert len(worth.table(found.tried)) == 2 * 4 * 3
