"""Heads may be written as text, and what has no sense as an argument is told in words before any model runs."""

import pytest
import tiny
from entity_circuits import ablation, cmap, dcm, desiderata, heads, interchange, knockout, path_patching, runs, tasks
from entity_circuits.heads import Head


@pytest.fixture(scope="module")
def subject():
    return tiny.subject()


@pytest.fixture(scope="module")
def drawn(subject):
    return tasks.default.experiment(subject, n=7)


@pytest.fixture(scope="module")
def pairs(subject):
    return desiderata.triples(subject, "object", n=7)


@pytest.fixture
def no_runs(monkeypatch):
    def refused(*_, **__):
        pytest.fail("a model ran")

    monkeypatch.setattr(runs, "record", refused)
    monkeypatch.setattr(runs, "run", refused)


def test_heads_are_read_from_text_in_their_order():
    assert heads.of(["L3H5", Head(0, 1)]) == (Head(3, 5), Head(0, 1))
    assert heads.of("L3H5") == heads.of(Head(3, 5)) == (Head(3, 5),)
    for wrong in ([(3, 5)], ["3.5"], [None]):
        with pytest.raises(ValueError, match="written like L14H5"):
            heads.of(wrong)


def test_text_stands_for_heads_in_every_method(subject, drawn, pairs):
    written, parsed = ["L3H5", "L2H1"], [Head(3, 5), Head(2, 1)]
    means = ablation.means(subject, n=7)
    twin = tiny.subject(seed=1)

    def both(what):
        one, other = what(written), what(parsed)
        assert (one == other) if isinstance(one, dict | tuple | list) else one.equal(other)

    def scores(some):
        return path_patching.sweep(
            subject, drawn.base, drawn.source, position="query", receivers=some, composition="v", senders=["L0H1"]
        ).change.nan_to_num()

    both(scores)
    both(lambda some: ablation.kept({"last": some}))
    both(lambda some: ablation.circuit_accuracy(subject, {"last": some}, drawn.base, means).logprob)
    both(lambda some: ablation.full_without(subject, [{"last": some}], drawn.base, means).logprob)
    both(lambda some: interchange.patch(subject, some, pairs, position="last").to_dict())
    both(lambda some: cmap.patch(subject, twin, {"last": some}, drawn.base).logprob)
    both(lambda some: dcm.learn(subject, some, pairs, pairs, position="last", steps=1).trace)


def test_heads_without_a_place_are_refused_with_the_form_that_is_wanted(subject, drawn, no_runs):
    means = None
    with pytest.raises(ValueError, match=r"heads by place as in \{'last': \['L3H5'\]\}"):
        ablation.kept([Head(3, 5)])
    for given in (Head(3, 5), [Head(3, 5)], ["L3H5"]):
        with pytest.raises(ValueError, match="heads by place"):
            ablation.circuit_accuracy(subject, given, drawn.base, means)
        with pytest.raises(ValueError, match="heads are given by place"):
            cmap.patch(subject, subject, given, drawn.base)


def test_an_unknown_method_is_refused_before_a_model_runs(subject, drawn, pairs, no_runs):
    asked = [
        lambda: path_patching.sweep(subject, drawn.base, drawn.source, position="last", method="fast"),
        lambda: path_patching.discover(subject, drawn, method="fast"),
        lambda: ablation.circuit_accuracy(subject, {"last": ["L3H5"]}, drawn.base, None, method="fast"),
        lambda: ablation.full_without(subject, [{"last": ["L3H5"]}], drawn.base, None, method="fast"),
        lambda: interchange.patch(subject, ["L3H5"], pairs, position="last", method="fast"),
        lambda: dcm.learn(subject, ["L3H5"], pairs, pairs, position="last", method="fast"),
        lambda: cmap.patch(subject, subject, {"last": ["L3H5"]}, drawn.base, method="fast"),
        lambda: knockout.sweep(subject, drawn.base, method="fast"),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match="'fast': one of 'replay', 'definition'"):
            ask()
