import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mlx_tune.cli import main
from mlx_tune.errors import InputError

COMMANDS = ("train", "plan", "resume", "chat", "eval", "log", "show", "diff", "rollback", "promote",
            "tag", "rm", "gc", "verify", "fuse", "doctor", "base")  # fmt: skip

ROOT = Path(__file__).parents[2]


def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlx_tune.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_lists_every_command():
    done = run("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_the_package_runs_as_the_command():
    command = [sys.executable, "-m", "mlx_tune"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, run("--help").stdout)
    done = subprocess.run([*command, "tain"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: No such command 'tain'")


def test_importing_what_runs_the_package_runs_and_loads_nothing():
    probe = "import sys, mlx_tune.__main__; print('mlx_tune.cli' in sys.modules)"
    command = [sys.executable, "-c", probe]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, mlx_tune_command):
    code, out, _ = mlx_tune_command(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: mlx-tune {name} ")


def test_neither_the_package_nor_help_loads_mlx_or_transformers():
    probe = (
        "import sys, mlx_tune\nfrom mlx_tune.cli import main\n"
        "sys.argv = ['mlx-tune', 'train', '--help']\n"
        "try:\n    main.run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_command_of_the_store_loads_mlx_or_transformers(store):
    """They are what is left when an installation is broken."""
    probe = (
        "import sys\nfrom mlx_tune.cli import main\n"
        "for words in (['log'], ['verify'], ['tag', 'best'], ['rm', 'dining'], ['gc']):\n"
        "    sys.argv = ['mlx-tune', *words]\n"
        "    try:\n        main.run()\n"
        "    except SystemExit as end:\n        assert end.code == 0\n"
        "    heavy = {'mlx', 'mlx_lm', 'transformers', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [(), ("base",)])
def test_nothing_asked_shows_help_and_is_a_usage_error(mlx_tune_command, words):
    code, out, error = mlx_tune_command(*words)
    assert (code, out) == (2, "")
    assert error.startswith(f"Usage: {' '.join(('mlx-tune', *words))} [OPTIONS] COMMAND")


def test_an_unknown_command_and_an_unknown_option_are_usage_errors(mlx_tune_command):
    code, _, error = mlx_tune_command("trian")
    assert (code, error.splitlines()[0].startswith("error: No such command 'trian'")) == (2, True)
    code, _, error = mlx_tune_command("log", "--jsn")
    assert code == 2
    assert error.startswith("error: No such option: --jsn")


def test_the_version_is_the_packages(mlx_tune_command):
    import mlx_tune

    assert mlx_tune_command("--version") == (0, f"{mlx_tune.__version__}\n", "")


def raising(monkeypatch, error: BaseException):
    def boom(words):
        raise error

    monkeypatch.setattr(main, "_call", boom)


def test_an_error_is_printed_after_error_and_ends_with_its_code(monkeypatch, mlx_tune_command):
    raising(monkeypatch, InputError("a.json:1: first\na.json:2: second"))
    code, out, error = mlx_tune_command("log")
    assert (code, out) == (3, "")
    assert error == "error: a.json:1: first\n       a.json:2: second\n"


def test_debug_anywhere_shows_the_traceback(monkeypatch, mlx_tune_command):
    raising(monkeypatch, InputError("x"))
    with pytest.raises(InputError):
        mlx_tune_command("log", "--debug")


def test_ctrl_c_ends_with_130(monkeypatch, mlx_tune_command):
    raising(monkeypatch, KeyboardInterrupt())
    assert mlx_tune_command("log")[0] == 130


def test_sigterm_ends_with_143(monkeypatch, mlx_tune_command):
    monkeypatch.setattr(main, "_call", lambda words: os.kill(os.getpid(), signal.SIGTERM))
    assert mlx_tune_command("log")[0] == 143


def test_a_reader_that_left_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)  # whoever wrote `| head` is gone before the first line
    command = [sys.executable, "-u", "-m", "mlx_tune.cli.main", "base", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_fault_of_ours_is_one_line_too(monkeypatch, mlx_tune_command):
    raising(monkeypatch, TypeError("no\nsuch thing"))
    assert mlx_tune_command("log") == (
        1,
        "",
        "error: internal error (TypeError: no such thing); --debug shows the traceback\n",
    )


def test_what_the_system_refuses_is_a_disk_error(monkeypatch, mlx_tune_command):
    raising(monkeypatch, PermissionError(13, "Permission denied"))
    code, _, error = mlx_tune_command("log")
    assert code == 7
    assert error.startswith("error: operating system error (PermissionError: [Errno 13]")


def test_a_terminal_without_our_signs_gets_others(tmp_path):
    done = run("base", "list", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "? is on this machine." in done.stdout


def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_pages_are_current():
    for name, text in reference().pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run `make docs`"


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in typer.main.get_command(main.app).commands:
        assert f"`{name}" in readme, name
