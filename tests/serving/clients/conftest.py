"""One taught store and its server, for every client."""

from collections.abc import Iterator

import pytest

from helpers.client_programs import Server, serve_command, trained_store
from helpers.training_lab import TrainingLab


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> TrainingLab:
    """A taught store that no client changes."""
    return trained_store(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="session")
def server(lab) -> Iterator[Server]:
    """A server of it."""
    with serve_command(lab) as running:
        yield running
