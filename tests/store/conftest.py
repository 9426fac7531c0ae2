"""An empty store for each test."""

import pytest

from mlx_tune.store.store import SessionStore


@pytest.fixture
def store(tmp_path) -> SessionStore:
    return SessionStore.open(tmp_path / "s")
