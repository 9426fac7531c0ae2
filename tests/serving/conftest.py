"""Servers of the tiny store `fork`: cs → housing, and cs → dining, which HEAD names."""

import pytest
from served import copied, served

from lab import own_machine


@pytest.fixture(scope="module")
def server(fork, tmp_path_factory):
    """A server for a module's tests, none of which may move HEAD."""
    with (
        own_machine(tmp_path_factory.getbasetemp()),
        served(copied(fork.store, tmp_path_factory.mktemp("served") / "store")) as running,
    ):
        yield running


@pytest.fixture
def own_store(fork, tmp_path):
    """A store that a test may do with as it likes."""
    return copied(fork.store, tmp_path / "store")
