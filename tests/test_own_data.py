"""Images of one's own and a network by timm's name: the example of the docs, run as it stands there."""

import re
from pathlib import Path

import numpy as np
from command_line import run_here
from PIL import Image

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own-data.md").read_text()


def test_the_page_s_suite_runs_as_the_page_says(tmp_path, monkeypatch, capfd):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, colour in (("cat", 60), ("dog", 190)):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(colour + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "pets.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    command = re.search(r"^metadd-bench (run .*)$", PAGE, re.MULTILINE)[1].split()
    done = run_here(monkeypatch, capfd, *command)
    assert (done.status, done.err) == (0, "")
    assert "6 cells: 0 hits, 6 made, 0 failed" in done.out
    assert "mobilenetv3_small_050" in done.out
    assert re.search(r"\| DM +\|", done.out)
    assert str(tmp_path) not in (tmp_path / "results/pets/rows.jsonl").read_text()
