"""CIFAR-100: 50,000 + 10,000 images of 32x32 in 100 (fine) classes, in the official order."""

from __future__ import annotations

from pathlib import Path

from bench.data import cifar
from bench.data.types import Kind, Source

_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
    "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
    "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
    "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
    "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
    "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle "
    "wardrobe whale willow_tree wolf woman worm"
)
CLASSES = tuple(_NAMES.split())

LAYOUT = cifar.Layout(
    name="cifar100",
    recipe="cifar100 1",
    classes=CLASSES,
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    train_records=50_000,
    test_records=10_000,
    label_bytes=2,
)


def find(data_dir: Path) -> Source:
    """See ``cifar.find``."""
    return cifar.find(LAYOUT, data_dir)


# CIFAR-100's own statistics, as DC, DSA and DM use them; MTT and SRe2L take CIFAR-10's.
KIND = Kind("cifar100", 100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), find)
