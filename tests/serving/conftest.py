"""Servers of the tiny store `fork`: cs → housing, and cs → dining, which HEAD names."""

import pytest

from helpers.live_server import copy_store, serve_store
from helpers.training_lab import isolated_environment


@pytest.fixture(scope="module")
def server(fork, tmp_path_factory):
    """A server for a module's tests, none of which may move HEAD."""
    with (
        isolated_environment(tmp_path_factory.getbasetemp()),
        serve_store(copy_store(fork.store, tmp_path_factory.mktemp("served") / "store")) as running,
    ):
        yield running


@pytest.fixture
def own_store(fork, tmp_path):
    """A store that a test may do with as it likes."""
    return copy_store(fork.store, tmp_path / "store")
