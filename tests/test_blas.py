import ctypes

import pytest

from mlx_tune import blas


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(blas, "loaded", None)
    monkeypatch.setattr("sys.platform", "linux")
    return monkeypatch


def test_the_first_library_that_loads_is_made_global(fresh):
    tried = []

    def load(name, mode):
        tried.append((name, mode))
        if name == "libopenblas.so.0":
            raise OSError(name)

    fresh.setattr(blas, "_candidates", lambda: ["libopenblas.so.0", "libmkl_rt.so.2", "other"])
    fresh.setattr(ctypes, "CDLL", load)
    blas.load()
    assert blas.loaded == "libmkl_rt.so.2"
    assert tried == [(n, ctypes.RTLD_GLOBAL) for n in ("libopenblas.so.0", "libmkl_rt.so.2")]
    assert blas.advice() is None


def test_without_one_the_fix_is_named(fresh):
    fresh.setattr(blas, "_candidates", list)
    blas.load()
    assert "libopenblas0-pthread" in blas.advice()
    assert "pip install mkl" in blas.advice()


def test_elsewhere_there_is_nothing_to_do(fresh):
    fresh.setattr("sys.platform", "darwin")
    fresh.setattr(ctypes, "CDLL", lambda *a, **k: pytest.fail("nothing may be loaded"))
    blas.load()
    assert (blas.loaded, blas.advice()) == (None, None)


def test_the_mkl_wheel_is_found_in_the_environment(fresh, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmkl_rt.so.2").touch()
    fresh.setattr("sys.prefix", str(tmp_path))
    assert blas._candidates() == ["libopenblas.so.0", str(tmp_path / "lib" / "libmkl_rt.so.2")]
