import ctypes
import os
from types import SimpleNamespace

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
        return SimpleNamespace()

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


class _OpenBlas:
    """An OpenBLAS that knows no processor by name; its core is what the environment says."""

    _handle = 7

    def __init__(self, loaded):
        loaded.append(os.environ.get("OPENBLAS_CORETYPE", "Prescott"))
        core = loaded[-1].encode()
        self.openblas_get_corename = type("Function", (), {"__call__": lambda _: core})()


@pytest.mark.parametrize(
    ("flags", "loaded"),
    [
        ("avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl", ["Prescott", "SkylakeX"]),
        ("avx2 fma avx512f", ["Prescott", "Haswell"]),
        ("sse3", ["Prescott"]),
    ],
)
def test_an_openblas_that_does_not_know_the_processor_gets_told(fresh, flags, loaded):
    fresh.setenv("OPENBLAS_CORETYPE", "")  # so that it is taken away again
    fresh.delenv("OPENBLAS_CORETYPE")
    cores, closed = [], []
    fresh.setattr(ctypes, "CDLL", lambda *a, **k: _OpenBlas(cores))
    fresh.setattr(blas._ctypes, "dlclose", closed.append)
    fresh.setattr(blas, "_candidates", lambda: ["libopenblas.so.0"])
    fresh.setattr(blas, "_cpu_flags", lambda: set(flags.split()))
    blas.load()
    assert cores == loaded
    assert closed == [7] * (len(loaded) - 1)
    assert blas.loaded == "libopenblas.so.0"


def test_a_core_type_that_a_person_set_stays(fresh):
    cores = []
    fresh.setenv("OPENBLAS_CORETYPE", "Prescott")
    fresh.setattr(ctypes, "CDLL", lambda *a, **k: _OpenBlas(cores))
    fresh.setattr(blas, "_candidates", lambda: ["libopenblas.so.0"])
    fresh.setattr(blas, "_cpu_flags", lambda: {"avx2", "fma"})
    blas.load()
    assert cores == ["Prescott"]


def test_the_instruction_sets_are_read_from_the_list_of_processors(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\n")
    assert {"avx2", "fma"} <= blas._cpu_flags(tmp_path / "cpuinfo")
    assert blas._cpu_flags(tmp_path / "missing") == set()
