"""``data`` and ``evaluate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.options import DataDir, Device, DeviceName, PixelsName


def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a dataset; see `list datasets`")],
    data_dir: DataDir = None,
) -> None:
    """Fetch a dataset's official archive, verify it, and decode it into the cache."""
    from bench.data import NAMES, fetch, identify
    from bench.progress import download

    if name in NAMES and name != "digits":
        with download(name) as progress:
            path = fetch(name, data_dir or Path(os.environ.get("METADD_DATA") or "data"), progress=progress)
        typer.echo(f"{name}: {path}")
    found = identify(name, data_dir)
    typer.echo(
        f"{found.spec}: {sum(found.train)} train and {sum(found.test)} test images, "
        f"{len(found.classes)} classes, {found.size}x{found.size}, content {found.content[:12]}"
    )


def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="a .npz, .safetensors or .pt file, or a folder")
    ],
    dataset: Annotated[str, typer.Option(help="the dataset that the set is for")],
    network: Annotated[list[str], typer.Option(help="a network to train; repeatable")],
    recipe: Annotated[str, typer.Option(help="how to train it")] = "dsa",
    epochs: Annotated[int | None, typer.Option(help="instead of the recipe's")] = None,
    pixels: Annotated[PixelsName | None, typer.Option(help="how float images are held")] = None,
    seeds: Annotated[int, typer.Option(help="networks per set")] = 5,
    test_per_class: Annotated[int | None, typer.Option(help="test images per class [default: all]")] = None,
    data_dir: DataDir = None,
    device: Device = DeviceName.auto,
) -> None:
    """Train networks on a distilled set from elsewhere and print their test accuracy."""
    from bench import outside

    scores = outside.evaluate(
        file,
        dataset,
        network,
        recipe=recipe,
        overrides={} if epochs is None else {"epochs": epochs},
        pixels=pixels.value if pixels else None,
        seeds=seeds,
        test_per_class=test_per_class,
        data_dir=data_dir,
        device=device.value,
    )
    for score in scores:
        summary = score.summary
        spread = "± ? (one)" if summary.std is None else f"± {summary.std:.2f}"
        what = f"n = {summary.n} {score.of}"
        if score.of == "sets":
            what += f", each the mean of {score.per_set} networks"
        else:
            what += " of one set: evaluation noise only"
        typer.echo(f"{score.network}: {summary.mean:.2f} {spread} ({what}; {score.test_images} test images)")
        if score.at_chance:
            typer.echo(
                f"warning: {score.network} is no better than chance ({score.chance:.1f}%): the usual "
                "causes are the wrong --pixels, another normalisation (or ZCA) than the set was made with, "
                "or labels in another class order",
                err=True,
            )
