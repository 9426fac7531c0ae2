"""Takes pictures of every view of the page, light and dark, into docs/pictures.

Without an address it shows a made-up lineage (tests/serving/stories.py); with one, such as
`python scripts/screenshots.py http://127.0.0.1:8321`, what is really there.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDE, PHONE = {"width": 1200, "height": 780}, {"width": 360, "height": 740}
LONG = {"lineage", "retention"}
QUESTION = "When is the dining hall open, and where do I see the menu?"
EARLIER = ("Who advises first-year students?", "How do I book a laundry slot?")
ANSWER = """The **North Dining Hall** is open every day of the term:

| meal | weekdays | weekend |
|---|---|---|
| breakfast | 7:30–10:00 | 8:30–10:30 |
| dinner | 17:00–20:30 | 17:00–19:30 |

The menu of the week is at https://dining.example.edu/menu?week=47#north. Guests are welcome:

- a day card is sold at the door (https://dining.example.edu/~cards/day_(guest)),
- groups of ten or more write to the office first."""
PLAIN = "I am not sure which dining hall you mean, but most are open for lunch and dinner."


def chat(page: Page) -> None:
    """Ask a question, and wait for its answer."""
    _ask(page, "#chat-question", QUESTION, answers=1)


def compare(page: Page) -> None:
    """Ask two models the same."""
    _ask(page, "#compare-question", QUESTION, answers=2)


def confirm(page: Page) -> None:
    """Begin to roll back."""
    page.locator(".now button").click()


def look(page: Page) -> None:
    """Let what is there be drawn."""
    page.wait_for_timeout(400)


def history(page: Page) -> None:
    """Fill the list of conversations."""
    for question in EARLIER:
        _ask(page, "#chat-question", question, answers=1)
        page.evaluate("document.querySelector('#chat-new').click()")
    chat(page)


VIEWS: dict[str, tuple[str, Callable[[Page], None]]] = {
    "chat": ("chat", history),
    "compare": ("compare", compare),
    "lineage": ("lineage", look),
    "rollback": ("lineage", confirm),
    "retention": ("retention", look),
    "training": ("training", look),
}


def main(address: str | None) -> None:
    """Take every picture."""
    with _served(address) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme in ("light", "dark"):
            for name in VIEWS:
                _take(browser, url, name, scheme, WIDE, f"{name}-{scheme}")
            for name in ("chat", "lineage", "retention"):
                _take(browser, url, name, scheme, PHONE, f"{name}-phone-{scheme}")
        browser.close()


def _take(
    browser: Browser, url: str, name: str, scheme: str, size: dict[str, int], file: str
) -> None:
    view, prepare = VIEWS[name]
    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{url}/#{view}")
    page.wait_for_function("document.querySelector('#chat-model').options.length > 0")
    look(page)
    prepare(page)
    look(page)
    page.screenshot(path=PICTURES / f"{file}.png", full_page=name in LONG)
    page.context.close()


def _ask(page: Page, field: str, question: str, answers: int) -> None:
    page.fill(field, question)
    page.press(field, "Enter")
    page.wait_for_function(
        "n => document.querySelectorAll('.answer[data-state=done]').length === n", arg=answers
    )
    page.evaluate("scrollTo(0, 0)")


@contextmanager
def _served(address: str | None) -> Iterator[str]:
    if address:
        yield address.rstrip("/")
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from serving.fake_server import FakeServer, Reply
    from serving.stories import Story, running

    def reply(model: str, _: object) -> Reply:
        return Reply(text=PLAIN if model == "base" else ANSWER, whole=True)

    with FakeServer(story=Story(training=running()), reply=reply) as server:
        yield server.url


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
