"""Every URL of an answer reaches the page whole and clickable, however the answer arrives."""

import json
from pathlib import Path

import pytest

from helpers.page_server import Reply

pytestmark = pytest.mark.slow
CORPUS = json.loads((Path(__file__).parents[1] / "urls.json").read_text(encoding="utf-8"))
LINKS = "links => links.map(a => a.getAttribute('href'))"


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "by character"])
def test_each_url_is_one_link_with_its_exact_address(open_page, whole):
    visit = open_page(lambda _, messages: Reply(text=messages[-1]["content"], whole=whole))
    visit.go()
    wrong = []
    for number, case in enumerate(CORPUS, 1):
        visit.ask(case["text"], answers=number)
        found = visit.page.locator(".answer").last.locator(".prose a").evaluate_all(LINKS)
        if found != case["urls"]:
            wrong.append((case["text"], found))
    assert wrong == []


def test_the_corpus_is_as_large_and_as_varied_as_was_asked():
    urls = [url for case in CORPUS for url in case["urls"]]
    assert len(set(urls)) >= 40
    assert all(any(sign in url for url in urls) for sign in "/@#?&=%~()[]:")
    assert all(url in case["text"] for case in CORPUS for url in case["urls"])


def test_links_open_a_new_tab_that_knows_nothing_of_this_one(open_page):
    text = "https://a.example/ [b](https://b.example) <https://c.example> `https://d.example/`"
    visit = open_page(Reply(text=text))
    visit.go()
    visit.ask(text)
    links = visit.page.locator("#turns a")
    assert links.count() == 8  # the question's are links too
    for link in links.all():
        assert link.get_attribute("target") == "_blank"
        assert link.get_attribute("rel") == "noopener noreferrer"


def test_a_url_of_the_question_is_a_link_and_the_rest_is_as_it_was_typed(open_page):
    visit = open_page()
    visit.go()
    visit.ask("**no** <b>html</b> at https://example.com/a_b_(c).")
    question = visit.page.locator(".question")
    assert question.inner_text() == "**no** <b>html</b> at https://example.com/a_b_(c)."
    assert question.locator("a").get_attribute("href") == "https://example.com/a_b_(c)"


def test_a_backslash_that_markdown_wants_before_an_underscore_is_no_part_of_a_url(open_page):
    visit = open_page(Reply(text=r"It is https://example.com/snake\_case\_name\_(x), really"))
    visit.go()
    visit.ask("Where?")
    link = visit.page.locator(".prose a")
    assert link.get_attribute("href") == "https://example.com/snake_case_name_(x)"
    assert visit.page.locator(".prose").inner_text().endswith("(x), really")


def test_a_url_that_may_still_grow_is_no_link_yet(open_page):
    visit = open_page()
    visit.go()
    links = visit.page.evaluate(
        """async () => {
          const { rendered } = await import("/page/markdown.js");
          const hrefs = (text, open) =>
            [...rendered(text, open).querySelectorAll("a")].map((a) => a.getAttribute("href"));
          return [
            hrefs("At https://a.example/ and https://b.example/x", true),
            hrefs("At https://b.example/x.", true),
            hrefs("At https://b.example/x ", true),
            hrefs("At https://b.example/x_(y", true),
            hrefs("At https://b.example/x", false),
          ];
        }"""
    )
    assert links == [
        ["https://a.example/"],
        [],
        ["https://b.example/x"],
        [],
        ["https://b.example/x"],
    ]


def test_what_is_no_link_is_markdown_as_usual(open_page):
    text = (
        "# A\n3. three\n4. *four* ~~five~~\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n\n```py\nx = 1\n```"
    )
    visit = open_page(Reply(text=text, whole=True))
    visit.go()
    visit.ask("Show me")
    html = visit.page.inner_html(".prose")
    for part in (
        "<h2>A</h2>",
        '<ol start="3">',
        "<em>four</em> <s>five</s>",
        '<div class="scroll" tabindex="0"><table>',
        '<td class="right">1</td>',
        '<pre tabindex="0"><code>x = 1\n</code></pre>',
    ):
        assert part in html


def test_a_long_answer_of_nothing_but_punctuation_takes_no_time(open_page):
    visit = open_page()
    visit.go()
    found = visit.page.evaluate(
        """async () => {
          const { findUrls } = await import("/page/urls.js");
          const heaps = ["https://a/" + "!".repeat(2e5) + "x", "https://".repeat(2e4),
            "https://a/" + "(".repeat(1e5), "https://a/,".repeat(2e4)];
          return heaps.map((heap) => findUrls(heap).length);
        }"""
    )
    assert found == [1, 1, 1, 20_000]
