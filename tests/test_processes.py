"""Executed chapters are those of this interpreter, whole, one process at a time; nothing outlives the book."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from entity_book.build import book, cli, executed, lock, site
from entity_book.build.book import BookError
from entity_book.claims import findings
from entity_circuits import places
from small_book import PARAMETERS, add, notebook, outputs, ran

SLEEPS = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)"


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return " Z " not in f" {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]}"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(done)


def started(house: Path, script: str) -> subprocess.Popen:
    lines = (
        f"import pathlib, sys, time\nfrom entity_book.build import book, lock\nhouse = pathlib.Path({str(house)!r})\n"
    )
    return subprocess.Popen([sys.executable, "-c", lines + script], cwd=house)


def test_a_chapter_runs_in_this_interpreter_and_knows_no_settings_of_the_user(house, tmp_path, monkeypatch):
    kernels, ipython, startup = tmp_path / "jupyter" / "kernels", tmp_path / "ipython", tmp_path / "startup.py"
    (kernels / "python3").mkdir(parents=True)
    foreign = {"argv": ["false"], "display_name": "x", "language": "python", "env": {"FOREIGN": "1"}}
    (kernels / "python3" / "kernel.json").write_text(json.dumps(foreign))
    (ipython / "profile_default" / "startup").mkdir(parents=True)
    settings = "c = get_config()\nc.InteractiveShell.ast_node_interactivity = 'all'\n"
    (ipython / "profile_default" / "ipython_config.py").write_text(settings)
    (ipython / "profile_default" / "startup" / "a.py").write_text("leaked = 1\n")
    startup.write_text("leaked = 2\n")
    for name, value in {"JUPYTER_PATH": kernels.parent, "IPYTHONDIR": ipython, "PYTHONSTARTUP": startup}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "nowhere")
    cell = f"import sys\n1\nprint(sys.executable == {sys.executable!r}, 'leaked' in globals())"
    (house / "chapters" / "01_one.ipynb").write_text(notebook(cell, "1\n2"))
    assert ran(house) == ["01_one"]
    assert outputs(house) == "True False\n"
    shown = [cell["outputs"] for cell in json.loads(executed.path(house, "01_one").read_text())["cells"]]
    assert [len(one) for one in shown] == [1, 1]
    assert not list((house / "build" / "kernels").iterdir())


TOLD = (
    "import pathlib, ipykernel.connect\n"
    "told = ipykernel.connect.get_connection_info(unpack=True)\n"
    "pathlib.Path('told').write_text(told['transport'] + ' ' + told['ip'])"
)


@pytest.mark.skipif(os.name == "nt", reason="no sockets that are files")
def test_chapters_side_by_side_never_want_the_same_port_of_the_network(house):
    add(house, "01_one", PARAMETERS, TOLD)
    assert ran(house) == ["01_one"]
    transport, _, path = (house / "told").read_text().partition(" ")
    assert transport == "ipc"
    assert not Path(path).is_absolute(), "a path of more than a hundred bytes is none of a socket"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_book_that_is_killed_takes_its_kernels_with_it_and_holds_no_lock(house):
    (house / "chapters" / "01_one.ipynb").write_text(notebook(SLEEPS))
    process = started(house, "if __name__ == '__main__': book.execute(root=house)")
    assert until(lambda: (house / "pid").is_file() and (house / "pid").read_text(), 60)
    kernel = int((house / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert until(lambda: not alive(kernel), 10), "the kernel goes on"
    with lock.held(house, "looking"):
        assert executed.record(house, "01_one") == {}


def test_book_site_and_clean_refuse_beside_another_and_name_its_process(house, monkeypatch, capsys):
    monkeypatch.setattr(places, "ROOT", house, raising=False)
    process = started(house, "with lock.held(house, 'executing chapters'): print(flush=True); time.sleep(60)")
    try:
        assert until((house / "build" / ".lock.json").is_file)
        words = rf"process {process.pid} has been executing chapters since \d\d:\d\d UTC; wait until"
        for work in (book.execute, site.build):
            with pytest.raises(BookError, match=words):
                work(root=house)
        executed.path(house, "01_one").parent.mkdir(parents=True)
        assert cli.main(["clean"]) == 1
        assert f"process {process.pid} has been executing chapters" in capsys.readouterr().err
        assert executed.path(house, "").parent.is_dir()
    finally:
        process.kill()
        process.wait()
    with lock.held(house, "one"), lock.held(house, "the same process again"):
        pass
    assert not (house / "build" / ".lock.json").exists()
    assert cli.main(["clean"]) == 0
    assert [path.name for path in (house / "build").iterdir()] == [".lock"]


def test_an_altered_byte_of_an_executed_copy_makes_it_none_at_all(house, pretend):
    pretend["01_one"] = {"accuracy/base": 0.774}
    ran(house)
    path = executed.path(house, "01_one")
    sound = path.read_bytes()
    assert executed.whole(sound.decode())
    path.write_bytes(sound.replace(b"0.774", b"0.123"))
    assert ran(house) == ["01_one"]
    sound, chosen = path.read_bytes(), random.Random(0)
    for place in chosen.sample(range(len(sound)), 60):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        assert executed.record(house, "01_one") == {}, place
        assert book.runs(house) == {}
    for damaged in (b"", b"[]", b'{"metadata": []}', sound[:-200], sound + b" "):
        path.write_bytes(damaged)
        assert executed.record(house, "01_one") == {}
    assert ran(house) == ["01_one"]


def test_an_executed_chapter_tells_its_run_itself(house):
    add(house, "02_two", "'\"seal\": \"' + 64 * '0' + '\"'")
    ran(house)
    assert book.runs(house).keys() == {"01_one", "02_two"}
    assert book.runs(house)["02_two"].seconds > 0
    assert [path.name for path in (house / "build" / "executed").iterdir()] == ["chapters"]
    executed.path(house, "02_two").unlink()
    assert book.runs(house).keys() == {"01_one"}


def test_leftovers_and_what_is_for_people_make_no_chapter_due(house, pretend):
    ran(house)
    (house / "data" / ".hidden").mkdir()
    for name in ("words.csv.host-77-ab12.part", ".DS_Store", "README.md", ".hidden/x.json", "words.csv~", "Thumbs.db"):
        (house / "data" / name).write_text("left")
    (house / "lib" / ".#one.py").symlink_to("nobody@nowhere")
    assert ran(house) == []
    (house / "data" / "more.csv").write_text("pear\n")
    assert ran(house) == ["01_one"]


def test_findings_that_no_chapter_has_read_are_named_and_made_anew(house, pretend):
    pretend["01_one"] = {"accuracy/base": 0.774}
    add(house, "07_sum", ("1", ["reads-findings"]))
    ran(house)
    path = findings.file(house)
    sound = path.read_text()
    assert book.found(house).reported["accuracy/base"].value == 0.774
    for damaged in (sound.replace("0.774", "0.123"), "{", ""):
        path.write_text(damaged)
        with pytest.raises(
            BookError, match=r"findings.json is not what the chapters have read; `entity-circuits book`"
        ):
            book.found(house)
    assert ran(house) == []
    assert path.read_text() == sound


def test_a_site_is_built_anew_where_its_record_or_a_page_was_damaged(house, monkeypatch):
    def build(command, cwd, **_):
        (cwd / "_build" / "html").mkdir(parents=True)
        (cwd / "_build" / "html" / "index.html").write_text("page")
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(site.subprocess, "run", build)
    assert site.build(root=house)
    assert not site.build(root=house)
    for path, content in (("build/site.json", "{"), ("build/site.json", "[]"), ("_build/html/index.html", "pagf")):
        (house / path).write_text(content)
        assert site.build(root=house), path
    (house / "build" / "executed" / "chapters").mkdir(parents=True)
    (house / "build" / "executed" / "chapters" / "01_one.partial.ipynb").write_text("left")
    assert not site.build(root=house)


def test_a_notebook_that_changes_while_it_is_executed_is_not_kept(house):
    (house / "chapters" / "01_one.ipynb").write_text(
        notebook(PARAMETERS, "path = 'chapters/01_one.ipynb'\ntext = open(path).read()", "open(path, 'w').write('{}')")
    )
    with pytest.raises(BookError, match="01_one: its notebook was changed while it was executed; run it again"):
        book.execute(root=house)
    assert not executed.path(house, "01_one").exists()
