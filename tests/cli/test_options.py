"""Flags made from the settings table, and names of earlier versions."""

import pytest
import typer

from mlx_tune.cli import main, options
from mlx_tune.settings import FIELDS, REMOVED, RENAMED


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
