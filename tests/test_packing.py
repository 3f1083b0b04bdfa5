"""What leaves one machine in a pack arrives on another as it was, or not at all."""

import io
import json
import os
import random
import shutil
import tarfile
import zipfile

import pytest
from command_line import TINY, finish, is_one_line, run_here, snapshot, start, write_tables
from filelock import FileLock

from bench.carrying.pack import SMALLEST_PIECE, pack, pieces
from bench.carrying.unpack import unpack
from bench.errors import UserError

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")


@pytest.fixture(scope="module")
def there(tmp_path_factory, cache):
    """The folder of a machine where the suite ``tiny`` is finished, and another cell was begun."""
    folder = tmp_path_factory.mktemp("there")
    write_tables(folder / "tables.yaml", tiny={**TINY, "ipc": 3, "tables": ["accuracy"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        assert finish(start(folder, *RUN), folder).status == 0
    partial = folder / "store/distil/ab" / f"{'ab' * 32}.partial"
    partial.mkdir(parents=True)
    with zipfile.ZipFile(partial / "checkpoint.pt", "w") as file:  # as torch.save makes it
        file.writestr("half", b"of a set")
    return folder


@pytest.fixture(scope="module")
def packed(there, tmp_path_factory):
    file = tmp_path_factory.mktemp("packed") / "all.pack"
    pack(file, there / "store", there / "results")
    return file


def arrived(folder):
    """The files that travel, by their place, with their bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        made_again = place.parts[2:3] in (("tables",), ("figures",))
        if path.is_file() and place.parts[0] in ("store", "results") and not made_again:
            found[str(place)] = path.read_bytes()
    return {place: content for place, content in found.items() if not place.endswith(".lock")}


def opened(file, folder):
    return unpack(file, folder / "store", folder / "results")


def test_all_arrives_and_counts_as_finished(there, tmp_path, monkeypatch, capfd):
    for name, folder in (("there", there), ("here", tmp_path)):
        monkeypatch.chdir(folder)
        verb = "pack" if name == "there" else "unpack"
        done = run_here(monkeypatch, capfd, verb, tmp_path / "all.pack")
        assert (done.status, done.err) == (0, "")
        words = {
            "there": "packed 2 cells, 1 checkpoints, rows of tiny: ",
            "here": "new: 2 cells, 1 checkpoints, 2 published rows, 2 files of sets; known already: 0\n",
        }
        assert done.out.startswith(words[name])
    assert arrived(tmp_path) == arrived(there)
    assert len(arrived(there)) == 1 + 3 + 1 + 1 + 2  # checkpoint; two cells; rows; the set
    shutil.copy(there / "tables.yaml", tmp_path)
    assert "2 cells: 2 hits, 0 made" in run_here(monkeypatch, capfd, *RUN).out
    again = opened(tmp_path / "all.pack", tmp_path)
    assert (again.cells, again.rows, again.sets, again.checkpoints, again.differ) == (0, 0, 0, 0, [])
    assert again.known == 4


def test_pieces_are_no_larger_than_asked_for_and_make_up_the_whole(there, tmp_path, packed):
    file = tmp_path / "a.pack"
    found = pack(file, there / "store", there / "results", max_size=SMALLEST_PIECE)
    sizes = [path.stat().st_size for path in found.files]
    assert len(sizes) > 2
    assert sizes[:-1] == [SMALLEST_PIECE] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= SMALLEST_PIECE
    assert b"".join(path.read_bytes() for path in found.files) == packed.read_bytes()
    opened(file, tmp_path)
    assert arrived(tmp_path) == arrived(there)
    found.files[1].unlink()
    with pytest.raises(UserError, match=r"the piece a\.pack\.002 is missing"):
        opened(file, tmp_path / "other")
    shutil.copy(packed, file)
    found.files[-1].rename(tmp_path / "kept")  # the last one cannot be told from its name
    for path in pieces(file):
        path.unlink()
    pack(tmp_path / "b.pack", there / "store", there / "results", max_size=SMALLEST_PIECE)
    pieces(tmp_path / "b.pack")[-1].unlink()
    with pytest.raises(UserError, match="its end is missing"):
        opened(tmp_path / "b.pack", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_it_is_a_plain_tar(packed):
    with tarfile.open(packed) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))
    assert (names[0], names[-1]) == ("pack.json", "manifest.json")
    assert sorted(manifest["members"]) == sorted(names[1:-1])


def test_a_pack_that_is_there_is_not_written_over(there, tmp_path, packed, monkeypatch, capfd):
    monkeypatch.chdir(there)
    before = snapshot(packed.parent)
    is_one_line(run_here(monkeypatch, capfd, "pack", packed), "is there already")
    pack(tmp_path / "b", there / "store", there / "results", max_size=SMALLEST_PIECE)
    is_one_line(run_here(monkeypatch, capfd, "pack", tmp_path / "b"), "b.001: is there already")
    is_one_line(run_here(monkeypatch, capfd, "pack", "c", "--max-size", "1KiB"), "--max-size", "64KiB")
    is_one_line(run_here(monkeypatch, capfd, "pack", "c", "--max-size", "16"), "--max-size 16:", "24GiB")
    is_one_line(
        run_here(monkeypatch, capfd, "pack", "c", "--store", "none", "--results", "none"), "nothing to"
    )
    is_one_line(run_here(monkeypatch, capfd, "unpack", "none.pack"), "none.pack: no such pack")
    assert snapshot(packed.parent) == before
    assert not [path for path in there.iterdir() if "c" in path.name[:2]]


def test_a_changed_byte_anywhere_is_found_and_nothing_is_written(packed, tmp_path):
    whole = packed.read_bytes()
    with tarfile.open(packed) as tar:
        *_, last = tar.getmembers()
    rng, end = random.Random(0), last.offset_data + last.size
    spots = [0, 300, 513, last.offset + 5, last.offset_data + 3, end - 3]
    for spot in [*spots, *(rng.randrange(end) for _ in range(60))]:
        spoilt = bytearray(whole)
        spoilt[spot] ^= 1 << rng.randrange(8)
        (tmp_path / "spoilt").write_bytes(spoilt)
        with pytest.raises(UserError, match=r"damaged|not a pack|refused"):
            opened(tmp_path / "spoilt", tmp_path)
    for size in (0, 100, 512, 5000, last.offset, end - 1):
        (tmp_path / "spoilt").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"damaged|not a pack"):
            opened(tmp_path / "spoilt", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spoilt"]


def made(packed, file, change):
    """A pack with right checksums whose members ``change`` may add to or replace, as (about, bytes)."""
    with tarfile.open(packed) as tar:
        members = [(about, tar.extractfile(about).read()) for about in tar.getmembers()[:-1]]
    change(members)
    digest = __import__("hashlib").sha256
    listed = {about.name: {"sha256": digest(c).hexdigest(), "bytes": len(c)} for about, c in members[1:]}
    with tarfile.open(file, "w") as tar:
        for about, content in members:
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
        tar.fileobj.flush()
        before = digest(file.read_bytes()[: tar.offset]).hexdigest()
        content = json.dumps({"members": listed, "sha256": before, "running": []}).encode()
        about = tarfile.TarInfo("manifest.json")
        about.size = len(content)
        tar.addfile(about, io.BytesIO(content))
    return file


def added(name, content=b"x", **about):
    def change(members):
        member = tarfile.TarInfo(name)
        for field, value in about.items():
            setattr(member, field, value)
        members.append((member, content))

    return change


def head(content):
    return lambda members: members.__setitem__(0, (members[0][0], content))


def edited(ending, **fields):
    """The first member of this name with other fields in its JSON."""

    def change(members):
        i = next(i for i, (about, _) in enumerate(members) if about.name.endswith(ending))
        row = json.loads(members[i][1].splitlines()[0] if ending.endswith("l") else members[i][1])
        members[i] = (members[i][0], json.dumps({**row, **fields}).encode())

    return change


KEY = "cd" * 32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (added("../escaped"), r"refused: it holds '\.\./escaped'"),
        (added("store/../../escaped"), "refused"),
        (added("/tmp/escaped"), "refused"),
        (added(f"store/distil/cd/{KEY}/../../escaped"), "refused"),
        (added(f"store/distil/cd/{KEY}/.hidden"), "refused"),
        (added("results/tiny/tables/accuracy.md"), "refused"),
        (
            added(f"store/distil/cd/{KEY}/row.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            "refused",
        ),
        (
            added(f"store/distil/cd/{KEY}/row.json", b"", type=tarfile.LNKTYPE, linkname="pack.json"),
            "refused",
        ),
        (added(f"store/distil/cd/{KEY}/row.json", b"", type=tarfile.FIFOTYPE), "refused"),
        (added(f"store/distil/cd/{KEY}", b"", type=tarfile.DIRTYPE), "refused"),
        (added(f"store/distil/cd/{KEY}/row.json", b"{}"), "refused: its cell cdcd.* not what its key says"),
        (added(f"store/distil/cd/{KEY}/images.safetensors"), "refused: its cell cdcd"),
        (added(f"store/distil/ab/{KEY}/row.json"), "refused: its cell cdcd"),
        (edited("row.json", cell={"kind": "distil"}), "refused: its cell"),
        (edited("row.json", artifacts={}), "refused: its cell"),
        (edited("rows.jsonl", key=KEY), r"refused: a row of its tiny/rows\.jsonl"),
        (
            head(b'{"format": "metadd-bench pack", "version": 2}'),
            "a pack of version 2, .* reads up to 1; update",
        ),
        (head(b'{"format": "other", "version": 1}'), "not a pack"),
        (head(b"[]"), "not a pack"),
    ],
)
def test_what_no_pack_holds_is_refused(packed, tmp_path, change, words):
    file = made(packed, tmp_path / "crafted", change)
    with pytest.raises(UserError, match=words) as refused:
        opened(file, tmp_path / "here")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["crafted"]
    (tmp_path / "here/store").mkdir(parents=True)
    with pytest.raises(UserError, match=words):
        opened(file, tmp_path / "here")
    assert list((tmp_path / "here").rglob("*")) == [tmp_path / "here/store"]


def test_the_crafted_packs_are_refused_for_their_changes_alone(packed, tmp_path, there):
    opened(made(packed, tmp_path / "crafted", lambda members: None), tmp_path)
    assert arrived(tmp_path) == arrived(there)


def test_a_cell_that_is_here_with_other_results_is_kept_and_named(packed, tmp_path, monkeypatch, capfd):
    opened(packed, tmp_path)
    (path,) = tmp_path.glob("store/evaluate/*/*/row.json")
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "result": {**row["result"], "accuracy": 1.0}}))
    (plate,) = tmp_path.glob("results/tiny/sets/*/plate.png")
    plate.write_bytes(b"other")
    before = snapshot(tmp_path / "store", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    done = run_here(monkeypatch, capfd, "unpack", packed)
    assert done.status == 0
    assert done.err.splitlines() == [
        f"differs from what is here, which was kept: {row['key']}",
        f"differs from what is here, which was kept: {plate.relative_to(tmp_path)}",
    ]
    assert snapshot(tmp_path / "store", tmp_path / "results") == before


def test_a_published_row_with_other_results_is_no_hit_for_the_store_either(packed, tmp_path):
    opened(packed, tmp_path)
    shutil.rmtree(tmp_path / "store")
    rows = tmp_path / "results/tiny/rows.jsonl"
    first, second = (json.loads(line) for line in rows.read_text().splitlines())
    second["result"]["accuracy"] = 1.0
    rows.write_text("".join(json.dumps(row) + "\n" for row in (first, second)))
    before = rows.read_bytes()
    found = opened(packed, tmp_path)
    assert (found.differ, found.cells, found.rows) == ([second["key"]], 1, 0)
    assert rows.read_bytes() == before
    assert [path.name for path in tmp_path.glob("store/*/*/*/row.json")] == ["row.json"]


@pytest.fixture
def here(there, tmp_path, monkeypatch):
    """A copy of that machine's folder, to be damaged."""
    shutil.copytree(there, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


#: What happened to a cell's row and its set.
DAMAGE = {
    "half a row": lambda row, images: row.write_bytes(row.read_bytes()[:40]),
    "a row of another cell": lambda row, images: row.write_text(
        row.read_text().replace('"seed": 0', '"seed": 9')
    ),
    "a row that is a list": lambda row, images: row.write_text("[]"),
    "another byte": lambda row, images: images.write_bytes(images.read_bytes()[:-1] + b"\xff"),
    "a file too many": lambda row, images: row.with_name("notes.txt").write_text("mine"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cell_stays_here_and_is_named(here, tmp_path, monkeypatch, capfd, damage):
    (row,) = here.glob("store/distil/*/*/row.json")
    damage(row, row.with_name("images.safetensors"))
    done = run_here(monkeypatch, capfd, "pack", tmp_path / "a.pack")
    assert (done.status, done.err) == (0, f"left out, damaged: {row.parent.relative_to(here)}\n")
    assert done.out.startswith("packed 1 cells, 1 checkpoints, rows of tiny: ")
    found = opened(tmp_path / "a.pack", tmp_path)
    assert (found.cells, found.rows, found.checkpoints) == (1, 2, 1)


def test_half_a_checkpoint_stays_here_and_is_named(here, tmp_path, monkeypatch, capfd):
    (path,) = here.glob("store/*/*/*.partial/checkpoint.pt")
    os.truncate(path, path.stat().st_size - 1)
    done = run_here(monkeypatch, capfd, "pack", tmp_path / "a.pack")
    assert (done.status, done.err) == (0, f"left out, damaged: {path.relative_to(here)}\n")
    assert done.out.startswith("packed 2 cells, 0 checkpoints, rows of tiny: ")
    assert opened(tmp_path / "a.pack", tmp_path).checkpoints == 0


@pytest.mark.parametrize("name", ["rows.jsonl", "measures.jsonl"])
def test_damaged_published_rows_are_no_pack(here, tmp_path, monkeypatch, capfd, name):
    rows = (here / "results/tiny/rows.jsonl").read_bytes()
    (here / "results/tiny" / name).write_bytes(rows + b"{}\n")
    is_one_line(run_here(monkeypatch, capfd, "pack", tmp_path / "a.pack"), f"tiny/{name}, line 3: not a row")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_running_cells_stay_where_they_run(there, packed, tmp_path, monkeypatch, capfd):
    (row,) = there.glob("store/evaluate/*/*/row.json")
    key = row.parent.name
    monkeypatch.chdir(there)
    with FileLock(row.parent.with_name(f"{key}.lock")):
        done = run_here(monkeypatch, capfd, "pack", tmp_path / "without")
    assert done.out.startswith("packed 1 cells, 1 checkpoints")
    assert done.err == f"left out, running: {key}\n"
    found = opened(tmp_path / "without", tmp_path)
    assert (found.cells, found.missing) == (1, [key])
    monkeypatch.chdir(tmp_path)
    lock = tmp_path / f"store/evaluate/{key[:2]}/{key}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        done = run_here(monkeypatch, capfd, "unpack", packed)
    assert done.err == f"left alone, running here: {key}\n"
    assert not (lock.parent / key).exists()


@pytest.mark.parametrize("seconds", [-100, +100])
def test_of_two_checkpoints_the_newer_one_is_kept(there, packed, tmp_path, seconds):
    (theirs,) = there.glob("store/*/*/*.partial/checkpoint.pt")
    ours = tmp_path / theirs.relative_to(there)
    ours.parent.mkdir(parents=True)
    ours.write_bytes(b"ours")
    when = theirs.stat().st_mtime + seconds
    os.utime(ours, (when, when))
    opened(packed, tmp_path)
    assert ours.read_bytes() == (b"ours" if seconds > 0 else theirs.read_bytes())


def test_what_is_finished_here_takes_no_checkpoint_and_what_failed_here_is_finished(there, packed, tmp_path):
    (theirs,) = there.glob("store/distil/*/*/row.json")
    folder = tmp_path / theirs.parent.relative_to(there)
    folder.parent.mkdir(parents=True)
    folder.with_name(f"{folder.name}.failed.json").write_text("{}")
    folder.with_name(f"{folder.name}.partial").mkdir()
    opened(packed, tmp_path)
    assert (folder / "row.json").exists()
    assert not list(folder.parent.glob("*.failed.json")) + list(folder.parent.glob(f"{folder.name}.partial"))


def test_a_row_may_travel_without_its_artifacts_and_they_may_follow(there, packed, tmp_path):
    found = pack(tmp_path / "rows", there / "store", there / "results", largest=20_000)
    (name,) = found.left_out
    assert name.endswith("/images.safetensors")
    opened(tmp_path / "rows", tmp_path)
    assert not list(tmp_path.glob("store/*/*/*/*.safetensors"))
    second = opened(packed, tmp_path)
    assert (second.cells, second.differ) == (0, [])
    assert arrived(tmp_path) == arrived(there)


def test_only_what_belongs_to_a_suite(there, tmp_path, monkeypatch, capfd):
    other = there / "results/other"
    other.mkdir()
    shutil.copy(there / "results/tiny/rows.jsonl", other)
    monkeypatch.chdir(there)
    try:
        done = run_here(monkeypatch, capfd, "pack", tmp_path / "tiny", "tiny", "--tables", "tables.yaml")
    finally:
        shutil.rmtree(other)
    assert done.out.startswith("packed 2 cells, 0 checkpoints, rows of tiny:")
    is_one_line(
        run_here(monkeypatch, capfd, "pack", tmp_path / "x", "tin", "--tables", "tables.yaml"), "no suite"
    )
