"""One taught store and its server, for every client."""

from collections.abc import Iterator

import pytest
from outside import Server, serving, taught

from lab import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Lab:
    """A taught store that no client changes."""
    return taught(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="session")
def server(lab) -> Iterator[Server]:
    """A server of it."""
    with serving(lab) as running:
        yield running
