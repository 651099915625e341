"""The command line refuses what nobody can have meant, in words, before any work; and means the caller's folder."""

import subprocess
import sys
from pathlib import Path

import pytest
from entity_book.build import book, cli, commands, site
from malformed import BOOK, OTHERS


@pytest.mark.parametrize("command", [*BOOK, *OTHERS][::3], ids=" ".join)
def test_a_malformed_command_is_refused_in_words_before_any_work(command, refused):
    refused(command)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_named_before_any_work(device, refused, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert f"the device '{device}' is not there" in refused(["finetune", "code", "--device", device])


@pytest.mark.parametrize("module", ["entity_circuits", "entity_circuits.cli", "entity_book.cli", "entity_book.build"])
def test_what_is_no_program_does_not_end_as_if_it_had_done_something(module):
    done = subprocess.run([sys.executable, "-m", module, "anything"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_an_error_of_the_program_is_told_in_one_sentence_that_says_how_to_see_more(monkeypatch, capsys):
    def broken(_):
        raise AssertionError("wrong")

    monkeypatch.setattr(commands, "models", broken)
    assert cli.main(["models"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "AssertionError: wrong" in told and "--debug" in told
    with pytest.raises(AssertionError):
        cli.main(["--debug", "models"])


def test_a_model_that_is_a_folder_here_is_the_same_folder_for_the_chapters(tmp_path, monkeypatch):
    from entity_circuits.models import pair

    given = []
    monkeypatch.setattr(pair, "ready", lambda *names: names)
    monkeypatch.setattr(
        book, "execute", lambda only, parameters, **options: given.append((parameters, options["pair"]))
    )
    monkeypatch.setattr(site, "build", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    for name in ("base", "tuned", "code"):
        Path(name).mkdir()
        Path(name, "adapter_config.json").touch()  # a model, as far as is looked at before it is fetched
    assert cli.main(["book", "--base", "./base", "--finetuned", "tuned"]) == 0
    assert cli.main(["book", "-p", "model", "base"]) == 0
    assert cli.main(["book", "--base", "qwen2.5-coder-0.5b", "--finetuned", "code"]) == 0  # a name of the registry
    here = str(tmp_path / "base")
    assert given[0] == ({}, (here, str(tmp_path / "tuned")))
    assert given[1] == ({"model": here}, None)
    assert given[2] == ({}, ("qwen2.5-coder-0.5b", "code"))
