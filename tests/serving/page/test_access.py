"""Everybody can use every view: no mouse, a screen reader, a phone, light or dark."""

from pathlib import Path

import pytest

from helpers.page_server import Reply
from helpers.page_stories import Story

pytestmark = pytest.mark.slow

AXE = Path(__file__).parents[3] / ".venv" / "node_modules" / "axe-core" / "axe.min.js"
VIEWS = ["chat", "compare", "lineage", "retention", "training"]
ANSWER = """# Title

A **bold** word, `code`, a [link](https://a.example/) and https://b.example/.

> quoted

| a | b |
|---|---:|
| https://c.example/a/very/long/address/that/does/not/fit/on/a/phone/at/all?really=no | 2 |

```
a line of code that is so long that it has to be scrolled sideways, on a phone at the very least
```
"""


def fill(visit, view):
    visit.until("document.querySelector('#chat-model').options.length > 0")
    if view in ("chat", "compare"):
        visit.page.fill(f"#{view}-question", "What is at https://example.com/" + "long_" * 30 + "?")
        visit.page.press(f"#{view}-question", "Enter")
        visit.settled(1 if view == "chat" else 2)
    visit.page.wait_for_selector(
        {"lineage": ".card", "retention": ".heat", "training": ".chart"}.get(view, ".answer")
    )


def problems(visit):
    if not AXE.exists():
        pytest.skip("no axe-core: `npm install --prefix .venv --no-save axe-core` brings it")
    visit.page.evaluate(AXE.read_text(encoding="utf-8") + "\n0")
    found = visit.page.evaluate("axe.run()")
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(open_page, view, scheme):
    visit = open_page(Reply(text=ANSWER, whole=True), color_scheme=scheme)
    visit.go(view)
    fill(visit, view)
    assert problems(visit) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["empty", "confirm", "token", "failed", "settings", "nothing"])
def test_axe_finds_nothing_in_what_is_seen_less_often(open_page, state, scheme):
    story = Story(head=None, sessions=False) if state == "nothing" else None
    reply = Reply(text="Half", failure="it failed") if state == "failed" else Reply(text="Yes.")
    visit = open_page(reply, story=story, guarded=state == "token", color_scheme=scheme)
    views = {"confirm": "lineage", "nothing": "retention"}
    visit.go(views.get(state, "chat"))
    if state == "confirm":
        visit.page.click(".now button")
    elif state == "token":
        visit.page.wait_for_selector("#token[open]")
    elif state == "failed":
        visit.ask("Why?")
    elif state == "settings":
        visit.page.click("summary")
    visit.page.wait_for_timeout(200)
    assert problems(visit) == []


@pytest.mark.parametrize("view", VIEWS)
def test_on_a_phone_nothing_is_wider_than_the_screen(open_page, view):
    visit = open_page(
        Reply(text=ANSWER, whole=True), viewport={"width": 360, "height": 640}, has_touch=True
    )
    visit.go(view)
    fill(visit, view)
    widest = visit.page.evaluate("document.documentElement.scrollWidth")
    assert widest <= 360
    for control in visit.page.locator("button:visible, select:visible, nav a:visible").all():
        box = control.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["height"] >= 24  # WCAG 2.2, 2.5.8


def test_the_settings_fit_on_a_phone_and_go_when_they_are_left(open_page):
    visit = open_page(viewport={"width": 360, "height": 640})
    visit.go()
    sheet = visit.page.locator(".sheet")
    visit.page.click("summary")
    box = sheet.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    visit.page.press("#temperature", "Escape")
    assert not sheet.is_visible()
    visit.page.click("summary")
    visit.page.click("#chat-question")
    assert not sheet.is_visible()


def test_on_a_phone_the_conversations_unfold(open_page):
    visit = open_page(viewport={"width": 360, "height": 640})
    visit.go()
    visit.ask("Alpha?")
    assert not visit.page.is_visible("#history")
    visit.page.click("#history-toggle")
    assert visit.page.get_attribute("#history-toggle", "aria-expanded") == "true"
    visit.page.click("#history-list .open")
    assert not visit.page.is_visible("#history")
    assert visit.page.inner_text(".prose") == "Yes."


def test_the_keyboard_alone_is_enough(open_page):
    visit = open_page(Reply(text="Yes, https://a.example/."), reduced_motion="reduce")
    visit.go()
    visit.until("document.querySelector('#chat-model').options.length > 0")
    press = visit.page.keyboard.press

    press("Tab")
    assert visit.focused() == "skip"
    assert visit.page.locator("#skip").bounding_box()["y"] >= 0
    press("Enter")
    assert visit.focused() == "main"
    tab_to(visit, "chat-question")
    visit.page.keyboard.type("Is it?")
    press("Shift+Enter")
    visit.page.keyboard.type("Really?")
    press("Enter")
    visit.settled(1)
    assert visit.page.inner_text(".question") == "Is it?\nReally?"
    assert visit.focused() == "chat-question"

    press("Shift+Tab")
    assert visit.focused() == "Retry"
    press("Enter")
    visit.until("document.activeElement.id === 'chat-question'")
    visit.settled(1)

    visit.page.evaluate("document.activeElement.blur()")
    tab_to(visit, "Lineage")
    press("Enter")
    visit.page.wait_for_selector(".card")
    assert visit.focused() == "main"
    tab_to(visit, "Roll back to 2 housing")
    press("Enter")
    assert visit.focused() == "Cancel"
    press("Enter")
    assert not visit.page.is_visible("#confirm")
    assert visit.focused() == "Roll back to 2 housing"


def tab_to(visit, name):
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        if visit.focused() == name:
            return
    raise AssertionError(f"Tab never came to {name!r}")


@pytest.mark.parametrize("view", VIEWS)
def test_whatever_has_the_focus_shows_it(open_page, view):
    visit = open_page(Reply(text=ANSWER, whole=True))
    visit.go(view)
    fill(visit, view)
    visit.page.focus("#skip")
    seen = set()
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        shown = visit.page.evaluate(
            """() => {
              const it = document.activeElement;
              const drawn = (e) => e && getComputedStyle(e).outlineStyle !== "none";
              return [it.outerHTML.slice(0, 80), drawn(it) || drawn(it.closest(".composer"))];
            }"""
        )
        if shown[0].startswith("<body"):
            break  # from there it leaves the page
        seen.add(tuple(shown))
    assert len(seen) >= 6
    assert [html for html, drawn in seen if not drawn] == []


def test_an_answer_is_spoken_once_when_it_is_whole(open_page):
    visit = open_page(Reply(text="A **short** answer."))
    visit.go()
    spoken = visit.page.locator("#spoken")
    assert spoken.get_attribute("aria-live") == "polite"
    visit.page.evaluate(
        """() => {
          window.said = [];
          new MutationObserver(() => said.push(document.querySelector("#spoken").textContent))
            .observe(document.querySelector("#spoken"), { childList: true });
        }"""
    )
    visit.ask("Why?")
    visit.until("said.length")
    assert visit.page.evaluate("said") == ["3 tokens A short answer."]


def test_the_colours_follow_the_system_until_they_are_chosen(open_page):
    visit = open_page(color_scheme="dark")
    visit.go()
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = visit.page.evaluate(ground)
    visit.page.click("#theme")
    light = visit.page.evaluate(ground)
    assert light != dark
    assert visit.page.get_attribute("#theme", "aria-label") == "Colours: light. Change"
    visit.page.reload()
    assert visit.page.evaluate(ground) == light
    visit.page.click("#theme")
    assert visit.page.evaluate(ground) == dark
