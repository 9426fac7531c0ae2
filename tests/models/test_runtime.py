import mlx.core as mx
import pytest

from mlx_tune.models import runtime


def test_on_a_cpu_everything_is_computed_in_float32(monkeypatch):
    monkeypatch.setattr(runtime, "on_gpu", lambda: False)
    assert runtime.compute_dtype() == mx.float32
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)
    assert runtime.compute_dtype() is None  # as stored: a float32 gate among bf16 weights stays


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"max_recommended_working_set_size": 11, "memory_size": 16}, 11),  # Metal
        ({"memory_size": 16}, 16),
        ({"total_memory": 80, "free_memory": 30}, 30 + 7 + 2),  # CUDA: what is free, and ours
        ({}, 4096 * 5),  # a GPU that tells nothing: the machine's memory
    ],
)
def test_a_gpu_says_how_much_memory_a_model_may_use(monkeypatch, info, expected):
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx, "get_active_memory", lambda: 7)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 2)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 5}.__getitem__)
    assert runtime.memory_bytes() == expected


@pytest.mark.parametrize(
    ("system", "machine", "gigabytes", "base"),
    [
        ("Darwin", "arm64", 16, "llama-3.2-3b"),
        ("Darwin", "arm64", 8, "smollm2-135m"),
        ("Darwin", "x86_64", 64, "smollm2-135m"),
        ("Linux", "x86_64", 64, "smollm2-135m"),
    ],
)
def test_the_default_base_fits_the_machine(monkeypatch, system, machine, gigabytes, base):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gigabytes * 1024**3 // 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert runtime.default_base() == base
