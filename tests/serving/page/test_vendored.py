"""The two libraries of the page are those of the registry, byte for byte, with their licences."""

import hashlib
import re
from pathlib import Path

import mlx_tune

PAGE = Path(mlx_tune.__file__).parent / "serving" / "page"
VENDOR = PAGE / "vendor"
ROW = re.compile(r"^\| `(?P<file>[^`]+)` \|.*\| `(?P<sha256>[0-9a-f]{64})` \|$", re.MULTILINE)


def test_every_vendored_file_has_the_hash_that_is_written_down():
    told = {row["file"]: row["sha256"] for row in ROW.finditer((VENDOR / "README.md").read_text())}
    there = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert told == there


def test_the_page_refers_to_nothing_outside_itself():
    for path in PAGE.iterdir():
        if path.is_file():
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"(src|href|url\(|import|from)[ =(]*[\"'(](https?:)?//", text), (
                path
            )


def test_the_page_has_no_inline_script_or_style():
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", text)


def test_every_file_a_module_imports_is_there():
    for path in PAGE.glob("*.js"):
        for name in re.findall(r'(?:from|import) "(\./[^"]+)"', path.read_text(encoding="utf-8")):
            assert (PAGE / name).is_file(), f"{path.name} imports {name}"
