"""What every test gets: a cache of its own session, no data, no network, two threads at most."""

import gc
import os
import socket

# Before anything imports torch, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which inherits the line above
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# Not a terminal's width but this one, wherever the tests run.
os.environ["COLUMNS"] = "100"

import pytest


def pytest_runtest_setup(item):
    """Tests marked ``gpu`` are skipped, and said to be, where there is none.

    Before anything starts on a GPU cuBLAS is told to be deterministic, as the command line does: it asks once
    in a process, and untold it would warn at every product.
    """
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        from bench.device import choose

        choose("cuda")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The cache folder of the session: what one test decoded, the next one finds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path_factory, cache):
    monkeypatch.setenv("METADD_CACHE", str(cache))
    monkeypatch.setenv("METADD_DATA", str(tmp_path_factory.getbasetemp() / "no-data"))
    connect = socket.socket.connect

    def connect_here(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            raise RuntimeError(f"a test wants to connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(scope="module")
def one_thread():
    """For tiny operations: on a busy machine, threads waiting for each other cost most of the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def quick_collections():
    """Every LiveBytes collects garbage first; let it not look at all that importing PyTorch has left."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        torch.zeros(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def every_method(tmp_path_factory, cache):
    """The folder of a finished run of a suite with every method."""
    from every_method import run as every_method_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        return every_method_run(tmp_path_factory.mktemp("every_method"))


@pytest.fixture
def file(tmp_path):
    """The path of a file by its name, in a folder of the test's own."""
    return lambda name: tmp_path / name
