"""Where a row says that it comes from."""

import torch

from bench import provenance


def test_the_driver_is_what_its_tool_prints(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=driver_version ] && printf "580.1\\n580.1\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    provenance._driver.cache_clear()
    assert provenance._driver() == "580.1"
    tool.write_text("#!/bin/sh\nexit 9\n")
    provenance._driver.cache_clear()
    assert provenance._driver() is None
    provenance._driver.cache_clear()


def test_on_a_cpu_nothing_is_said_of_a_gpu():
    found = provenance.provenance(torch.device("cpu"), "metadd-bench run smoke")
    assert (found["device_kind"], found["cuda"], found["driver"]) == ("cpu", None, None)
    assert found["command"] == "metadd-bench run smoke"
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
