"""Flags made from the settings table, names of earlier versions, and completion in a shell."""

import shutil
import subprocess
import sys

import pytest
import typer

from mlx_tune.cli import main, options
from mlx_tune.settings import FIELDS, REMOVED, RENAMED
from mlx_tune.store.labels import tag


@pytest.fixture
def flags_of(monkeypatch, mlx_tune_command):
    """Call a command of settings; gives (exit code, what it got or printed, stderr)."""

    def call(*words, renamed=RENAMED):
        monkeypatch.setattr(options, "RENAMED", renamed)
        got = {}

        @options.with_settings
        def train(data: options.DataArgument, *, json: options.JsonOption = False, flags: dict):
            """Teach."""
            got.update(flags, data=data, json=json)

        app = typer.Typer(rich_markup_mode=None)
        app.command()(train)
        monkeypatch.setattr(main, "app", app)
        code, out, error = mlx_tune_command(*words)
        return code, out or got, error

    return call


def test_a_command_gets_its_own_arguments_and_every_setting(flags_of):
    code, got, _ = flags_of("a.json", "--rank", 4, "--no-rslora", "--json")
    assert code == 0
    assert [str(path) for path in got.pop("data")] == ["a.json"]
    assert got.pop("json") is True
    assert got.keys() == FIELDS.keys()
    assert {name: value for name, value in got.items() if value is not None} == {
        "rank": 4, "rslora": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.json", "--guard", 0.3), "--guard is now --general-replay"),
        (("a.json", "--guard=much"), "--guard is now --general-replay"),
        (("--guard", 0.3), "--guard is now --general-replay"),  # told before a missing DATA
        (("a.json", "--rs"), "--rs is now --rslora"),
        (("a.json", "--dora"), f"--dora: {REMOVED['dora']}"),
        (("a.json", "--no-dora"), f"--dora: {REMOVED['dora']}"),
    ],
)
def test_a_setting_of_an_earlier_version_is_answered_with_what_became_of_it(
    flags_of, words, message
):
    assert flags_of(*words, renamed=RENAMED | {"rs": "rslora"}) == (2, {}, f"error: {message}\n")


def test_settings_of_earlier_versions_are_not_listed(flags_of):
    _, out, _ = flags_of("--help")
    assert "--general-replay" in out
    assert "--guard" not in out
    assert "--dora" not in out


def test_a_mistyped_setting_names_the_nearest(flags_of):
    code, _, error = flags_of("a.json", "--genral-replay", 0.3)
    assert (code, error.startswith("error: No such option: --genral-replay")) == (2, True)
    assert "--general-replay" in error


@pytest.fixture
def completed(store, mlx_tune_command, monkeypatch):
    """Complete a line as bash asks for it; gives what it would offer."""
    tag(store, "best", store.snapshot().find("cs"))

    def call(line: str) -> list[str]:
        monkeypatch.setenv("_MLX_TUNE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"mlx-tune {line}")
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
        code, out, error = mlx_tune_command()
        assert (code, error) == (0, "")
        return out.split()

    return call


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ro", ["rollback"]),
        ("base ", ["list", "pull", "convert", "show"]),
        ("train a.json --rank 4 --gr", ["--grad-accumulation"]),
        ("train --debug --ra", ["--rank"]),
        ("--version lo", ["log"]),
        ("train --method s", ["seed", "self-distill", "synthetic", "soup"]),
        ("train a", []),  # the shell goes on with files
        ("chat --session h", ["housing"]),
        ("show b", ["best", "base"]),
        ("diff best H", ["HEAD"]),
        ("log --store nowhere --to b", []),
        ("rollback --store nowhere --to ", ["HEAD", "base"]),
    ],
)
def test_commands_options_and_sessions_are_completed(completed, line, offered):
    assert completed(line) == offered


@pytest.mark.parametrize("root", ["adapters", "adapters/HEAD"])
def test_a_store_that_cannot_be_read_offers_nothing_and_prints_nothing(completed, store, root):
    (store.root / "format.json").write_text("{")
    assert completed(f"rollback --store {root} --to ") == []


def test_a_setting_of_an_earlier_version_does_not_end_a_completion(flags_of, monkeypatch):
    monkeypatch.setenv("_MLX_TUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "mlx-tune a.json --guard 0.3 --ra")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert flags_of() == (0, "--rank\n", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_script_that_is_shown(store, tmp_path, monkeypatch):
    command = tmp_path / "bin" / "mlx-tune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlx_tune.cli.main "$@"\n')
    command.chmod(0o755)
    script = (
        'PATH="$PWD/bin:$PATH"\n'
        "source <(mlx-tune --show-completion)\n"
        "complete -p mlx-tune\n"
        'COMP_WORDS=(mlx-tune rollback --to "h")\n'
        "COMP_CWORD=3\n"
        "_mlx_tune_completion mlx-tune\n"
        'echo "${COMPREPLY[*]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc"], input=script, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "complete -o default -F _mlx_tune_completion mlx-tune",
        "housing",
    ]
