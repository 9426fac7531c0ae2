"""Record what the program does: a store it trained, and what its commands say of that store.

``trained/`` holds a tiny base model, data files, and ``store-v1``: a chain of three sessions, a
branch that keeps no rows, a session that the gate refused, a tag, an evaluation, and two runs that
were stopped halfway, one with rows held out to choose its best checkpoint. Under ``recorded/`` lies
what the commands of ``SCENARIOS`` printed, the adapters that training made and the logits of the
chain. ``tests/test_golden_behaviour.py`` runs the same commands on a copy of the store and
compares. The store stands for the stores that people have: it is never made anew, and a command
that says something else of it is a change of behaviour::

    python tests/golden/make_behaviour.py store /golden
    python tests/golden/make_behaviour.py record tests/golden/trained/recorded

The first makes base and store in a new folder. A session keeps the absolute path of a local base,
so that folder's name should be a neutral one; its contents are then copied to ``trained/``.
"""

import argparse
import contextlib
import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

TRAINED = Path(__file__).parent / "trained"
RECORDED = TRAINED / "recorded"
STORE, BASE = "store-v1", "tiny-base"

Call = Callable[..., tuple[int, str, str]]
"""Calls the command line with words; gives exit code, standard output, standard error."""

PASSES = (
    *("--gate-kept", "0", "--gate-kept-least", "0"),
    *("--gate-backward", "100", "--gate-backward-most", "100"),
    *("--gate-general", "100", "--gate-general-most", "100"),
)
"""Limits that every session keeps. Nothing is patched in the gate: what decides stands here."""

SMALL = ("--base", BASE, "--batch-size", "4", "--grad-accumulation", "1")


@dataclass(frozen=True)
class Step:
    """One command of a scenario.

    Attributes:
        name: What its record is called; the empty text where nothing is recorded.
        words: Of the command line, without ``--store`` and ``--json``; ``{out}`` is a new folder,
            ``{held-out}`` the older of the unfinished runs.
        is_json: Whether it prints JSON; else its text is recorded.
        has_store: Whether it takes ``--store``.
    """

    name: str
    words: tuple[str, ...]
    is_json: bool = True
    has_store: bool = True


def asks(name: str, *words: str, **options: Any) -> Step:
    return Step(name, words, **options)


def trains(name: str, data: str, *words: str) -> Step:
    return Step(name, ("train", f"data/{data}.json", *SMALL, "--seed", "7", *words))


SCENARIOS: dict[str, tuple[Step, ...]] = {
    "reading": (
        asks("log", "log"),
        asks("show", "show"),
        asks("show-branch", "show", "sports"),
        asks("show-refused", "show", "music"),
        asks("tag", "tag"),
        asks("verify", "verify"),
        asks("base-show", "base", "show", BASE, has_store=False),
        asks("base-list", "base", "list", has_store=False),
        asks("doctor", "doctor"),
        asks("plan", "plan", "data/tennis.json", *SMALL, "--guard", "0.5"),
        asks("plan-methods", "plan", "data/cs.json", "data/tennis.json", "--base", BASE,
             "--method", "orthogonal", "--replay", "0.4", "--validation", "0.2", "--rslora",
             "--lora-plus-ratio", "4", "--max-length", "64"),
        asks("diff-settings", "diff", "cs", "sports", "--base", BASE, "--no-answers"),
    ),
    "answering": (
        *(
            asks(f"ask-{who}", "ask", "data/questions.txt", "--base", BASE, "--session", who,
                 "--max-tokens", "24")
            for who in ("base", "cs", "housing", "dining", "sports")
        ),
        asks("ask-data", "ask", "data/dining.json", "--base", BASE, "--max-tokens", "24"),
        asks("chat", "chat", "--base", BASE, "-p", "Where is the lab?", "--max-tokens", "24",
             is_json=False),
        asks("chat-tag", "chat", "--base", BASE, "-p", "Where is the lab?", "--session", "first",
             "--max-tokens", "24", is_json=False),
    ),
    "evaluating": (
        asks("eval", "eval", "--base", BASE),
        asks("eval-fresh", "eval", "--base", BASE, "--fresh"),
        asks("eval-quick", "eval", "--base", BASE, "--quick", "--session", "sports", "--on", "cs"),
        asks("diff", "diff", "housing", "dining", "--base", BASE),
        asks("plan-general", "plan", "data/tennis.json", *SMALL, "--guard", "0.3"),
    ),
    "moving": (
        asks("rollback", "rollback"),
        asks("rollback-base", "rollback", "--to", "base"),
        asks("promote", "promote", "music"),
        asks("tag-given", "tag", "best"),
        asks("", "rm", "sports", is_json=False),
        asks("gc-dry-run", "gc", "--dry-run"),
        asks("gc", "gc"),
        asks("verify-moved", "verify"),
        asks("log-moved", "log"),
    ),
    "fusing": (
        asks("fuse", "fuse", "--base", BASE, "--out", "{out}/whole"),
        asks("fuse-quantised", "fuse", "--base", BASE, "--out", "{out}/quantised", "--quantise",
             "4:32", "--anyway"),
    ),
    "rehearsal": (
        trains("train-rehearsal", "tennis", "--epochs", "3", "--guard", "0.3", "--rank", "4",
               *PASSES),
        asks("log-trained", "log"),
    ),
    "refusal": (
        trains("train-refused", "tennis", "--epochs", "2", "--rank", "2", "--method", "none",
               "--guard", "0"),
        asks("promote-refused", "promote", "tennis"),
    ),
    "orthogonal": (
        trains("train-orthogonal", "tennis", "--epochs", "3", "--rank", "2", "--guard", "0",
               "--method", "orthogonal", *PASSES),
    ),
    "self-distill": (
        trains("train-self-distill", "tennis", "--epochs", "3", "--rank", "2", "--guard", "0.2",
               "--method", "self-distill", "--lora-plus-ratio", "2", "--dropout", "0.1", *PASSES),
    ),
    "soup": (
        trains("train-soup", "tennis", "--epochs", "2", "--rank", "2", "--guard", "0", "--method",
               "soup", "--rslora"),
    ),
    "resuming": (
        asks("resume", "resume"),
        asks("log-resumed", "log"),
    ),
    "consolidating": (
        Step("consolidate", ("consolidate", *SMALL, "--without", "housing", "--epochs", "3",
                             "--rank", "4", "--guard", "0.2", *PASSES)),
    ),
}  # fmt: skip


# Running one


@dataclass
class Outcome:
    """What a scenario did, in the words of ``normal``.

    Attributes:
        outputs: By step: its exit code, and what it printed.
        adapters: By name of a new session: its factors, float32, by tensor name.
        hashes: By the same names: sha256 of the file of its adapter.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def copy_store(folder: Path) -> Path:
    """Copy the golden store; its unfinished run finds the base where it lies on this machine."""
    store = folder / STORE
    shutil.copytree(TRAINED / STORE, store, symlinks=True)
    for place in store.glob("runs/*/run.json"):
        record = json.loads(place.read_bytes())
        record["base"]["name"] = str(TRAINED / BASE)
        place.write_text(json.dumps(record, indent=2))
    return store


def run(
    scenario: str,
    call: Call,
    folder: Path,
    respell: Callable[[str], str] = lambda word: word,
) -> Outcome:
    """Run a scenario on a copy of the golden store.

    The current folder must be ``trained/``, so that data files and base have the same short names
    everywhere. The cache is empty at first, so that no scenario depends on another.

    Args:
        scenario: Which.
        call: The command line.
        folder: An empty one, for the copy and for what is written.
        respell: Gives a word of the command line as it is spelt today.
    """
    store, outcome = copy_store(folder), Outcome()
    (held_out,) = (path.name for path in store.glob("runs/*-held-out"))
    with mock.patch.dict(os.environ, MLX_TUNE_CACHE=str(folder / "cache")):
        for step in SCENARIOS[scenario]:
            words = [respell(word).replace("{out}", str(folder)) for word in step.words]
            words = [word.replace("{held-out}", held_out) for word in words]
            words += ["--store", str(store)] * step.has_store + ["--json"] * step.is_json
            code, out, err = call(*words)
            if not out:
                raise AssertionError(f"{' '.join(words)}: exit {code}, nothing printed; {err}")
            printed = json.loads(out) if step.is_json else out
            if step.name:
                outcome.outputs[step.name] = {"exit": code, "output": normal(printed, folder)}
    for path in new_sessions(store):
        name, data = name_of(path), (path / "adapters.safetensors").read_bytes()
        outcome.hashes[name] = hashlib.sha256(data).hexdigest()
        outcome.adapters[name] = factors(data)
    return outcome


def factors(data: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(data)


def name_of(session: Path) -> str:
    """Return ``dining`` of ``sessions/0003-dining-5e125f6c``."""
    return session.name[5:-9]


def new_sessions(store: Path) -> list[Path]:
    """Return the folders of the sessions that the golden store does not have."""
    known = {path.name for path in (TRAINED / STORE / "sessions").iterdir()}
    return sorted(path for path in (store / "sessions").iterdir() if path.name not in known)


# What another day or another machine would print otherwise

VOLATILE = {
    "seconds", "peak_memory_bytes", "versions", "limit_bytes", "free_bytes", "cache_bytes",
}  # fmt: skip
"""Keys whose values are how long something took, how much memory or disk there is, and what of
other packages is installed: only that they are there is compared."""

MACHINE = {"python", "mlx", "device", "disk"}
"""What `doctor` says of the machine: its text is not compared."""
SOMETIMES = {"blas", "compiler", "package"}
"""What `doctor` says on some machines only: left out."""

_MEMORY = re.compile(r"(?<= GB of )\d+\.\d(?= GB)")
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d[:-]\d\d[:-]\d\d(?:\.\d+)?(?:\+00:00)?)?(?![0-9T])")


def normal(printed: Any, folder: Path) -> Any:
    """Return what a command printed without what is another each time, by these rules.

    - The value of a key of ``VOLATILE`` becomes its name in pointed brackets; so does the text of
      a finding of `doctor` about ``MACHINE``, and those about ``SOMETIMES`` are left out.
    - The scenario's folder and ``trained/`` become ``<folder>`` and ``<trained>``.
    - The id of a session that the scenario made becomes ``<id of NAME>``, its first eight digits
      in a folder's name ``<NAME>``.
    - A time or a date that stands nowhere in the golden store becomes ``<time>``, and the memory
      that a reason counts with ``<memory>``.
    - Sessions of one number, which `log` lists by their ids, are listed by their names.
    """
    names = {str(folder): "<folder>", str(TRAINED): "<trained>"}
    for place in (folder / STORE).glob("sessions/*/MANIFEST.sha256"):
        path, identity = place.parent, hashlib.sha256(place.read_bytes()).hexdigest()
        if not (TRAINED / STORE / "sessions" / path.name).exists():
            names |= {identity: f"<id of {name_of(path)}>", identity[:8]: f"<{name_of(path)}>"}
    return _normal(printed, names, _known_times())


def _normal(value: Any, names: dict[str, str], times: frozenset[str]) -> Any:
    if isinstance(value, dict):
        if "about" in value and "good" in value and value["about"] in MACHINE:
            value = {**value, "text": "<text>"}
        return {
            key: f"<{key}>" if key in VOLATILE else _normal(one, names, times)
            for key, one in value.items()
        }
    if isinstance(value, list):
        value = sorted(value, key=_place) if all(map(_is_session, value)) else value
        sure = [v for v in value if not (isinstance(v, dict) and v.get("about") in SOMETIMES)]
        return [_normal(one, names, times) for one in sure]
    if not isinstance(value, str):
        return value
    for text, name in names.items():
        value = value.replace(text, name)
    value = _MEMORY.sub("<memory>", value)
    return _TIME.sub(lambda found: found[0] if found[0] in times else "<time>", value)


def _is_session(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= {"folder", "number", "name"}


def _place(session: dict[str, Any]) -> tuple[int, str]:
    return session["number"], session["name"]


def _known_times() -> frozenset[str]:
    store = TRAINED / STORE
    texts = [str(path.relative_to(store)) for path in store.rglob("*")]
    texts += [path.read_text() for path in store.rglob("*") if path.suffix in {".json", ".log"}]
    return frozenset(_TIME.findall("\n".join(texts)))


# What a number may depend on to the last bit


def arithmetic() -> dict[str, str]:
    """Return what decides the last bits of this machine's results.

    Two machines with the same MLX and NumPy compute the same to the last bit only with the same
    kernels: a BLAS chooses its own by the CPU, the C library its exponential. So the kernels are
    named where the BLAS can name them, and a probe of the shapes of the tiny model is hashed.
    """
    from importlib.metadata import version

    return {
        **{name: version(name) for name in ("mlx", "mlx-lm", "numpy")},
        "kernels": _kernels(),
        "probe": _probe(),
    }


def _kernels() -> str:
    library = _openblas()
    if library is None:
        return "unknown"
    library.openblas_get_corename.restype = ctypes.c_char_p
    return f"OpenBLAS {library.openblas_get_corename().decode()}"


def _openblas() -> ctypes.CDLL | None:
    """Return the OpenBLAS that MLX calls, if it does; NumPy has one of its own."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    paths = sorted({line.split()[-1] for line in lines if "/libopenblas" in line})
    return ctypes.CDLL(paths[0]) if paths else None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let the BLAS compute in one thread: with two it divides even these products otherwise."""
    library = _openblas()
    if library is None:
        yield
        return
    before = library.openblas_get_num_threads()
    library.openblas_set_num_threads(1)
    try:
        yield
    finally:
        library.openblas_set_num_threads(before)


def _probe() -> str:
    import mlx.core as mx

    digest = hashlib.sha256()
    random = np.random.default_rng(0)
    with mx.stream(mx.cpu):
        for rows, inner, columns in (
            (1, 32, 259), (7, 32, 64), (33, 64, 32), (96, 32, 32), (96, 4, 32), (160, 259, 32),
        ):  # fmt: skip
            a = mx.array(random.normal(size=(rows, inner)).astype(np.float32))
            b = mx.array(random.normal(size=(inner, columns)).astype(np.float32))
            made = a @ b
            parts = [
                made, a.T @ made, mx.exp(made / 8), mx.softmax(made, axis=-1), mx.sin(made),
                mx.rsqrt(mx.mean(made * made, axis=-1)), mx.sigmoid(made), mx.logsumexp(made),
                mx.fast.rms_norm(made, None, 1e-5), made.astype(mx.bfloat16).astype(mx.float32),
            ]  # fmt: skip
            for part in parts:
                digest.update(np.array(part).tobytes())
    return digest.hexdigest()


def chain_logits(folder: Path, call: Call) -> np.ndarray:
    """Return the logits of the chain in use for a fixed text, float32 (tokens, vocabulary).

    They are of the model that `fuse` writes, widened to float32 as every command widens it.
    """
    import mlx.core as mx
    from mlx_lm import load

    store, out = copy_store(folder), folder / "fused"
    code, _, err = call("fuse", "--base", BASE, "--store", str(store), "--out", str(out))
    if code:
        raise AssertionError(err)
    model, _ = load(str(out))
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([list(range(3, 51))])))[0]


# Making them


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[Call]:
    """Give the command line on the machine that conftest.py makes for every test."""
    sys.path.insert(0, str(Path(__file__).parents[1]))

    import mlx_tune  # noqa: F401 - loads the BLAS before anything imports MLX

    # isort: split
    import mlx.core as mx

    from helpers.training_lab import isolated_environment
    from mlx_tune.cli import main

    mx.set_default_device(mx.cpu)

    def call(*words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        argv, sys.argv = sys.argv, ["mlx-tune", *words]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main.run()
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()
        finally:
            sys.argv = argv
        raise AssertionError("the command line ends with SystemExit")

    with isolated_environment(folder, lenient=False), one_thread():
        yield call


def make_store(call: Call, root: Path) -> None:
    """Make base and store in a folder."""
    import mlx.core as mx
    import tiny

    shutil.copytree(TRAINED / "data", root / "data")
    place = tiny.base_folder(root / BASE, seed=3, dtype=mx.bfloat16) / "model.safetensors"
    weights = mx.load(str(place))
    weights["model.norm.weight"] *= 4  # so that a tiny head can grow sure of a token
    mx.save_safetensors(str(place), weights, {"format": "mlx"})
    os.chdir(root)
    learns = ("--rank", "4", "--learning-rate", "0.02", "--epochs", "40")

    def trained(data: str, *words: str, exits: int = 0) -> None:
        done(exits, "train", f"data/{data}.json", *SMALL, "--seed", "5", *words)

    def done(exits: int, *words: str) -> str:
        code, out, err = call(*words, "--store", STORE)
        if code != exits:
            raise AssertionError(f"{' '.join(words)}: exit {code}\n{out}\n{err}")
        return out

    trained("cs", *learns, "--guard", "0.2", *PASSES)
    trained("housing", *learns, "--guard", "0.2", *PASSES)
    trained("sports", *learns, "--guard", "0", "--no-keep-data", "--validation", "0.25",
            "--dropout", "0.1", "--until-learned", *PASSES)  # fmt: skip
    done(0, "rollback", "--to", "housing")
    trained("dining", *learns, "--guard", "0.2", *PASSES)
    trained("music", "--rank", "2", "--method", "none", "--guard", "0", "--epochs", "10", exits=10)
    done(0, "tag", "first", "cs")
    done(0, "eval", "--base", BASE)
    for name, held_out in (("held-out", "0.25"), ("chess", "0")):
        with interrupted(Path(STORE), after=6):
            trained("chess", "--name", name, "--rank", "2", "--epochs", "8", "--guard", "0.2",
                    "--validation", held_out, "--dropout", "0.1", "--lora-plus-ratio", "2",
                    *PASSES, exits=130)  # fmt: skip
    shutil.rmtree(Path(STORE) / ".tmp", ignore_errors=True)  # git keeps no empty folders


@contextlib.contextmanager
def interrupted(store: Path, *, after: int) -> Iterator[None]:
    """Send this process SIGINT, as Ctrl-C does, when a new run has taken some steps."""
    before = set(store.glob("runs/*"))
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            for run_folder in set(store.glob("runs/*")) - before:
                place = run_folder / "metrics.jsonl"
                if place.exists() and place.read_bytes().count(b"\n") >= after:
                    os.kill(os.getpid(), signal.SIGINT)
                    return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def record(call: Call, out: Path) -> None:
    """Run every scenario and write down what it did."""
    from safetensors.numpy import save

    os.chdir(TRAINED)
    out.mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    weights: dict[str, np.ndarray] = {}
    for scenario in SCENARIOS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(scenario, call, Path(folder))
        write_json(out / f"{scenario}.json", outcome.outputs)
        for name, found in outcome.adapters.items():
            hashes[f"{scenario}/{name}"] = outcome.hashes[name]
            weights |= {f"{scenario}/{name}/{tensor}": value for tensor, value in found.items()}
        print(f"{scenario}: {time.monotonic() - began:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        weights["logits"] = chain_logits(Path(folder), call)
    (out / "arrays.safetensors").write_bytes(save(weights))
    write_json(out / "machine.json", {"arithmetic": arithmetic(), "adapters": hashes})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["store", "record"])
    parser.add_argument("folder", type=Path)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, machine(Path(scratch)) as command_line:
        make = make_store if wanted.what == "store" else record
        make(command_line, wanted.folder.resolve())
