"""The chat and the comparison: streaming, stop, retry, copy, and what the browser keeps."""

import pytest

from helpers.page_server import Reply
from helpers.page_stories import DINING, HOUSING, Story

pytestmark = pytest.mark.slow
LONG = "One sentence and then another. " * 200


def test_an_answer_appears_while_it_is_written(open_page):
    visit = open_page(Reply(text=LONG, pause=0.01))
    visit.go()
    visit.send("Go on", until_writing=True)
    early = visit.page.inner_text(".prose")
    visit.page.wait_for_function(
        "n => document.querySelector('.prose').innerText.length > n", arg=len(early)
    )
    assert LONG.startswith(early.strip())


def test_stop_ends_the_request_and_keeps_what_has_come(open_page):
    visit = open_page(Reply(text=LONG, pause=0.01))
    visit.go()
    visit.send("Go on", until_writing=True)
    visit.page.click("#chat-send")
    visit.settled(1)
    kept = visit.page.inner_text(".prose")
    assert kept
    assert visit.page.inner_text(".answer .note") == "Stopped."
    assert visit.page.inner_text("#chat-send") == "Send"
    visit.eventually(lambda: visit.server.left == 1)
    visit.page.reload()
    assert visit.page.locator("#history-list li").count() == 1
    visit.page.click("#history-list .open")
    assert visit.page.inner_text(".prose") == kept


def test_retry_asks_the_same_again_without_the_answer_that_was(open_page):
    replies = iter([Reply(text="First."), Reply(text="Second.")])
    visit = open_page(lambda *_: next(replies))
    visit.go()
    visit.ask("Why?")
    visit.page.get_by_role("button", name="Retry").click()
    visit.until("document.querySelector('.prose').innerText === 'Second.'")
    asked = [call.body["messages"] for call in visit.server.calls if call.body]
    assert asked == [[{"role": "user", "content": "Why?"}]] * 2
    assert visit.focused() == "chat-question"


def test_an_earlier_question_asked_again_knows_nothing_of_the_later_ones(open_page):
    visit = open_page(Reply(text="Yes."))
    visit.go()
    visit.ask("One?")
    visit.ask("Two?", answers=2)
    visit.page.get_by_role("button", name="Retry").first.click()
    visit.settled(2)
    assert visit.server.calls[-1].body["messages"] == [{"role": "user", "content": "One?"}]


def test_a_question_brings_what_was_said_before(open_page):
    visit = open_page(Reply(text="Yes."))
    visit.go()
    visit.ask("One?")
    visit.ask("Two?", answers=2)
    assert [message["content"] for message in visit.server.calls[-1].body["messages"]] == [
        "One?",
        "Yes.",
        "Two?",
    ]


def test_what_is_asked_is_what_was_chosen(open_page):
    visit = open_page()
    visit.go()
    visit.page.select_option("#chat-model", "base")
    visit.page.click("summary")
    visit.page.fill("#temperature", "0.7")
    visit.page.fill("#max-tokens", "33")
    visit.ask("Why?")
    body = visit.server.calls[-1].body
    assert body.pop("messages")
    assert body == {
        "model": "base",
        "temperature": 0.7,
        "max_tokens": 33,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert visit.page.inner_text(".answer .from") == "base · smollm2-135m"


def test_copy_takes_the_answer_as_it_was_written(open_page):
    visit = open_page(
        Reply(text="**Bold** https://a.example/_x_"),
        permissions=["clipboard-read", "clipboard-write"],
    )
    visit.go()
    visit.ask("Why?")
    visit.page.get_by_role("button", name="Copy").click()
    visit.page.get_by_role("button", name="Copied").wait_for()
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied == "**Bold** https://a.example/_x_"


@pytest.mark.parametrize(
    ("reply", "text", "note"),
    [
        (Reply(text="Half", failure="the engine failed"), "Half", "the engine failed"),
        (Reply(status=429, failure="too many requests wait"), "", "too many requests wait"),
        (Reply(status=400, failure="the prompt is too long"), "", "the prompt is too long"),
        (Reply(text="One two", finish="length"), "One two", "Cut off after 2 tokens"),
        (Reply(), "", "The model said nothing."),
    ],
)
def test_an_answer_that_fails_says_why_and_keeps_its_beginning(open_page, reply, text, note):
    visit = open_page(reply)
    visit.go()
    visit.ask("Why?")
    assert visit.page.inner_text(".prose") == text
    assert note in visit.page.inner_text(".answer .note")
    assert visit.page.get_by_role("button", name="Retry").is_visible()


def test_a_server_that_is_gone_is_told(open_page):
    visit = open_page()
    visit.go()
    visit.until("document.querySelector('#chat-model').options.length > 0")
    visit.server.__exit__()
    visit.ask("Why?")
    assert "does not answer" in visit.page.inner_text(".answer .note")
    visit.complaints.clear()  # the browser says so too


def test_conversations_are_kept_opened_and_deleted(open_page):
    visit = open_page(lambda _, messages: Reply(text=f"On {messages[-1]['content']}"))
    visit.go()
    visit.ask("Alpha?")
    visit.page.click("#chat-new")
    visit.ask("Beta?")
    visit.page.reload()
    titles = visit.page.locator("#history-list .open")
    assert titles.all_inner_texts() == ["Beta?", "Alpha?"]
    titles.nth(1).click()
    assert visit.page.inner_text(".prose") == "On Alpha?"
    visit.page.get_by_role("button", name="Delete “Alpha?”").click()
    assert titles.all_inner_texts() == ["Beta?"]
    assert visit.page.locator(".answer").count() == 0
    visit.page.click("#history-clear")
    visit.page.get_by_role("button", name="Cancel").click()
    assert titles.count() == 1
    visit.page.click("#history-clear")
    visit.page.click("#confirm-action")
    visit.until("document.querySelectorAll('#history-list li').length === 0")
    assert visit.page.evaluate("Object.keys(localStorage).filter(k => k.includes('conv'))") == []


def test_a_conversation_deleted_while_it_is_answered_does_not_come_back(open_page):
    visit = open_page(Reply(text=LONG, pause=0.01))
    visit.go()
    visit.send("Go on", until_writing=True)
    visit.page.click("#history-list .delete")
    visit.page.wait_for_timeout(300)
    assert visit.page.locator("#history-list li").count() == 0
    assert visit.server.left == 1


def test_an_answer_goes_on_while_another_conversation_is_looked_at(open_page):
    visit = open_page(lambda _, m: Reply(text=f"{m[-1]['content']} " * 40, pause=0.01))
    visit.go()
    visit.send("slow", until_writing=True)
    visit.page.click("#chat-new")
    assert visit.page.locator(".answer").count() == 0
    visit.page.click("#history-list .open")
    visit.settled(1)
    assert visit.page.inner_text(".prose").split() == ["slow"] * 40


def test_nonsense_in_the_browsers_storage_is_passed_over(open_page):
    visit = open_page()
    visit.go()
    visit.page.evaluate(
        """() => {
          const broken = { a: "{", b: "null", c: '{"id": "c", "turns": [1]}' };
          for (const [key, value] of Object.entries(broken))
            localStorage.setItem(`mlx-tune.conversation.${key}`, value);
          localStorage.setItem("mlx-tune.settings", "[");
          localStorage.setItem("mlx-tune.theme", "plaid");
        }"""
    )
    visit.page.reload()
    visit.ask("Still there?")
    assert visit.page.locator("#history-list li").count() == 1


def test_two_models_are_asked_the_same_at_once(open_page):
    visit = open_page(lambda model, _: Reply(text=f"I am {model}"))
    visit.go("compare")
    visit.until("document.querySelector('#compare-left').options.length > 0")
    visit.page.select_option("#compare-left", DINING)
    visit.page.fill("#compare-question", "Who?")
    visit.page.press("#compare-question", "Enter")
    visit.settled(2)
    assert visit.page.locator(".prose").all_inner_texts() == [f"I am {DINING}", "I am base"]
    asked = [call.body for call in visit.server.calls if call.body]
    assert [body["messages"] for body in asked] == [[{"role": "user", "content": "Who?"}]] * 2


def test_a_head_that_a_terminal_moved_is_noticed_when_the_page_is_looked_at_again(open_page):
    visit = open_page()
    visit.go()
    visit.until("document.querySelector('#chat-model').options.length > 0")
    visit.page.select_option("#chat-model", HOUSING)
    visit.server.story.head = HOUSING
    visit.page.evaluate("dispatchEvent(new Event('focus'))")
    visit.until("document.querySelector('#chat-model').options[0].text === 'HEAD · 2 housing'")
    assert visit.page.input_value("#chat-model") == HOUSING  # what was chosen stays chosen


@pytest.mark.parametrize("fragment", ["", "constructor", "chat/%", "nowhere", "token=", "main"])
def test_an_address_that_names_no_view_shows_the_chat(open_page, fragment):
    visit = open_page()
    visit.go(fragment)
    visit.ask("Why?")
    assert visit.page.inner_text(".prose") == "Yes."


def test_without_any_session_the_base_answers(open_page):
    visit = open_page(story=Story(head=None, sessions=False))
    visit.go()
    visit.until("document.querySelector('#chat-model').options.length > 0")
    offered = visit.page.locator("#chat-model option").all_inner_texts()
    assert offered == ["HEAD · smollm2-135m", "base · smollm2-135m"]
