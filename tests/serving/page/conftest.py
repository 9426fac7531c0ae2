"""A browser for all tests of the page, and for each a page of its own on a server of its own."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from helpers.page_server import FakeServer, Reply
from helpers.page_stories import Story, running


@dataclass(kw_only=True)
class Visit:
    """A browser's page on a server.

    Attributes:
        page: Playwright's.
        server: Whose page it is.
        elsewhere: Requests to any other address; there must be none.
        complaints: What the browser had to say: errors, violations of the policy.
    """

    page: Any
    server: FakeServer
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, view: str = "chat", *, token: str | None = None) -> None:
        """Open a view, or a view with the link that the terminal prints."""
        self.page.goto(f"{self.server.url}/" + (f"#token={token}" if token else f"#{view}"))
        if token and view != "chat":
            self.page.click(f"nav a[href='#{view}']")

    def ask(self, question: str, answers: int = 1) -> None:
        """Ask in the chat, and wait until there are so many whole answers."""
        self.send(question)
        self.settled(answers)

    def send(self, question: str, *, until_writing: bool = False) -> None:
        """Ask in the chat; wait, if told, until the answer has begun."""
        self.page.fill("#chat-question", question)
        self.page.press("#chat-question", "Enter")
        if until_writing:
            self.page.wait_for_selector(".answer[data-state=writing] .prose p")

    def roll_back(self) -> None:
        """Roll back from the lineage view, and confirm it."""
        self.page.click(".now button")
        self.page.click("#confirm-action")

    def enter_token(self, token: str) -> None:
        """Wait until the token is asked for, and give it."""
        self.page.wait_for_selector("#token[open]")
        self.page.fill("#token-field", token)
        self.page.press("#token-field", "Enter")

    def settled(self, answers: int) -> None:
        """Wait until so many answers are no longer on their way."""
        self.page.wait_for_function(
            "n => document.querySelectorAll('.answer[aria-busy=false]').length === n", arg=answers
        )

    def until(self, condition: str) -> None:
        """Wait until an expression is true; the page's policy lets no string be run later."""
        self.page.wait_for_function(f"() => {condition}")

    def eventually(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened on the server's side, while the page goes on."""
        deadline = time.monotonic() + 15
        while not happened():
            assert time.monotonic() < deadline, "it did not happen within 15 s"
            self.page.wait_for_timeout(20)

    def focused(self) -> str:
        """Return the id, or else the text, of what has the focus."""
        return self.page.evaluate(
            "() => document.activeElement.id || document.activeElement.textContent.trim()"
        )


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium: `apt-get install chromium` lets the page be tested")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Visit]]:
    """Open a page: `reply` by model and messages, `story`, `guarded`, and what a context takes."""
    opened: list[tuple[Visit, Any]] = []

    def opening(
        reply: Callable[..., Reply] | Reply = Reply(text="Yes."),  # noqa: B008 - it is frozen
        *,
        story: Story | None = None,
        guarded: bool = False,
        **context: Any,
    ) -> Visit:
        server = FakeServer(
            story=story or Story(training=running()),
            reply=reply if callable(reply) else lambda *_: reply,
            guarded=guarded,
        ).__enter__()
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(15_000)
        visit = Visit(page=page, server=server)
        _listen(visit)
        opened.append((visit, page.context))
        return visit

    yield opening
    for visit, context in opened:
        context.close()
        visit.server.__exit__()
    for visit, _ in opened:
        assert visit.elsewhere == []
        assert visit.complaints == []


def _listen(visit: Visit) -> None:
    def requested(request: Any) -> None:
        if not request.url.startswith((f"{visit.server.url}/", "data:,")):
            visit.elsewhere.append(request.url)

    def said(message: Any) -> None:
        expected = "the server responded with a status of"  # the browser's own line of a refusal
        if message.type in ("error", "warning") and expected not in message.text:
            visit.complaints.append(message.text)

    visit.page.context.on("request", requested)
    visit.page.on("console", said)
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
