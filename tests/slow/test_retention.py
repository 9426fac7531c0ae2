"""A miniature of `benchmarks/retention.py`: rehearsal keeps what it was taught, folding does not.

The arm has the settings from before noised questions: with those of today eight facts take more
epochs than a test has time for.

The chain without rehearsal is the negative control: if it kept everything too, the facts would be
too few or too easy to show anything.
"""

import pytest

from benchmarks import retention, retention_report
from mlx_tune.models.catalogue import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.real]


CONTROL_SESSIONS = 2  # as many as it takes to see it forget


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """Three sessions of eight facts taught with rehearsal, and two without."""
    found = {}
    for arm, sessions in (("recital", 3), ("none", CONTROL_SESSIONS)):
        folder = tmp_path_factory.mktemp(arm)
        words = ["--out", folder, "--arms", arm, "--sessions", sessions, "--rows", 8]
        words += ["--orders", 1, "--base", SMALL, "--epochs", 40]
        assert retention.main([str(word) for word in words]) == 0
        (found[arm],) = retention_report.load(folder)
    return found


@pytest.mark.parametrize("arm", ["recital", "none"])
def test_every_session_is_learned_and_none_was_known_before(chains, arm):
    known = chains[arm].retention("verbatim")
    for j in range(1, known.length + 1):
        assert known.rate(j, j) >= 7 / 8
        assert known.rate(0, j) == 0


def test_rehearsal_keeps_every_session(chains):
    assert retention_report.worst_kept(chains["recital"].retention("verbatim")) >= 0.95


def test_a_folded_chain_without_rehearsal_does_not(chains):
    assert retention_report.worst_kept(chains["none"].retention("verbatim")) < 0.5


@pytest.mark.parametrize("arm", ["recital", "none"])
def test_rollback_is_bit_identical_and_both_forms_of_the_chain_agree(chains, arm):
    lines = retention_report.verdicts([chains[arm]])
    rollback, logits = (line for line in lines if "rollback" in line or "logits" in line)
    assert rollback.startswith("met")
    assert logits.startswith("met")
