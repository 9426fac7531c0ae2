"""Takes pictures of every view of the page, light and dark, into docs/pictures.

mlx-tune serve --store adapters
python scripts/screenshots.py http://127.0.0.1:8321 'ONE?' 'ANOTHER?' 'THE ONE THAT IS SHOWN?'
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDE, PHONE = {"width": 1200, "height": 780}, {"width": 360, "height": 740}
LONG = {"lineage", "retention"}
ANSWER_MS = 120_000


def chat(page: Page, questions: Sequence[str]) -> None:
    """Ask each question in a conversation of its own; the last one stays on the page."""
    *earlier, shown = questions
    for question in earlier:
        _ask(page, "#chat-question", question, answers=1)
        page.evaluate("document.querySelector('#chat-new').click()")
    _ask(page, "#chat-question", shown, answers=1)


def compare(page: Page, questions: Sequence[str]) -> None:
    """Ask two models the same."""
    _ask(page, "#compare-question", questions[-1], answers=2)


def confirm(page: Page, _: Sequence[str]) -> None:
    """Begin to roll back."""
    page.locator(".now button").click()


def look(page: Page, _: Sequence[str] = ()) -> None:
    """Let what is there be drawn."""
    page.wait_for_timeout(400)


VIEWS: dict[str, tuple[str, Callable[[Page, Sequence[str]], None]]] = {
    "chat": ("chat", chat),
    "compare": ("compare", compare),
    "lineage": ("lineage", look),
    "rollback": ("lineage", confirm),
    "retention": ("retention", look),
    "training": ("training", look),
}


def main(address: str, questions: Sequence[str]) -> None:
    """Take every picture of a server that runs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme in ("light", "dark"):
            for view in VIEWS:
                _take(browser, address, view, questions, scheme, WIDE, f"{view}-{scheme}")
            for view in ("chat", "lineage", "retention"):
                _take(browser, address, view, questions, scheme, PHONE, f"{view}-phone-{scheme}")
        browser.close()


def _take(
    browser: Browser,
    address: str,
    name: str,
    questions: Sequence[str],
    scheme: str,
    size: dict[str, int],
    file: str,
) -> None:
    view, prepare = VIEWS[name]
    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{address.rstrip('/')}/#{view}")
    page.locator("#chat-model option").first.wait_for(state="attached")
    look(page)
    prepare(page, questions)
    look(page)
    page.screenshot(path=PICTURES / f"{file}.png", full_page=name in LONG)
    page.context.close()


def _ask(page: Page, field: str, question: str, answers: int) -> None:
    page.fill(field, question)
    page.press(field, "Enter")
    done = page.locator(".answer[data-state=done]")
    expect(done).to_have_count(answers, timeout=ANSWER_MS)
    page.evaluate("scrollTo(0, 0)")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python scripts/screenshots.py ADDRESS QUESTION…")
    main(sys.argv[1], sys.argv[2:])
