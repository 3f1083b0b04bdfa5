import subprocess
import sys
from pathlib import Path

import pytest

from bench import data
from bench.errors import UserError


@pytest.mark.parametrize(
    ("text", "name", "path", "classes", "canonical"),
    [
        ("digits", "digits", None, None, "digits"),
        ("tiny-imagenet[20]", "tiny-imagenet", None, 20, "tiny-imagenet[20]"),
        ("cifar10[05]", "cifar10", None, 5, "cifar10[5]"),
        ("cifar100[100]", "cifar100", None, None, "cifar100"),
        ("imagefolder:my/pets/", "imagefolder", Path("my/pets"), None, "imagefolder:my/pets"),
        ("imagefolder:a:b[3]", "imagefolder", Path("a:b"), 3, "imagefolder:a:b[3]"),
        ("imagefolder:run[5]/", "imagefolder", Path("run[5]"), None, "imagefolder:run[5]/"),
        ("imagefolder:run[5][2]", "imagefolder", Path("run[5]"), 2, "imagefolder:run[5][2]"),
    ],
)
def test_a_spec_is_read_and_written_back(text, name, path, classes, canonical):
    spec = data.parse(text)
    assert (spec.name, spec.path, spec.classes, spec.tuning) == (name, path, classes, False)
    assert str(spec) == canonical
    assert data.parse(canonical) == spec


@pytest.mark.parametrize(
    ("text", "name", "path", "classes", "canonical"),
    [
        ("digits[tuning]", "digits", None, None, "digits[tuning]"),
        ("tiny-imagenet[20,tuning]", "tiny-imagenet", None, 20, "tiny-imagenet[20,tuning]"),
        ("cifar10[05,tuning]", "cifar10", None, 5, "cifar10[5,tuning]"),
        ("cifar100[100,tuning]", "cifar100", None, None, "cifar100[tuning]"),
        ("imagefolder:my/pets/[tuning]", "imagefolder", Path("my/pets"), None, "imagefolder:my/pets[tuning]"),
        ("imagefolder:x[5][2,tuning]", "imagefolder", Path("x[5]"), 2, "imagefolder:x[5][2,tuning]"),
    ],
)
def test_a_tuning_split_is_read_and_written_back(text, name, path, classes, canonical):
    spec = data.parse(text)
    assert (spec.name, spec.path, spec.classes, spec.tuning) == (name, path, classes, True)
    assert str(spec) == canonical
    assert data.parse(canonical) == spec


def test_a_folder_that_is_called_like_a_tuning_split_keeps_its_slash():
    spec = data.parse("imagefolder:run[tuning]/")
    assert (spec.path, spec.tuning) == (Path("run[tuning]"), False)
    assert str(spec) == "imagefolder:run[tuning]/"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cifar-10", "unknown dataset 'cifar-10'; did you mean 'cifar10'"),
        ("", "unknown dataset ''; known: digits, cifar10"),
        ("cifar10[ten]", "must be a whole number"),
        ("cifar10[-5]", "must be a whole number"),
        ("cifar10[]", "must be a whole number"),
        ("cifar10[tunning]", "must be a whole number.*`tuning` may stand behind it"),
        ("cifar10[tuning,5]", "must be a whole number"),
        ("cifar10[,tuning]", "must be a whole number"),
        ("cifar10[5,tuning,tuning]", "must be a whole number"),
        ("cifar10[1,tuning]", "a subset needs at least 2 classes"),
        ("cifar10[11,tuning]", "the dataset has only 10 classes"),
        ("cifar10[5", r"unknown dataset 'cifar10\[5'; did you mean 'cifar10'"),
        ("cifar10[1]", "a subset needs at least 2 classes"),
        ("cifar10[11]", "the dataset has only 10 classes"),
        ("tiny-imagenet[201]", "the dataset has only 200 classes"),
        ("imagefolder", "imagefolder needs a folder, as in imagefolder:PATH"),
        ("imagefolder:", "imagefolder needs a folder, as in imagefolder:PATH"),
        ("cifar10:there", "cifar10 takes no path"),
    ],
)
def test_a_mistaken_spec_is_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        data.parse(text)
    assert "\n" not in str(caught.value)


def test_names_are_in_the_stated_order():
    assert data.NAMES == ("digits", "cifar10", "cifar100", "tiny-imagenet", "imagefolder")


def test_importing_costs_no_torch_and_no_scikit_learn():
    code = "import sys, bench.data; print(sorted({'torch', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
