"""The README's numbers are those of a stored whole build, and a new build is held against it."""

import nbformat
import pytest
import tiny
from entity_book.build import book, cli, executed, readme
from entity_book.build.book import BookError
from entity_book.claims import claims, findings
from entity_book.claims.findings import Gathered, Reported
from entity_circuits import places, sums
from entity_circuits.models import pair

RUN = {"processor": "a processor", "cores": 2, "memory": 1, "system": "Linux", "python": "3.11.7"}
FOUND = {
    "accuracy/base": Reported("accuracy/base", 0.45, 0.41, 0.49, 490, "accuracy", chapter="01_one"),
    "accuracy/chance": Reported("accuracy/chance", 0.142857, chapter="01_one"),
}


@pytest.fixture
def built(house):
    """A house whose one chapter was executed and kept two findings."""
    (house / "README.md").write_text(f"# A book\n\n{readme.BEGIN}\nold\n{readme.END}\n\nThe end.\n")
    save(house, FOUND)
    run = book.Run("01_one", "2026-11-22T10:00:00+00:00", 1.0, 1, machine=RUN)
    made = nbformat.v4.new_notebook(metadata={"book": {"run": vars(run)}})
    places.write(executed.path(house, "01_one"), executed.sealed(made))
    return house


def save(house, found, **more) -> None:
    path = findings.file(house)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Gathered(found, **more).to_json())


def test_the_readme_of_the_repository_shows_the_stored_findings():
    text = (places.ROOT / "README.md").read_text("utf-8")
    assert readme.replaced(text, readme.block(readme.stored())) == text, "run `entity-circuits readme`"


def test_the_block_is_written_from_a_build_and_nothing_else_of_the_readme_changes(built):
    readme.write(built)
    text = (built / "README.md").read_text()
    assert text.startswith(f"# A book\n\n{readme.BEGIN}\n") and text.endswith(f"{readme.END}\n\nThe end.\n")
    assert "| 0.66 | 0.45 [0.41, 0.49], n = 490 | **replicates** |" in text
    assert "Computed on 2026-11-22 by `entity-circuits book` (a processor, 2 cores, Linux, Python 3.11.7)" in text
    assert readme.replaced(text, readme.block(readme.stored(built))) == text
    assert readme.check(built) == ([], False)


def test_storing_findings_lists_them_and_does_not_make_the_chapters_out_of_date(built, pretend):
    sums.seal(built / "data")
    before = sums.listed(built / "data")
    readme.write(built)
    assert sums.whole(built / "data") and sums.listed(built / "data") != before
    book.execute(root=built)
    (built / "data" / "findings.json").write_text("{}")
    sums.seal(built / "data")
    assert book.execute(root=built) == []


def test_stored_findings_that_were_changed_by_hand_are_refused_by_name(built, capsys, monkeypatch):
    sums.seal(built / "data")
    readme.write(built)
    path = built / "data" / "findings.json"
    path.write_text(path.read_text().replace("0.45", "0.65"))
    monkeypatch.setattr(places, "ROOT", built)
    assert cli.main(["readme", "--check"]) == 1
    assert "findings.json is damaged or was changed" in capsys.readouterr().err


def test_a_build_inside_the_intervals_agrees_and_one_that_turns_a_claim_does_not(built):
    readme.write(built)
    near = Reported("accuracy/base", 0.51, 0.46, 0.54, 490, "accuracy", chapter="01_one")
    save(built, {**FOUND, "accuracy/base": near})
    told, apart = readme.check(built)
    assert told == ["accuracy/base: 0.510 is 0.020 outside of 0.45 [0.41, 0.49], n = 490, 0.5 times half its width"]
    assert not apart
    far = Reported("accuracy/base", 0.15, 0.11, 0.19, 490, "accuracy", chapter="01_one")
    save(built, {**FOUND, "accuracy/base": far})
    told, apart = readme.check(built)
    assert told[-1] == "tracks: does not, was replicates"
    assert apart
    save(built, {"accuracy/base": near})
    assert readme.check(built)[1], "a finding is missing"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"missing": ("02_two",)}, "not a whole one: without 02_two"),
        ({"parameters": {"model": "other"}}, r"other parameters \(model = 'other'\)"),
    ],
)
def test_a_build_in_part_or_of_another_model_is_not_stored(built, more, message):
    save(built, FOUND, **more)
    with pytest.raises(BookError, match=message):
        readme.write(built)
    assert not (built / "data" / "findings.json").exists()


def test_nothing_is_written_without_a_build_or_without_a_place_for_it(built):
    (built / "README.md").write_text("no marks")
    with pytest.raises(BookError, match="needs the marks"):
        readme.write(built)
    with pytest.raises(BookError, match=r"findings\.json is not there"):
        readme.check(built)
    findings.file(built).unlink()
    with pytest.raises(BookError, match="no findings yet"):
        readme.write(built)


def test_before_the_first_build_the_block_says_so_and_after_it_counts_the_claims():
    assert "once the whole book has been built" in readme.block(None)
    assert readme.stored(places.ROOT / "nowhere") is None
    words = readme.block({"date": "2026-11-22", "machine": "m", "command": "c", "findings": {}})
    own = [claim for claim in claims.CLAIMS if claim.by == "paper"]
    assert f"Of {len(own)} claims of the paper, {len(own)} could not be tested" in words


# Pairs of models, before anything runs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--base", "qwen2.5-coder-0.5b"], "--base and --finetuned go together"),
        (["--pair", "code", "--base", "a", "--finetuned", "b"], "not both"),
        (["--pair", "cod"], "there is no pair 'cod'. Did you mean 'code'? Known pairs: arithmetic, code"),
        (["--base", "qwen", "--finetuned", "code"], "there is no model 'qwen'"),
        (["--base", "qwen2.5-coder-0.5b", "--finetuned", "cod"], "there is no model 'cod'"),
        (["--base", "smollm2-135m", "--finetuned", "code"], "code is an adapter on qwen2.5-coder-0.5b, not on smollm2"),
        (["--base", "code", "--finetuned", "arithmetic"], "code is an adapter on qwen2.5-coder-0.5b"),
        (["--pair", "code", "--build-only"], "--build-only executes none"),
    ],
)
def test_a_pair_that_cannot_be_is_told_in_one_line_before_anything_is_fetched_or_run(
    given, message, monkeypatch, capsys
):
    def never(*_, **__):
        raise AssertionError("work started")

    monkeypatch.setattr(pair.models, "fetch", never)
    monkeypatch.setattr(book, "execute", never)
    assert cli.main(["book", *given]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_pair_is_fetched_and_handed_to_the_chapters(monkeypatch):
    fetched, given = [], {}
    monkeypatch.setattr(pair.models, "fetch", fetched.append)
    monkeypatch.setattr(book, "execute", lambda *_, **options: given.update(options))
    assert cli.main(["book", "--pair", "code", "--execute-only"]) == 0
    assert given["pair"] == ("qwen2.5-coder-0.5b", "code")
    assert fetched == ["qwen2.5-coder-0.5b", "code"]


def test_two_models_of_other_shapes_are_no_pair_and_an_adapter_folder_names_its_base(tmp_path, monkeypatch):
    monkeypatch.setattr(pair.models, "fetch", lambda name: tmp_path / name)
    for name, layers in (("one", 2), ("two", 2), ("deep", 3)):
        tiny.save(tmp_path / name, layers=layers)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "one"}')
    monkeypatch.chdir(tmp_path)
    assert pair.ready("one", "two") == ("one", "two")
    with pytest.raises(ValueError, match=r"num_hidden_layers \(2 and 3\)"):
        pair.ready("one", "deep")
    assert pair.ready("one", "adapter") == ("one", "adapter")
    assert pair.ready("./one", "adapter") == ("./one", "adapter")
    with pytest.raises(ValueError, match="adapter is an adapter on one, not on two"):
        pair.ready("two", "adapter")


def test_a_control_on_another_base_is_none_and_that_is_said(capsys):
    assert pair.control("shuffled", "qwen2.5-coder-0.5b") == "shuffled" and capsys.readouterr().out == ""
    assert pair.control("shuffled", "llama-7b") is None
    assert "an adapter on qwen2.5-coder-0.5b, and the base is llama-7b" in capsys.readouterr().out
