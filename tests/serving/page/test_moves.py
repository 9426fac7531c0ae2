"""Roll back and promote ask first and bring the token; the views tell what the server tells."""

import pytest

from helpers.page_server import TOKEN
from helpers.page_stories import CS, DINING, HOUSING, LIBRARY, Story, running

pytestmark = pytest.mark.slow


def moves(visit):
    return [call for call in visit.server.calls if call.method == "POST"]


def test_a_roll_back_asks_and_then_sends_the_token(open_page):
    visit = open_page()
    visit.go("lineage", token=TOKEN)
    assert "token" not in visit.page.url
    visit.page.click(".now button")
    dialog = visit.page.locator("#confirm")
    assert dialog.locator("h2").inner_text() == "Roll back to 2 housing?"
    assert visit.focused() == "Cancel"
    visit.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert moves(visit) == []
    visit.roll_back()
    visit.until("document.querySelector('.now').innerText.includes('In use: 2 housing')")
    (call,) = moves(visit)
    assert (call.path, call.token, call.body) == ("/api/rollback", TOKEN, {"to": HOUSING})
    assert visit.focused() == "lineage-now"
    visit.until("document.querySelector('#chat-model option').textContent.includes('2 housing')")


def test_a_roll_back_goes_to_a_session_or_to_the_bare_base(open_page):
    visit = open_page()
    visit.go("lineage", token=TOKEN)
    for name, expected in (("Roll back to this: 1 cs", CS), ("Roll back to the base", None)):
        visit.page.get_by_role("button", name=name).last.click()
        visit.page.click("#confirm-action")
        visit.page.wait_for_selector("#lineage-now:focus")
        assert moves(visit)[-1].body == {"to": expected}
        visit.page.locator("#skip").focus()
    assert visit.page.inner_text(".now") == "In use: the base model, smollm2-135m"


def test_promoting_what_the_gate_refused_says_why_it_did(open_page):
    visit = open_page()
    visit.go("lineage", token=TOKEN)
    visit.page.get_by_role("button", name="Promote 3 library").click()
    assert "1 cs fell from 92 % to 61 %" in visit.page.inner_text("#confirm")
    visit.page.click("#confirm-action")
    visit.until("document.querySelector('.now').innerText.includes('In use: 3 library')")
    (call,) = moves(visit)
    assert (call.path, call.token, call.body) == ("/api/promote", TOKEN, {"session": LIBRARY})


def test_without_a_token_it_is_asked_for_and_a_wrong_one_is_told(open_page):
    visit = open_page()
    visit.go("lineage")
    visit.roll_back()
    visit.page.wait_for_selector("#token[open]")
    assert visit.focused() == "token-field"
    assert not visit.page.is_visible("#token-refused")
    visit.page.fill("#token-field", "wrong")
    visit.page.press("#token-field", "Enter")
    visit.page.wait_for_selector("#token-refused", state="visible")
    assert visit.server.story.head == DINING
    visit.page.fill("#token-field", TOKEN)
    visit.page.click("#token-use")
    visit.until("document.querySelector('.now').innerText.includes('In use: 2 housing')")
    assert [call.token for call in moves(visit)] == [None, "wrong", TOKEN]


def test_giving_no_token_changes_nothing_and_says_so(open_page):
    visit = open_page()
    visit.go("lineage")
    visit.roll_back()
    visit.page.wait_for_selector("#token[open]")
    visit.page.click("#token-cancel")
    visit.page.wait_for_selector("#notice", state="visible")
    assert "token" in visit.page.inner_text("#notice")
    assert visit.server.story.head == DINING


def test_a_server_that_guards_everything_asks_once_for_all_calls(open_page):
    visit = open_page(guarded=True)
    visit.go("lineage")
    visit.enter_token(TOKEN)
    visit.page.wait_for_selector(".card")
    visit.until("document.querySelector('#chat-model').options.length > 0")
    assert not visit.page.is_visible("#token")
    visit.page.reload()  # this tab remembers it
    visit.page.wait_for_selector(".card")
    assert not visit.page.is_visible("#token")


def test_a_call_refused_after_the_token_was_given_does_not_ask_again(open_page):
    visit = open_page(guarded=True)
    held = []
    visit.page.route(
        "**/v1/models", lambda route: route.continue_() if held else held.append(route)
    )
    visit.go("lineage")
    visit.enter_token(TOKEN)
    visit.page.wait_for_selector(".card")
    held[0].continue_()
    visit.until("document.querySelector('#chat-model').options.length > 0")
    assert not visit.page.is_visible("#token")


def test_the_token_of_the_address_goes_with_every_call_and_stays_in_no_address(open_page):
    visit = open_page(guarded=True)
    visit.go(token=TOKEN)
    visit.ask("Why?")
    assert {call.token for call in visit.server.calls} == {TOKEN}
    assert TOKEN not in visit.page.url
    assert TOKEN not in visit.page.evaluate("JSON.stringify(localStorage)")


def test_the_tree_shows_each_session_once_its_branches_and_who_is_in_use(open_page):
    visit = open_page()
    visit.go("lineage")
    visit.page.wait_for_selector(".card")
    headings = visit.page.locator(".card h2").all_inner_texts()
    names = [heading.split("\n")[0] for heading in headings]
    assert names == ["smollm2-135m", "1 cs", "2 housing", "3 library", "4 sports", "3 dining"]
    assert visit.page.locator(".side .card h2").count() == 2
    assert visit.page.locator(".card:has(.badge.head) h2").inner_text().startswith("3 dining")
    known = visit.page.locator(".card", has_text="3 dining").first.inner_text()
    for line in ("right as taught", "100 % of 60", "in other words", "69 % of 64", "confused"):
        assert line in known
    damaged = visit.page.locator(".card", has_text="4 sports")
    assert "MANIFEST.sha256" in damaged.inner_text()
    assert damaged.get_by_role("button").count() == 0


def test_the_heat_map_has_numbers_and_says_what_was_not_measured(open_page):
    visit = open_page()
    visit.go("retention")
    visit.page.wait_for_selector(".heat")
    first = visit.page.locator(".heat").first
    rows = [row.all_text_contents() for row in map(cells, first.locator("tbody tr").all())]
    assert rows == [
        ["base", "2 % of 64", "0 % of 64", "–not measured"],
        ["1 cs", "58 % of 64", "0 % of 64", "0 % of 64"],
        ["2 housing", "52 % of 64", "66 % of 64", "2 % of 64"],
        ["3 dining", "48 % of 64", "56 % of 64", "69 % of 64"],
    ]
    titles = visit.page.locator("#retention-body h2").all_inner_texts()
    assert [title.split(",")[0] for title in titles] == ["Right in other words", "Word for word"]
    measures = visit.page.locator(".measures").all_inner_texts()
    assert ["−9.4 points" in measures[0], "−7.7 points" in measures[1]] == [True, True]
    assert "+0.047 nats" in measures[2]
    visit.page.select_option("#retention-session", CS)
    visit.eventually(lambda: visit.server.calls[-1].path == f"/api/retention?session={CS}")


def cells(row):
    return row.locator("th, td")


def test_a_training_that_learned_all_early_is_whole(open_page):
    training = running(step=150, steps=220)
    training["run"] |= {"state": "finished", "epoch": 15, "epochs": 22, "seconds_left": None}
    visit = open_page(story=Story(training=training))
    visit.go("training")
    visit.until("document.querySelector('#training-body progress')")
    shown = visit.page.inner_text("#training-body")
    assert "Finished" in shown
    assert "150 of 150" in shown
    assert "before the 22 epochs" in shown
    assert visit.page.locator("#training-body progress").evaluate("p => p.value / p.max") == 1


def test_a_training_is_followed_while_it_runs(open_page):
    story = Story(training=running(step=40))
    visit = open_page(story=story)
    visit.go("training")
    visit.page.wait_for_selector(".chart polyline")
    assert "about 3 min 34 s left" in visit.page.inner_text("#training-body")
    assert len(visit.page.get_attribute("polyline", "points").split()) == 40
    story.training = running(step=41)
    visit.until("document.body.innerText.includes('41 of 340')")
    story.training = {"run": None}
    visit.until("document.body.innerText.includes('No training is running')")


def test_a_view_that_is_not_looked_at_asks_for_nothing(open_page):
    visit = open_page()
    visit.go("training")
    visit.page.wait_for_selector(".chart")
    visit.page.click("nav a[href='#chat']")
    visit.page.wait_for_timeout(300)
    before = len(visit.server.calls)
    visit.page.wait_for_timeout(2500)
    assert len(visit.server.calls) == before
