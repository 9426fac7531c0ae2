"""A taught store behind the real command, and a place where other people's clients are installed.

Each client is a small script of its own, run by the interpreter that has it; it prints, as its last
line, what it was told as JSON, and the tests look at that.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from helpers import tiny
from helpers.training_lab import TrainingLab, isolated_environment

HERE = Path(__file__).parents[1] / "serving/clients"
HOME = Path(__file__).parents[2] / ".venv-clients"
TOKEN = "s3cret"
FACTS = {"Where is A?": "In 1.", "Where is B?": "In 2."}
LATER = {"Where is C?": "In 3."}
COMMAND = "from mlx_tune.cli.main import run; run()"


@dataclass(frozen=True, kw_only=True)
class Server:
    """One that runs, and what it serves: two sessions, the second in use."""

    url: str
    lab: TrainingLab


@dataclass(frozen=True, kw_only=True)
class Client:
    """An interpreter that has somebody's client."""

    program: Path | str
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Call it; nothing it does may leave this machine."""
        ours = ("PYTHONPATH", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": TOKEN}
        with TemporaryDirectory() as folder:  # some leave files where they are called
            done = subprocess.run(
                [self.program, *map(str, words)],
                cwd=folder,
                env={**kept, **quiet, "NO_PROXY": "*", **self.environment, **environment},
                capture_output=True,
                text=True,
                timeout=600,
            )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done

    def told(self, script: str, **environment: str) -> dict[str, Any]:
        """Run one of the scripts in tests/serving/clients, and read what it prints."""
        return json.loads(self.run(HERE / script, **environment).stdout.splitlines()[-1])


def python_with(package: str, folder: Path = HOME) -> Client:
    """The interpreter that has a package; skips the test where none has it."""
    if not list(folder.glob(f"lib/python*/site-packages/{package}")):
        pytest.skip(f"needs {package} in .venv-clients (`sh scripts/clients.sh` puts it there)")
    return Client(program=folder / "bin/python")


def trained_store(folder: Path, **changes: int) -> TrainingLab:
    """A store of two sessions on a tiny base."""
    base = tiny.base_folder(folder / "tiny")
    (base / "config.json").write_text(json.dumps(tiny.config(**changes)))
    lab = TrainingLab(root=folder, base=base)
    learns = {"learning_rate": 0.02, "epochs": 30, "rank": 8}
    with isolated_environment(folder):
        lab.train(lab.data("first", FACTS), **learns)
        lab.train(lab.data("later", LATER), **learns)
    return lab


@contextmanager
def serve_command(lab: TrainingLab, *options: str) -> Iterator[Server]:
    """Be `mlx-tune serve` on a free port of loopback, until a SIGTERM that it obeys."""
    words = ["serve", "--store", lab.store, "--base", lab.base, "--port", 0, "--token", TOKEN]
    environment = {"MLX_TUNE_CACHE": str(lab.root / "cache"), "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words), *options],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = [line.split() for line in iter(process.stdout.readline, "Ctrl-C stops it.\n")]
            yield Server(url=dict(words[:2] for words in said)["API"], lab=lab)
        finally:
            process.terminate()
            assert process.wait(30) == 0
