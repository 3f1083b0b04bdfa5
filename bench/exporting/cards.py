"""The card of an exported set: what it is, how it was made, how good it is, how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from bench.data.spec import parse
from bench.data.wordnet import called
from bench.exporting import labelcards
from bench.exporting.labelcards import Labels
from bench.stats import summarise

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """All that a card says; see :class:`bench.export.Chosen` for what rows and tags are."""

    suite: str
    about_suite: str
    tags: Mapping[str, Any]
    #: The rows of the set's parts, and of the networks that were trained on it.
    parts: Sequence[_Row]
    evaluations: Sequence[_Row]
    #: What teachers said of the images.
    labels: Sequence[Labels]
    #: What was made from the real data beforehand: by name, keys and (where published) rows.
    used: Mapping[str, Sequence[tuple[str, _Row | None]]]
    #: The set's pixel space, as its record says it.
    space: Mapping[str, Any]
    step_size: float | None
    classes: Sequence[str]
    images: int
    #: Pixels of an image's side.
    size: int
    #: Values that the PNGs could not hold, and values in all.
    clamped: int
    values: int

    @property
    def dataset(self) -> str:
        """The name of the real dataset, without its class subset."""
        return parse_name(self.tags["dataset"])

    @property
    def real(self) -> bool:
        """Whether the images are real ones, chosen and not distilled."""
        return bool(self.parts[0]["cell"]["method"] == "random")


@dataclass(frozen=True)
class Licence:
    """What is known of who may use a real dataset: fields of the card's header, and words for its readers."""

    header: Mapping[str, str]
    words: str


_IMAGENET = "https://image-net.org/download"


def _cifar(name: str) -> Licence:
    return Licence(
        {"license": "unknown"},
        f"{name} was published without a licence (Krizhevsky, *Learning Multiple Layers of Features from "
        "Tiny Images*, 2009). Its images were collected from the web, through the collection *80 Million "
        "Tiny Images*, which its authors withdrew in 2020; the rights in them are their owners'.",
    )


LICENCES = {
    "cifar10": _cifar("CIFAR-10"),
    "cifar100": _cifar("CIFAR-100"),
    "tiny-imagenet": Licence(
        {"license": "other", "license_name": "imagenet-terms-of-access", "license_link": _IMAGENET},
        "Tiny-ImageNet (Stanford CS231n) states no licence of its own. Its images are ImageNet's, whose "
        "terms of access allow non-commercial research and education only; ImageNet does not own the rights "
        "in them.",
    ),
    "digits": Licence(
        {"license": "cc-by-4.0"},
        "The digits are the test part of *Optical Recognition of Handwritten Digits* (Alpaydin and Kaynak, "
        "1998; UCI Machine Learning Repository, CC BY 4.0), as scikit-learn has it.",
    ),
}
#: Of a folder of the user's own.
OWN = Licence({"license": "unknown"}, "The images come from a folder whose licence this suite does not know.")

#: What the ddranking package calls a dataset, and the mean and standard deviation that it normalises its real
#: images by (ddranking/utils/data.py, version 0.2.0; CIFAR-100 has CIFAR-10's there).
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_DDRANKING = {
    "cifar10": ("CIFAR10", _CIFAR),
    "cifar100": ("CIFAR100", _CIFAR),
    "tiny-imagenet": ("TinyImageNet", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
}


def parse_name(dataset: str) -> str:
    """A dataset's name without subset; also of a folder's, whose path rows do not keep."""
    return "imagefolder" if dataset.startswith("imagefolder") else parse(dataset).name


def card(facts: Facts) -> str:
    """The whole card: a YAML header as dataset hubs read it, and Markdown."""
    licence = LICENCES.get(facts.dataset, OWN)
    parts = [
        _header(facts, licence),
        f"# {_title(facts)}",
        _what(facts),
        f"## Licence\n\n{licence.words} A set distilled from these images is derived from them: this card "
        "grants no rights that the source does not.",
        f"## How it was made\n\n{_made(facts)}",
        f"## Accuracy\n\n{_accuracy(facts)}",
        *labelcards.section(facts.labels, facts.tags, facts.images, len(facts.classes)),
        f"## Loading it\n\n{_loading(facts)}",
        *_classes(facts.classes),
    ]
    return "\n\n".join(parts) + "\n"


def _title(facts: Facts) -> str:
    return f"{facts.tags['method']} on {facts.tags['dataset']}, {facts.tags['ipc']} images per class"


def _header(facts: Facts, licence: Licence) -> str:
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    header = {
        "pretty_name": _title(facts),
        **licence.header,
        "task_categories": ["image-classification"],
        "size_categories": [next((name for most, name in sizes if facts.images < most), "n>1M")],
        "tags": ["dataset-distillation", "metadd-bench"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "images/**/*.png"}]}
        ],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000)}---"


def _what(facts: Facts) -> str:
    kind = "real images, chosen at random and not distilled" if facts.real else "synthetic images"
    tags = facts.tags
    lines = [
        f"{facts.images} {kind}, {tags['ipc']} for each of {len(facts.classes)} classes of "
        f"{tags['dataset']}, {facts.size}x{facts.size} pixels. Written by metadd-bench.",
        "| file | what |\n| --- | --- |\n"
        f"| `set.safetensors` | `images` float32 [{facts.images}, 3, {facts.size}, {facts.size}] in the "
        f"{_space(facts)}, `labels`{', `step_size`' if facts.step_size is not None else ''}; "
        "metadata `metadd`: space, classes and cell as JSON |\n"
        + (
            "| `zca.safetensors` | the whitening: `mean`, `whiten`, `unwhiten` |\n"
            if _whitened(facts)
            else ""
        )
        + "| `images/CLASS/00000.png` | the same as 8-bit pictures, for looking and for loaders of folders |",
    ]
    share = facts.clamped / facts.values
    lines.append(
        f"In the pictures {facts.clamped} of {facts.values} values ({share:.1%}) were clamped to [0, 1], and "
        "all were rounded to 8 bits. Train on `set.safetensors` to get the accuracies below."
    )
    return "\n\n".join(lines)


def _classes(names: Sequence[str]) -> list[str]:
    """What readers call the classes, where their names are ids."""
    known = [f"`{name}` {called(name)}" for name in names if called(name) != name]
    text = f"## Classes\n\nThe folders of the classes are WordNet's ids: {', '.join(known)}."
    return [text] if known else []


def _whitened(facts: Facts) -> bool:
    return bool(facts.space["kind"] == "zca")


def _space(facts: Facts) -> str:
    kind = facts.space["kind"]
    if kind == "normalised":
        mean, std = (", ".join(f"{value:g}" for value in facts.space[name]) for name in ("mean", "std"))
        return f"normalised space ((pixel - mean) / std with pixels in [0, 1], mean {mean}, std {std})"
    if kind == "zca":
        return "ZCA space ((pixel - mean) @ whiten with pixels in [0, 1], flat; see `zca.safetensors`)"
    return "unit space (pixels in [0, 1], not clamped)"


def _made(facts: Facts) -> str:
    first, tags = facts.parts[0], facts.tags
    cell, provenance = first["cell"], first["provenance"]
    lines = [
        f"- Method: {tags['method']} (`{cell['method']}`), protocol `{tags['protocol']}`, distillation seed "
        f"{cell['seed']}",
        f"- Distilled with: {cell['network'] or 'no network of its own'}"
        + (f"; networks that took part: {tags['distilled_on']}" if tags["distilled_on"] else ""),
        *(f"- Made beforehand, `{name}`: {_pretrained(made)}" for name, made in facts.used.items()),
    ]
    if facts.step_size is not None:
        lines.append(f"- Learnt step size: {facts.step_size:.6g} (the learning rate to train with)")
    versions = provenance["versions"]
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("metadd-bench", "torch", "numpy") if name in versions
    )
    dirty = " with local changes" if provenance.get("dirty") else ""
    keys = ", ".join(f"`{row['key']}`" for row in facts.parts)
    lines += [
        f"- Cells: {keys}",
        f"- Data: content `{cell['dataset']['content']}`",
        f"- Where: commit `{provenance['commit']}`{dirty}, {named}, {provenance['device']}, finished "
        f"{provenance['finished']}, by `{provenance['command']}`",
    ]
    settings = json.dumps({"settings": cell["settings"], "plugin": cell["plugin"]}, indent=1, sort_keys=True)
    suite = f"Suite `{facts.suite}`" + (f": {facts.about_suite}" if facts.about_suite else "")
    return "\n".join(lines) + f"\n\n{suite}\n\n```json\n{settings}\n```"


def _pretrained(made: Sequence[tuple[str, _Row | None]]) -> str:
    """The cells of one name, as `networks, accuracy (key, …)`."""
    found = []
    for key, row in made:
        if row is None:
            found.append(f"`{key[:17]}`")
            continue
        settings, accuracy = row["cell"]["settings"], row["result"].get("accuracy")
        text = str(settings.get("network") or row["cell"]["what"])
        text += f", accuracy {accuracy:.1f}%" if accuracy is not None else ""
        found.append(f"{text} (`{key[:12]}`)")
    return "; ".join(found)


def _accuracy(facts: Facts) -> str:
    groups: dict[tuple[Any, ...], list[_Row]] = {}
    for row in facts.evaluations:
        cell, tags = row["cell"], row["tags"]
        groups.setdefault((cell["network"], tags["recipe"], bool(cell["labels"]), tags["seen"]), []).append(
            row
        )
    if not groups:
        return "No network that was trained on this set is published with it."
    lines = [
        "| network | recipe | labels | accuracy (%) | n | test images |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (network, recipe, soft, seen), rows in groups.items():
        summary = summarise([row["result"]["accuracy"] for row in rows])
        assert summary is not None
        spread = "" if summary.std is None else f" ± {summary.std:.1f}"
        columns = (
            f"{network}{' †' if seen else ''}",
            recipe,
            "a teacher's" if soft else "the set's",
            f"{summary.mean:.1f}{spread}",
            str(summary.n),
            str(rows[0]["result"].get("test_images", "?")),
        )
        lines.append(f"| {' | '.join(columns)} |")
    notes = [
        "Tested once, after the last training step. n networks were trained on this one set, so ± is the "
        "noise of evaluation only and says nothing of other distillation seeds."
    ]
    if any(seen for _, _, _, seen in groups):
        notes.append("†: a network of this architecture took part in distilling.")
    if any(soft for _, _, soft, _ in groups):
        notes.append("“a teacher's”: trained on what a teacher says of each augmented view, as SRe2L does.")
    return "\n".join(lines) + "\n\n" + " ".join(notes)


def _loading(facts: Facts) -> str:
    blocks = [
        ("The tensors, as they were trained on:", _TENSORS),
        ("torchvision, pixels in [0, 1]:", _TORCHVISION),
        ("Hugging Face `datasets`, offline:", _DATASETS),
    ]
    text = "\n\n".join(f"{head}\n\n```python\n{code}\n```" for head, code in blocks)
    return "\n\n".join([text, *_ddranking(facts), _evaluate(facts)])


_TENSORS = """\
from safetensors.torch import load_file

found = load_file("set.safetensors")
images, labels = found["images"], found["labels"]"""

_TORCHVISION = """\
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

dataset = ImageFolder("images", transform=ToTensor())"""

_DATASETS = """\
from datasets import load_dataset

dataset = load_dataset("imagefolder", data_dir="images", split="train")"""


def _ddranking(facts: Facts) -> Iterator[str]:
    """How the ddranking package takes the set, where it knows the dataset."""
    if facts.tags["dataset"] not in _DDRANKING:
        yield "The `ddranking` package evaluates sets of its own datasets only, and this is none of them."
        return
    name, (mean, std) = _DDRANKING[facts.tags["dataset"]]
    lines = ["from ddranking import LabelRobustScoreHard", "from safetensors.torch import load_file", ""]
    lines += ['found = load_file("set.safetensors")', 'images, labels = found["images"], found["labels"]']
    if facts.parts[1:]:  # some of its evaluators take it that images come class by class
        lines.append("order = labels.argsort(stable=True)")
        lines.append("images, labels = images[order], labels[order]")
    kind, same = facts.space["kind"], (*facts.space.get("mean", ()),) == mean
    if not _whitened(facts) and not (kind == "normalised" and same and (*facts.space["std"],) == std):
        lines.insert(0, "import torch")
        if kind == "normalised":
            lines.append(
                f"mean, std = torch.tensor({[facts.space['mean'], facts.space['std']]})[..., None, None]"
            )
            lines.append("images = images * std + mean")
        lines.append(f"mean, std = torch.tensor({[[*mean], [*std]]})[..., None, None]  # ddranking's")
        lines.append("images = (images - mean) / std")
    rate = f"{facts.step_size:.6g}" if facts.step_size is not None else "0.01"
    lines += [
        "evaluator = LabelRobustScoreHard(",
        f'    dataset="{name}", real_data_path="data", ipc={facts.tags["ipc"]}, use_zca={_whitened(facts)},',
        f'    im_size=({facts.size}, {facts.size}), lr_scheduler="cosine", eval_full_data=True,',
        '    save_path="scores/hard.csv",',
        ")",
        f"evaluator.compute_metrics(image_tensor=images, hard_labels=labels, syn_lr={rate})",
    ]
    code = "\n".join(lines)
    yield (
        "`ddranking`, in the space of its own real images (version 0.2.0 prints the accuracies of each run, "
        f"but fails when it saves this evaluator's scores, which it lists twice):\n\n```python\n{code}\n```"
    )


def _evaluate(facts: Facts) -> str:
    """The suite's own command; with the recipe of a published row where labels are the set's."""
    own = next((row["cell"] for row in facts.evaluations if not row["cell"]["labels"]), None)
    options = f"--dataset '{facts.tags['dataset']}' --network {own['network'] if own else 'convnet'}"
    if own:
        recipe = own["recipe"]
        options += f" --recipe {recipe['name']} --epochs {recipe['epochs']}"
    return f"And metadd-bench itself:\n\n```sh\nmetadd-bench evaluate set.safetensors {options}\n```"
