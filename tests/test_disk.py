"""A full disk and a place that may not be written to: one line, no half file, and the next run goes on."""

import errno
import os
import resource
import shutil
import tempfile
from contextlib import contextmanager

import pytest
from command_line import finish, is_one_line, run_here, snapshot, start, suite, write_tables

from bench import jobs, runner
from bench.disk import naming, trouble
from bench.files import copy

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
SUITE = suite(ipc=3, tables=["accuracy"], figures=["sets"])
GOES_ON = "then run the same command again: what is finished stays"


@contextmanager
def room(size):
    """While it is open, no file grows beyond so many bytes: what a full disk says, but for its number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("finished")
    write_tables(folder / "tables.yaml", tiny=SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        assert finish(start(folder, *RUN), folder).status == 0
    return folder


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A working folder with the finished store, without results."""
    shutil.copytree(finished / "store", tmp_path / "store")
    shutil.copy(finished / "tables.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    """The files in a folder by name, locks left out."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("further", [(), ("--checkpoint-every", 0)], ids=["the set", "a checkpoint"])
def test_a_full_store(place, monkeypatch, capfd, further):
    shutil.rmtree(place / "store")
    with room(100_000):
        done = run_here(monkeypatch, capfd, *RUN, *further)
    is_one_line(done, "metadd-bench: store: File too large; make room there or name another folder", GOES_ON)
    assert files(place / "store") == set()
    assert not (place / "results").exists()
    again = run_here(monkeypatch, capfd, *RUN, *further)
    assert (again.status, again.err) == (0, "")
    assert "2 cells: 0 hits, 2 made, 0 failed" in again.out


def test_no_room_for_a_row(place, monkeypatch, capfd):
    (row,) = place.glob("store/evaluate/*/*/row.json")
    shutil.rmtree(row.parent)
    with room(1_000):
        done = run_here(monkeypatch, capfd, *RUN)
    is_one_line(done, "store/evaluate/", "row.json: File too large; make room", GOES_ON)
    assert files(place / "store/evaluate") == set()
    assert "2 cells: 1 hits, 1 made" in run_here(monkeypatch, capfd, *RUN).out


def test_full_results_hold_no_half_file(place, finished, monkeypatch, capfd):
    with room(100_000):
        done = run_here(monkeypatch, capfd, *RUN)
    is_one_line(done, "results/tiny/sets/", "File too large; make room", GOES_ON)
    assert files(place / "results") == set()
    assert "2 cells: 2 hits, 0 made" in run_here(monkeypatch, capfd, *RUN).out
    assert files(place / "results") == files(finished / "results")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_is_whole_or_not_there(place, monkeypatch, capfd, kind):
    assert run_here(monkeypatch, capfd, *RUN).status == 0
    file = place / f"results/tiny/figures/sets.{kind}"
    file.unlink(missing_ok=True)
    plot = ("plot", "sets", "--tables", "tables.yaml", "--format", kind)
    with room(4_000):
        is_one_line(run_here(monkeypatch, capfd, *plot), f"sets.{kind}: File too large", GOES_ON)
    assert files(file.parent) <= {"sets.png"} - {file.name}
    assert run_here(monkeypatch, capfd, *plot).status == 0


@pytest.mark.parametrize("command", ["export --only method=DM --to there/set", "pack there/all.pack"])
def test_what_cannot_be_written_leaves_nothing(finished, tmp_path, monkeypatch, capfd, command):
    monkeypatch.chdir(finished)
    given = command.replace("there", str(tmp_path / "there")).split()
    with room(100_000):
        done = run_here(monkeypatch, capfd, *given)
    is_one_line(done, f"{given[-1]}: File too large; make room", GOES_ON)
    assert [*(tmp_path / "there").iterdir()] == []


def test_a_pack_that_finds_no_room_to_be_opened(finished, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(finished)
    assert run_here(monkeypatch, capfd, "pack", tmp_path / "all.pack").status == 0
    monkeypatch.chdir(tmp_path)
    with room(100_000):
        is_one_line(run_here(monkeypatch, capfd, "unpack", "all.pack"), "store: File too large", GOES_ON)
    assert [path.name for path in tmp_path.iterdir()] == ["all.pack"]


@pytest.fixture
def read_only(monkeypatch):
    """No lock can be made in a store, nor a folder."""
    make = tempfile.mkdtemp

    def refuse(*given, **about):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "store/of another")

    monkeypatch.setattr("bench.store.FileLock.acquire", refuse)
    monkeypatch.setattr(
        tempfile, "mkdtemp", lambda *a, **b: (refuse if "store" in f"{a}{b}" else make)(*a, **b)
    )


def test_a_store_that_is_only_read_can_be_packed(place, tmp_path, read_only, monkeypatch, capfd):
    done = run_here(monkeypatch, capfd, "pack", "all.pack")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("packed 2 cells, 0 checkpoints")
    (lock,) = place.glob("store/distil/*/*.lock")
    shutil.rmtree(lock.with_suffix(""))
    done = run_here(monkeypatch, capfd, "status", "tiny", "--tables", "tables.yaml")
    assert "distil: 0 finished, 0 failed, 0 running, 1 missing" in done.out


def test_a_store_that_is_only_read_takes_no_cell(place, read_only, monkeypatch, capfd):
    shutil.rmtree(place / "store")
    done = run_here(monkeypatch, capfd, *RUN)
    is_one_line(done, "store/of another: Read-only file system; allow reading and writing there", GOES_ON)


def test_another_error_of_the_disk_keeps_its_traceback(place, monkeypatch, capfd):
    def broken(*given, **about):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "store")

    monkeypatch.setattr("bench.api.open_suite", broken)
    with pytest.raises(OSError, match="Input/output error"):
        run_here(monkeypatch, capfd, *RUN)


def test_errors_say_where(tmp_path):
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
        with pytest.raises(OSError, match="there") as caught, naming(tmp_path / "there"):
            raise OSError(number, os.strerror(number))
        assert trouble(caught.value).startswith(f"{tmp_path / 'there'}: {os.strerror(number)}; ")
    with pytest.raises(OSError, match="elsewhere"), naming(tmp_path):
        raise OSError(errno.ENOSPC, "full", "elsewhere")
    with pytest.raises(RuntimeError, match="a bug"), naming(tmp_path):
        raise RuntimeError("a bug")
    with pytest.raises(ZeroDivisionError), naming(tmp_path):
        raise ZeroDivisionError


def test_a_copy_is_whole_or_the_one_before(tmp_path):
    source, target = tmp_path / "new", tmp_path / "deep" / "copy"
    source.write_bytes(b"new" * 10_000)
    target.parent.mkdir()
    target.write_bytes(b"old")
    with room(1000), pytest.raises(OSError, match="File too large"):
        copy(source, target)
    before = snapshot(target.parent)
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"old"]
    copy(source, target)
    assert snapshot(target.parent).keys() == before.keys()
    assert target.read_bytes() == source.read_bytes()


def test_a_process_beside_leaves_it_to_the_first_one_to_say(monkeypatch, one_thread):
    """And anything else is a bug there as here."""
    monkeypatch.setattr(jobs.signal, "signal", lambda *given: None)
    options = runner.Options(None, jobs.torch.device("cpu"), "")
    for number, told in ((errno.ENOSPC, False), (errno.EIO, True)):

        def run(*given, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(runner, "run", run)
        if told:
            with pytest.raises(OSError, match="Input/output"):
                jobs._work(None, None, options, (), 1)
        else:
            jobs._work(None, None, options, (), 1)
