import multiprocessing
import os

import data_makers as make
import numpy as np
import pytest

from bench import data
from bench.data import images
from bench.errors import UserError


@pytest.fixture
def pets(tmp_path):
    return f"imagefolder:{make.image_folder(tmp_path / 'pets', ('ant', 'bee', 'cat', 'dog'), 8)}"


def decodings(monkeypatch):
    """A list that grows with every image decoded from now on."""
    seen = []
    real = images.decode
    monkeypatch.setattr(images, "decode", lambda *args: seen.append(args[1]) or real(*args))
    return seen


def entry(cache):
    return next(cache.glob("*/meta.json")).parent


def test_images_are_class_major_read_only_and_mapped(pets, tmp_path):
    split = data.load(pets, cache_dir=tmp_path / "c").train
    assert isinstance(split.images, np.memmap)
    assert split.offsets == (0, 12, 24, 36, 48)
    assert split.labels.dtype == np.int64
    assert split.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12 + [3] * 12
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0


def test_a_subset_is_the_first_classes_of_the_same_cache(pets, tmp_path, monkeypatch):
    whole = data.load(pets, cache_dir=tmp_path / "c")
    seen = decodings(monkeypatch)
    part = data.load(f"{pets}[2]", cache_dir=tmp_path / "c")
    assert not seen
    assert (part.spec, part.classes, part.content) == (f"{pets}[2]", ("ant", "bee"), whole.content)
    assert np.array_equal(part.train.images, whole.train.images[:24])
    assert (part.train.offsets, part.test.offsets) == ((0, 12, 24), (0, 3, 6))
    assert data.identify(f"{pets}[4]", cache_dir=tmp_path / "c").spec == pets
    with pytest.raises(UserError, match="the dataset has only 4 classes"):
        data.identify(f"{pets}[5]", cache_dir=tmp_path / "c")


def test_first_takes_the_first_of_every_class(pets, tmp_path):
    test = data.load(pets, cache_dir=tmp_path / "c").test
    two = test.first(2)
    assert two.offsets == (0, 2, 4, 6, 8)
    assert np.array_equal(two.images, test.images[[0, 1, 3, 4, 6, 7, 9, 10]])
    assert two.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(UserError, match="4 images per class asked for, but class 0 has only 3"):
        test.first(4)
    with pytest.raises(UserError, match="at least 1"):
        test.first(0)


def test_a_hit_decodes_nothing_and_a_changed_file_decodes_again(pets, tmp_path, monkeypatch):
    seen = decodings(monkeypatch)
    first = data.identify(pets, cache_dir=tmp_path / "c")
    assert len(seen) == 60
    assert (first.train, first.test) == ((12,) * 4, (3,) * 4)
    for array in entry(tmp_path / "c").glob("*.npy"):
        array.rename(array.with_suffix(".away"))
    assert data.identify(pets, cache_dir=tmp_path / "c") == first  # meta.json alone
    assert len(seen) == 60
    touched = tmp_path / "pets/test/dog/0.png"
    os.utime(touched, ns=(1, 1))
    assert data.identify(pets, cache_dir=tmp_path / "c") == first  # same pixels, same content
    assert len(seen) == 120


def test_the_default_cache_is_the_one_of_the_environment(pets, tmp_path, monkeypatch):
    data.identify(pets)
    assert entry(tmp_path / "cache").is_dir()
    monkeypatch.delenv("METADD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data.identify(pets)
    assert list((tmp_path / "home").rglob("meta.json"))


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("train.npy", lambda b: b[:-1], r"train\.npy has the wrong size"),
        ("train.npy", lambda b: b[:-1] + bytes([b[-1] ^ 1]), r"train\.npy has another checksum"),
        ("test.npy", lambda b: b"", r"test\.npy: "),
        ("test.npy", lambda b: None, r"test\.npy: .*No such file"),
        ("meta.json", lambda b: b[:-9], r"meta\.json: JSONDecodeError"),
        ("meta.json", lambda b: b"[]", r"meta\.json: TypeError"),
        ("meta.json", lambda b: b"{}", r"meta\.json: KeyError"),
        ("meta.json", lambda b: b.replace(b'"bee"', b'"owl"'), r"meta\.json does not agree with itself"),
        ("meta.json", lambda b: None, r"meta\.json: FileNotFoundError"),
    ],
)
def test_a_damaged_cache_names_its_folder(pets, tmp_path, file, harm, message):
    data.load(pets, cache_dir=tmp_path / "c")
    folder = entry(tmp_path / "c")
    harmed = harm((folder / file).read_bytes())
    (folder / file).unlink()
    if harmed is not None:
        (folder / file).write_bytes(harmed)
    with pytest.raises(UserError, match=message) as caught:
        data.load(pets, cache_dir=tmp_path / "c")
    assert str(caught.value).startswith(f"the cache folder {folder} is damaged (")
    assert str(caught.value).endswith("): delete it and run again")
    assert "\n" not in str(caught.value)


def test_files_that_change_while_they_are_read_are_not_kept(pets, tmp_path, monkeypatch):
    real = images.decode

    def decode(data, where, size):
        os.utime(tmp_path / "pets/train/ant/0.png", ns=(7, 7))
        return real(data, where, size)

    monkeypatch.setattr(images, "decode", decode)
    with pytest.raises(UserError, match="changed while they were read"):
        data.load(pets, cache_dir=tmp_path / "c")
    assert not [path for path in (tmp_path / "c").iterdir() if path.is_dir()]


def test_what_a_killed_run_left_is_cleared_away(pets, tmp_path):
    data.load(pets, cache_dir=tmp_path / "c")
    folder = entry(tmp_path / "c")
    folder.rename(folder.with_name(f".{folder.name}-killed"))
    data.load(pets, cache_dir=tmp_path / "c")
    assert [path for path in (tmp_path / "c").iterdir() if path.is_dir()] == [folder]


def test_a_cache_that_cannot_be_written_is_one_line(pets, tmp_path):
    (tmp_path / "c").write_text("a file")
    with pytest.raises(UserError, match=r"^.*/c: File exists$"):
        data.load(pets, cache_dir=tmp_path / "c")


def prepare(spec, cache, log, start):
    """Load in another process and note whether this process decoded."""
    real = images.decode
    count = 0

    def decode(*args):
        nonlocal count
        count += 1
        return real(*args)

    images.decode = decode
    start.wait()
    content = data.load(spec, cache_dir=cache).content
    log.put((count, content))


def test_two_processes_at_once_decode_once(pets, tmp_path):
    context = multiprocessing.get_context("spawn")
    log, start = context.Queue(), context.Barrier(2)
    workers = [context.Process(target=prepare, args=(pets, tmp_path / "c", log, start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [log.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(count for count, _ in results) == [0, 60]
    assert len({content for _, content in results}) == 1
