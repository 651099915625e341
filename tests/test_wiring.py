"""The agreement of two models: 1 where they differ by noise alone, what it is where they differ; its bounds."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_book.figures import nodes
from entity_book.studies import wiring
from entity_circuits import heads
from entity_circuits.tasks import boxes

GROUPS = [one.name for one in wiring.sending()]


def maps(draw, truth, noise, contexts=35):
    """A model whose nodes and edges do what `truth` says, (kinds, rounds, rows), plus noise in every context."""
    made = {
        kind: {
            group: torch.tensor(truth[k, g][:, None] + noise * draw.standard_normal((truth.shape[-1], contexts)))
            for g, group in enumerate(GROUPS)
        }
        for k, kind in enumerate(wiring.KINDS)
    }
    return wiring.Wiring(made["nodes"], made["edges"], {}, torch.arange(contexts))


def pair(seed, correlation, noise=4.0, rows=120):
    """Two models with the same nodes, and edges that are correlated so."""
    draw = np.random.default_rng(seed)
    one = draw.standard_normal((2, 3, rows))
    other = one.copy()
    other[1] = correlation * one[1] + np.sqrt(1 - correlation**2) * draw.standard_normal((3, rows))
    return maps(draw, one, noise), maps(draw, other, noise)


def test_noise_alone_takes_nothing_away_from_the_agreement():
    mean = wiring.agreement(*pair(0, correlation=1.0), resamples=100).iloc[-1]
    assert mean["own_edges"] < 0.7  # plainly correlated, one model would look like two
    assert mean["edges"] == pytest.approx(1, abs=0.08)
    assert mean["nodes"] == pytest.approx(1, abs=0.08)


def test_the_strongest_edges_of_two_models_stand_beside_each_other_and_beside_what_noise_leaves_alike():
    one, other = pair(2, correlation=0.0, noise=0.5)
    names = {group: tuple(f"{group} {row}" for row in range(120)) for group in GROUPS}
    one, other = (wiring.Wiring(each.nodes, each.edges, names, each.contexts) for each in (one, other))
    table = wiring.beside(one, other, top=5)
    assert set(range(1, 6)) <= set(table["one_rank"]) and set(range(1, 6)) <= set(table["other_rank"])
    assert (
        5 <= len(table) <= 10
        and (table["one_low"] < table["one"]).all()
        and (table["other"] < table["other_high"]).all()
    )
    row = table[table["one_rank"] == 1].iloc[0]
    means = torch.cat([*one.edges.values()]).mean(-1)
    assert abs(row["one"]) == pytest.approx(float(means.abs().max())) and row["edge"] in sum(names.values(), ())
    across, itself = wiring.shared(one, other, top=12)
    assert across < 3 < 9 < itself <= 12
    assert wiring.shared(one, one, top=12) == pytest.approx((itself, itself), abs=1.5)


def test_what_truly_differs_is_told_and_told_of_the_edges_alone():
    found = wiring.agreement(*pair(1, correlation=0.5), resamples=100)
    mean = found.iloc[-1]
    assert list(found["round"]) == ["B to A", "C to B", "D to C", "mean"]
    assert mean["edges_low"] < mean["edges"] < mean["edges_high"] < wiring.KEPT
    assert mean["edges"] == pytest.approx(0.5, abs=0.15)
    assert mean["difference_low"] > 0
    assert (
        wiring.verdict(mean) == "by the rule its edges are not kept (above 0.9), and differ surely more than its nodes"
    )


def test_the_interval_of_the_agreement_holds_the_truth_as_often_as_it_says():
    """The truth is that of the maps without noise; 40 pairs of models, of which one or two may be missed."""
    inside = 0
    for seed in range(40):
        one, other = pair(seed, correlation=0.7, noise=3.0)
        draw = np.random.default_rng(seed)  # the same truth again, without noise
        first = draw.standard_normal((2, 3, 120))
        second = 0.7 * first[1] + np.sqrt(1 - 0.7**2) * draw.standard_normal((3, 120))
        truth = np.mean([np.corrcoef(first[1, g], second[g])[0, 1] for g in range(3)])
        mean = wiring.agreement(one, other, resamples=60, seed=seed).iloc[-1]
        inside += mean["edges_low"] <= truth <= mean["edges_high"]
    assert inside >= 35


def test_halves_never_share_a_context():
    draw = np.random.default_rng(0)
    counts = draw.multinomial(35, np.full(35, 1 / 35))
    first, second = wiring._halves(counts, draw)
    assert not (first * second).any()
    assert np.array_equal((first + second)[0], counts)


def test_open_and_kept_are_told_apart():
    row = {"edges_low": 0.85, "edges_high": 1.02, "difference_low": -0.1}
    assert "may be kept or not" in wiring.verdict(row) and "differ not surely more" in wiring.verdict(row)
    assert "its edges are kept" in wiring.verdict({**row, "edges_low": 0.92})


def test_maps_of_other_prompts_are_refused():
    one, _ = pair(0, correlation=1.0)
    with pytest.raises(ValueError, match="other prompts"):
        wiring.agreement(one, maps(np.random.default_rng(0), np.zeros((2, 3, 120)), 1.0, contexts=20))


def test_maps_are_read_as_they_were_kept_and_only_for_their_own_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(wiring, "folder", lambda: tmp_path)
    subject = tiny.subject("qwen2", seed=0)
    asked = {group: heads.of(["L0H0", "L1H1", "L2H0", "L3H1"]) for group in boxes.GROUPS}
    found = wiring.measure(subject, asked, contexts=4)
    assert found.pairs["position_transmitter"][0] == "L0H0 -> L1H1"
    assert {len(change[0]) for change in found.edges.values()} == {8}
    wiring.keep(found, tmp_path / "mine.safetensors", subject, command="this test")
    again = wiring.kept("mine", subject.fingerprint)
    assert again.pairs == found.pairs and torch.equal(again.contexts, found.contexts)
    for group, change in found.edges.items():
        assert torch.allclose(again.edges[group], change.float(), atol=1e-3)
    assert wiring.kept("mine", "of another model") is None
    sender, receiver = wiring.strongest(found, "position_transmitter", 1)[0]
    assert f"{sender} -> {receiver}" in found.pairs["position_transmitter"]


def test_each_panel_of_the_figure_shows_its_own_model_alone():
    rows = wiring.agreement(*pair(0, correlation=1.0), resamples=5)
    spec = nodes.agreement(pd.concat([rows.assign(model=name) for name in ("one", "other")])).to_dict()
    own = [layer for layer in spec["spec"]["layer"] if "data" in layer]
    assert len(own) == 1 and own[0]["mark"]["type"] == "rule"  # the dashed line alone has rows of its own
