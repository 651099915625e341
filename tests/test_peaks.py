"""Each chapter states the memory it takes at most: it is held to that, and not started where there is less left."""

import pytest
from entity_book.build import book, machine, peaks, sphinx_ext
from entity_circuits import places
from small_book import PARAMETERS, executed, notebook, ran

TABLE = "[tool.entity-book.peak-gib]\n"


def test_every_chapter_of_the_book_states_a_peak_and_nothing_else_does():
    assert peaks.table(places.ROOT).keys() == set(book.chapters(places.ROOT))


def test_a_chapter_that_takes_more_than_it_states_fails_with_both_figures_and_only_with_its_own_parameters(
    house, capfd
):
    (house / "pyproject.toml").write_text(TABLE + "01_one = 0.03125\n")
    words = (
        r"01_one: its kernel took 0\.\d\d GiB of memory, and states 0\.03125 GiB at most \(peak-gib in pyproject.toml"
    )
    with pytest.raises(book.BookError, match=words):
        book.execute(root=house)
    assert not executed(house).exists()
    with pytest.raises(book.BookError, match=words):
        book.execute(parameters={"seed": 0}, root=house)  # given, and its own
    assert ran(house, parameters={"seed": 7}) == ["01_one"]
    assert "states 0.03125 GiB at most (peak-gib in pyproject.toml); with these parameters" in capfd.readouterr().err


def test_a_stated_peak_is_no_reason_to_execute_a_chapter_again(house, pretend):
    ran(house)
    (house / "pyproject.toml").write_text(TABLE + "01_one = 3\n")
    assert ran(house) == []
    assert (peaks.stated(house, "01_one"), peaks.stated(house, "02_two")) == (3, peaks.USUAL_GIB)


@pytest.mark.parametrize("gib", ["0", "-1", "true", '"6 GiB"'])
def test_a_peak_that_is_no_number_of_gib_is_refused(house, gib):
    (house / "pyproject.toml").write_text(TABLE + f"01_one = {gib}\n")
    with pytest.raises(ValueError, match="the peak of 01_one has to be a number of GiB"):
        peaks.stated(house, "01_one")


GIB = {"a": 6, "b": 12, "c": 4}


@pytest.mark.parametrize(
    ("waiting", "running", "free", "next_one"),
    [
        ("abc", "", 100, "a"),
        ("bc", "a", 18, "b"),
        ("bc", "a", 17.9, "c"),
        ("bc", "a", 9.9, None),
        ("b", "", 1, "b"),  # alone, whatever there is
        ("c", "b", 15, None),
        ("", "a", 100, None),
    ],
)
def test_a_chapter_is_started_only_if_there_is_memory_for_it_beside_those_that_run(waiting, running, free, next_one):
    assert peaks.startable(list(waiting), list(running), GIB, free) == next_one


@pytest.mark.parametrize(("free", "together"), [(8, 1), (12.5, 2)])
def test_chapters_run_side_by_side_as_far_as_memory_goes(house, monkeypatch, free, together):
    """Three chapters of 6 GiB, three at a time allowed, and processes that only say that they ran."""
    from concurrent.futures import Future

    log = []

    class Pool:
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def submit(self, _, job, __):
            log.append(job.chapter)
            assert job.gflops == 7
            future = Future()
            future.made = book.Run(job.chapter, "", 0, 0)
            return future

    at_once = []

    def wait(running, **_):
        at_once.append(len(running))
        first = next(iter(running))
        first.set_result(first.made)
        return {first}, set()

    monkeypatch.setattr(book, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(book, "wait", wait)
    monkeypatch.setattr(machine, "free_gib", lambda: free)
    monkeypatch.setattr(machine, "gflops", lambda _: 7)
    jobs = [book.Job(name, "", {}, {}, False, peak_gib=6) for name in ("01", "02", "03")]
    assert [run.chapter for run in book._execute(jobs, 3)] == log == ["01", "02", "03"]
    assert max(at_once) == together


def test_free_memory_is_that_of_the_system_or_of_its_container_if_that_is_less(tmp_path):
    for name in ("proc", "sys/fs/cgroup"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * 2**20} kB\n")
    assert machine.free_gib(tmp_path) == 8
    limits = tmp_path / "sys" / "fs" / "cgroup"
    (limits / "memory.max").write_text("max\n")
    (limits / "memory.current").write_text(f"{3 * 2**30}\n")
    assert machine.free_gib(tmp_path) == 8
    (limits / "memory.max").write_text(f"{6 * 2**30}\n")
    assert machine.free_gib(tmp_path) == 3
    (limits / "memory.stat").write_text(f"anon 5\ninactive_file {2**30}\n")
    assert machine.free_gib(tmp_path) == 4


def test_the_speed_of_a_machine_is_measured_once_and_leaves_the_threads_as_they_were():
    import torch

    before = torch.get_num_threads()
    assert machine.gflops(before + 1, 64) == machine.gflops(before + 1, 64) > 0
    assert torch.get_num_threads() == before


def test_the_status_page_tells_work_that_can_be_compared_between_machines_and_sums_it_up():
    here = {"processor": "p", "cores": 2, "memory": 2**30, "system": "s", "python": "3"}
    runs = [
        book.Run("01_one", "2026-01-01T00:00:00", 60.0, 2**30, machine={**here, "gflops": 200.0}),
        book.Run("02_two", "2026-01-01T00:00:00", 100.0, 3 * 2**30, machine={**here, "gflops": 100.0}),
    ]
    rows = [line.split("|") for line in sphinx_ext._table(runs) if line.startswith("|")]
    assert [cell.strip() for cell in rows[2][3:7]] == ["60 s", "1.0 GiB", "200", "12.0"]
    assert [cell.strip() for cell in rows[4][1:7]] == ["**all**", "", "2.7 min", "at most 3.0 GiB", "", "22.0"]
    assert len({len(row) for row in rows}) == 1
    old = book.Run("03_three", "2026-01-01T00:00:00", 1.0, 1, machine=here)
    rows = [line.split("|") for line in sphinx_ext._table([*runs, old]) if line.startswith("|")]
    assert [cell.strip() for cell in rows[4][5:7]] == ["unknown", "unknown"]
    assert rows[5][6].strip() == "22.0 (1 unknown)"


def test_a_notebook_with_given_parameters_that_are_its_own_counts_as_usual(house):
    (house / "chapters" / "01_one.ipynb").write_text(notebook(PARAMETERS, "1"))
    from entity_book.build import plan

    assert plan.make(house, ["01_one"], {"seed": 0}, None).usual("01_one")
    assert not plan.make(house, ["01_one"], {"seed": 1}, None).usual("01_one")
