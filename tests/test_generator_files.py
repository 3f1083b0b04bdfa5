"""GLaD with a generator from a file, through the whole house."""

import json
import shutil

from command_line import rows, run_here, write_tables
from every_method import RUN, SETTINGS, suite

from baselines.generators import files


def test_a_generator_from_a_file_is_used_and_planned_by_its_content(
    every_method, tmp_path, monkeypatch, capfd
):
    found = sorted(every_method.glob("store/pretrain/*/*/generator.safetensors"))
    (trained,) = (path for path in found if files.load(path).architecture["latent"] == 8)
    file = tmp_path / "elsewhere" / "my own.safetensors"
    file.parent.mkdir()
    shutil.copy(trained, file)
    # The default layer of a generator from a file is for StyleGAN-XL; this one has 8.
    settings = {**SETTINGS["glad"], "generator": f"file:{file}", "layer": 4}
    del settings["generator_settings"]
    small = {**suite(), "ipc": 1, "grid": [{"method": "glad", "settings": settings}], "figures": []}
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=small)
    done = run_here(monkeypatch, capfd, *RUN)
    assert (done.status, done.err) == (0, "")
    assert "my own" in done.out
    assert not [row for row in rows(tmp_path) if row["cell"]["kind"] == "pretrain"]
    (row,) = (row for row in rows(tmp_path) if row["cell"]["kind"] == "distil")
    assert str(file.parent) not in json.dumps(row["cell"])
    (uses,) = row["cell"]["uses"]["generator"]
    assert uses.startswith("file:")
