"""What the README promises about the project itself."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    commands = re.findall(r"```\n(.+?)\n```", (ROOT / "README.md").read_text())[:2]
    assert len(commands) == 2
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in " && ".join(commands).split(" && "):
        words = command.split()
        assert any(set(words) <= set(line.split()) for line in ci), command


def test_lock_holds_what_is_pinned_and_hashes_and_no_address() -> None:
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    locked = [line.removesuffix(" \\") for line in lock.splitlines() if "==" in line]
    assert set(pins) <= set(locked)
    assert lock.count("--hash=sha256:") >= len(locked)
    assert "://" not in lock


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    pinned = {pin.split("==")[0] for pin in project["tool"]["uv"]["constraint-dependencies"]}
    assert {re.split("[><=]", name)[0] for name in wanted} == pinned
