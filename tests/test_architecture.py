"""docs/architecture.md says only what is true of the code: its paths, stories and import rules."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mlx_tune"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def section(heading: str) -> str:
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    assert found, heading
    return found[1]


def story(heading: str) -> list[Path]:
    return [
        PACKAGE / name for name in re.findall(r"^\d+\. `([^`]+)`", section(heading), re.MULTILINE)
    ]


def imported(file: Path) -> set[str]:
    """Return the names of the modules that a file imports, within functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def reached(file: Path) -> set[str]:
    """Return the same, with what a room hands on under its own name."""
    names = imported(file)
    rooms = [ROOT / name.replace(".", "/") / "__init__.py" for name in names]
    return names.union(*(imported(one) for one in rooms if one.exists() and one.parent != PACKAGE))


def room(name: str) -> list[Path]:
    folder = PACKAGE / name
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def rules() -> list[tuple[str, list[str]]]:
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| ([^|]+) \|$", section("Rooms, from the top"), re.MULTILINE
    )
    return [(name, re.findall(r"`([^`]+)`", never)) for name, never in rows]


def test_every_path_on_the_page_exists():
    paths = re.findall(r"`((?:[\w.]+/)+[\w.]*)`", PAGE)
    assert len(paths) > 40
    places = [(PACKAGE / path, ROOT / path, PACKAGE / "serving" / path) for path in paths]
    assert [
        p for p, found in zip(paths, places, strict=True) if not any(map(Path.exists, found))
    ] == []


def test_files_that_the_page_names_by_their_name_alone_exist():
    names = set(re.findall(r"`(\w+\.py)`", PAGE))
    assert names >= {"settings.py", "sizing.py"}
    assert [name for name in names if not (PACKAGE / name).exists()] == []


@pytest.mark.parametrize(
    ("heading", "most"),
    [("One training, in eight files", 8), ("One chat request, in ten files", 10)],
)
def test_a_story_is_as_short_as_it_says_and_each_file_of_it_is_used_by_another(heading, most):
    files = story(heading)
    assert len(files) == most
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    assert all(file.exists() for file in files)
    used = {m for file in files for m in modules if m in reached(file)}
    # The transport is given an application, and the guard is put before it: by `app`.
    used |= {m for m in modules if m in imported(PACKAGE / "serving" / "app.py")}
    first = next(iter(modules))
    assert set(modules) - used <= {first}


def test_the_layers_are_those_of_the_import_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    listed = section("Rooms, from the top").split("```")[1].split("\n")[1:-1]
    assert listed == [layer.replace("mlx_tune.", "") for layer in layers]


def test_every_room_has_a_rule_and_every_module_a_room():
    layers = section("Rooms, from the top").split("```")[1]
    rooms = set(re.findall(r"\w+", layers))
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "blas"}
    assert folders | files == rooms
    assert folders <= {name for name, _ in rules()}


@pytest.mark.parametrize(("name", "never"), rules())
def test_a_room_never_imports_what_the_page_says(name, never):
    assert never
    found = {
        (file.name, one)
        for file in room(name)
        for one in imported(file)
        if any(one == module or one.startswith(f"{module}.") for module in never)
    }
    assert found == set()


@pytest.mark.parametrize("page", ["docs/safety.md", "docs/security.md", "CONTRIBUTING.md"])
def test_every_test_that_a_page_names_exists(page):
    paths = re.findall(r"`(tests/[\w./-]*)`", (ROOT / page).read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
