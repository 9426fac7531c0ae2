"""What an answer holds is shown and never run, fetched or followed by itself."""

import pytest

from helpers.page_server import Reply

pytestmark = pytest.mark.slow

ATTACKS = [
    "<script>window.hurt = 1</script>",
    "<img src=x onerror=window.hurt=1>",
    '<img src="https://evil.example/p.png">',
    "<svg onload=window.hurt=1><animate onbegin=window.hurt=1></svg>",
    "<svg><a xlink:href='javascript:window.hurt=1'><text>x</text></a></svg>",
    "<math><mtext><table><mglyph><style><img src onerror=window.hurt=1>",
    '<a href="javascript:window.hurt=1">x</a>',
    "<a href=data:text/html,<script>window.hurt=1</script>>x</a>",
    "<div onmouseover=window.hurt=1 style=position:fixed;inset:0>x</div>",
    "<iframe srcdoc='<script>parent.hurt=1</script>'></iframe>",
    "<body onload=window.hurt=1><input autofocus onfocus=window.hurt=1>",
    "<style>@import 'https://evil.example/x.css'; body { display: none }</style>",
    "<base href=https://evil.example/><link rel=stylesheet href=https://evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<form action=https://evil.example/><button>x</button></form>",
    "[x](javascript:window.hurt=1)",
    "[x](JaVaScRiPt:window.hurt=1)",
    "[x](\x01javascript:window.hurt=1)",
    "[x](java\\script:window.hurt=1)",
    "[x](javascript&#58;window.hurt=1)",
    "[x](&#x6A;avascript:window.hurt=1)",
    "[x](<javascript:window.hurt=1>)",
    "<javascript:window.hurt=1>",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](blob:x) [w](about:blank)",
    "[x](#token=stolen) [y](/api/rollback) [z](//evil.example/) [w](?a=b)",
    "![x](javascript:window.hurt=1)",
    "![x](data:image/svg+xml,<svg/onload=window.hurt=1>)",
    "![x](https://evil.example/pixel.png)",
    "[![x](https://evil.example/a.png)](https://evil.example/b)",
    '[x](https://evil.example/ "onmouseover=window.hurt=1")',
    '[x](https://evil.example/"onmouseover="window.hurt=1)',
    "https://evil.example/\"onmouseover='window.hurt=1'",
    "https://evil.example/'><script>window.hurt=1</script>",
    "```<img/src=x/onerror=window.hurt=1>\n<script>window.hurt=1</script>\n```",
    "`<script>window.hurt=1</script>`",
    "| <img src=x onerror=window.hurt=1> |\n|---|\n| <script>window.hurt=1</script> |",
    "&lt;script&gt;window.hurt=1&lt;/script&gt;",
    "<!--><img src=x onerror=window.hurt=1>-->",
    "<details open ontoggle=window.hurt=1>x</details>",
    "<p id=main name=confirm>clobbered</p>",
]
SAFE = {
    *["A", "BLOCKQUOTE", "BR", "CODE", "DEL", "DIV", "EM", "H2", "H3", "H4", "H5", "H6", "HR"],
    *["LI", "OL", "P", "PRE", "S", "STRONG", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL"],
}


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "by character"])
def test_nothing_of_an_answer_runs_or_is_fetched(open_page, whole):
    visit = open_page(lambda _, messages: Reply(text=messages[-1]["content"], whole=whole))
    visit.go()
    for number, attack in enumerate(ATTACKS, 1):
        visit.ask(attack, answers=number)
    visit.page.mouse.move(400, 300)
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate("window.hurt") is None
    tags = visit.page.locator(".prose *").evaluate_all("all => all.map(one => one.tagName)")
    assert set(tags) <= SAFE
    names = visit.page.locator(".prose *").evaluate_all(
        "all => [...new Set(all.flatMap(one => one.getAttributeNames()))]"
    )
    assert set(names) <= {"class", "href", "rel", "start", "tabindex", "target"}
    addresses = visit.page.locator("#turns a").evaluate_all("all => all.map(one => one.href)")
    assert addresses
    assert all(address.startswith("https://evil.example/") for address in addresses)


def test_nothing_but_this_servers_files_may_run_even_if_it_got_into_the_page(open_page):
    """The policy, and trusted types, are the second wall."""
    visit = open_page()
    visit.go()
    visit.page.wait_for_selector("#chat-model option", state="attached")
    blocked = visit.page.evaluate(
        """() => {
          const events = [];
          addEventListener("securitypolicyviolation", (e) => events.push(e.effectiveDirective));
          try { document.body.innerHTML += "<b>x</b>"; } catch {}
          const script = document.createElement("script");
          try { script.text = "window.hurt = 1"; document.head.append(script); } catch {}
          const image = document.createElement("img");
          try { image.setAttribute("onerror", "window.hurt = 1"); } catch {}
          image.src = "https://evil.example/x.png";
          document.body.append(image);
          return new Promise((done) => setTimeout(() => done([...new Set(events)].sort()), 300));
        }"""
    )
    assert "img-src" in blocked
    assert "require-trusted-types-for" in blocked
    assert visit.page.evaluate("window.hurt") is None
    visit.complaints.clear()  # they were asked for
    visit.elsewhere.clear()


def test_images_become_their_words_with_the_address_behind_them(open_page):
    visit = open_page(
        Reply(
            text="![the *map*](https://a.example/m.png) [![in](https://b.example/i)](https://c.example/)"
        )
    )
    visit.go()
    visit.ask("Where?")
    assert visit.page.locator("img").count() == 0
    links = visit.page.locator(".prose a")
    assert links.all_inner_texts() == ["the map", "in"]
    assert links.nth(0).get_attribute("href") == "https://a.example/m.png"
    assert links.nth(1).get_attribute("href") == "https://c.example/"


def test_a_session_named_in_html_is_a_name(open_page):
    from helpers.page_stories import DINING, Story

    class Named(Story):
        def lineage(self):
            told = super().lineage()
            for session in told["sessions"]:
                session["name"] = "<img src=x onerror=window.hurt=1>"
                session["reasons"] = session["sources"] = session["tags"] = ["<b>bold</b>"]
            return told

    visit = open_page(story=Named(head=DINING))
    visit.go("lineage")
    visit.page.wait_for_selector(".card h2")
    assert visit.page.locator("#lineage-body img, #lineage-body b").count() == 0
    assert visit.page.evaluate("window.hurt") is None
