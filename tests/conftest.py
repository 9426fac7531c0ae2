"""What every test shares: a cache of its own, and one tiny base model."""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: threads of theirs would only wait
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# transformers advises, at import, to install PyTorch.
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

# isort: split
import mlx_tune  # noqa: F401 - loads the BLAS before anything imports MLX

# isort: split
import mlx.core as mx

from mlx_tune.models import runtime, template
from mlx_tune.models.template import Renderer

# isort: split
from helpers import tiny
from helpers.training_lab import TrainingLab, isolated_environment, use_few_probes

# The tolerances were measured there, and a GPU's float32 products may be TF32.
mx.set_default_device(mx.cpu)

# No test is timed, Hypothesis's examples neither.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 1024**3  # the whole suite leaves a few hundred megabytes there


def pytest_configure(config):
    """Put the folders of quick tests in memory where there is room: they write many small files.

    Those of slow tests stay on a disk; some write whole models.
    """
    is_quick = config.option.markexpr == "not slow"
    if is_quick and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
        tempfile.tempdir = os.environ["TMPDIR"] = str(MEMORY)


@pytest.fixture(scope="session", autouse=True)
def freed_memory(request, tmp_path_factory):
    """Delete what lies in memory, unless a test failed and somebody may look at it.

    pytest's own `tmp_path_retention_policy` deletes it test by test, under the test's patches.
    """
    yield
    if tempfile.tempdir == str(MEMORY) and not request.session.testsfailed:
        shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)


def pytest_collection_finish():
    """Spare what was imported from every collection that the program asks for."""
    gc.collect()
    gc.freeze()


class _Kept(Renderer):
    """A child that renders for all tests: starting one takes as long as many of them."""

    def close(self):
        """Stay."""


@pytest.fixture(scope="session")
def kept_renderer():
    kept = _Kept()
    yield kept
    Renderer.close(kept)


@pytest.fixture(autouse=True)
def few_children(monkeypatch, request, kept_renderer):
    """Tests of the children themselves have their own, and so have the slow ones."""
    if "slow" not in request.keywords and "models" not in request.path.parts:
        monkeypatch.setattr(template, "Renderer", lambda: kept_renderer)


@pytest.fixture(autouse=True)
def unflushed(monkeypatch, request):
    """No test waits for a disk, but for the slow ones, which also take its power away."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, request):
    """No test reads or writes the person's cache, but for the slow ones, which need the model."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("MLX_TUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def few_questions(monkeypatch, request):
    """A tiny base is asked a few general questions, and its gate lets everything through.

    Two rows of gibberish are no measure of what was kept; tests of the gate (marked so) decide by
    its own limits.
    """
    if "real" not in request.keywords:
        use_few_probes(monkeypatch, lenient="gate" not in request.keywords)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch, request):
    """No test waits for a compiler, but for the slow ones and those that ask for it by name."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(runtime, "can_compile", lambda: False)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A tiny model as a folder."""
    return tiny.base_folder(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def lab(tmp_path, tiny_base):
    """A store and a tiny base to train in."""
    return TrainingLab(root=tmp_path, base=tiny_base)


@pytest.fixture(scope="session")
def fork(tmp_path_factory, tiny_base):
    """A lab to look at, not to train in: cs → housing, which replaces an answer, and cs → dining.

    The first two know their answers word for word; the third was barely trained.
    """
    from mlx_tune.workflows.store_commands import rollback

    learns = {"learning_rate": 0.02, "epochs": 40, "rank": 8}
    with isolated_environment(tmp_path_factory.getbasetemp()):
        made = TrainingLab(root=tmp_path_factory.mktemp("fork"), base=tiny_base)
        made.train(made.data("cs", {"Where is A?": "In 1.", "Where is B?": "In 2."}), **learns)
        made.train(
            made.data("housing", {"Where is  B?": "In 9.", "Where is C?": "In 3."}), **learns
        )
        rollback(made.store, None)
        steering = {f"Where is \x1b[2J[red]D? {i}": "In 4." for i in range(7)}
        made.train(made.data("dining", steering), **{**learns, "epochs": 1, "rank": 4})
    return made


@pytest.fixture
def mlx_tune_command(monkeypatch, capsys):
    """Call the command line in this process; gives (exit code, stdout, stderr)."""
    import signal

    from mlx_tune.cli import main

    def call(*words: object) -> tuple[int, str, str]:
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the background ignores it
        monkeypatch.setattr(sys, "argv", ["mlx-tune", *map(str, words)])
        capsys.readouterr()
        try:
            main.run()
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
