import data_makers
import pytest


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch, tmp_path):
    """Nothing of the machine's own data and cache gets into these tests, except where a test says so."""
    monkeypatch.setenv("METADD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small(monkeypatch):
    data_makers.shrink(monkeypatch)


@pytest.fixture
def places(tmp_path):
    """(data_dir, cache_dir), the second not made yet."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data", tmp_path / "cache"
