"""A right server passes every check, and each thing broken fails its own check and no other."""

import pytest

from helpers.broken_api import (
    BREAKAGES,
    CORS,
    CUT,
    FIRST,
    HEALTH,
    HOST,
    LARGE,
    MODELS,
    SHAPE,
    STOP,
    STREAM,
    TWICE,
    is_chat,
    put,
    whole,
)
from helpers.fake_api import running
from mlx_tune.errors import NetworkError
from mlx_tune.workflows.api_client import connect
from mlx_tune.workflows.check_server import OPENAI_CHECKS, OUR_CHECKS, check_server


def outcomes(server, *, model=None, expect_ours=False, token=None, said=None):
    """Check a server, of which the address is given, or a client that is there already."""
    say = (lambda _: None) if said is None else said.append
    if not isinstance(server, str):
        return list(check_server(server, model=model, expect_ours=expect_ours, say=say))
    with connect(server, token=token, timeout_seconds=20) as client:
        return outcomes(client, model=model, expect_ours=expect_ours, said=said)


def failed(found):
    return {outcome.name: outcome.reason for outcome in found if not outcome.passed}


def test_a_right_server_passes_everything():
    with running() as url:
        found = outcomes(url)
    assert failed(found) == {}
    assert [o.name for o in found] == [MODELS, *OPENAI_CHECKS, *OUR_CHECKS]


@pytest.fixture(scope="module")
def fragile():
    """One server and client for all breakages: making them takes longer than all the checks."""
    now = []
    with (
        running(lambda asked, reply: now[-1](asked, reply)) as url,
        connect(url, timeout_seconds=20) as client,
    ):
        yield client, now


@pytest.mark.parametrize("what", BREAKAGES)
def test_what_is_broken_fails_its_check_and_no_other(what, fragile):
    (client, now), (name, breaks) = fragile, BREAKAGES[what]
    now.append(breaks)
    found = failed(outcomes(client, model="head", expect_ours=True))
    assert set(found) == {name}, found
    assert "\n" not in found[name]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("stream: text after the end", "text follows the finish_reason"),
        ("stream: an error", "the stream tells of an error: {'message': 'out of memory'}"),
        ("stop: nothing to stop", "the answer is empty, so no stop string can be tried"),
        ("stop: said", "stopped at ', g', at once it says 'Red — warm 🔥gre'"),
        ("urls: decoded", "after 'ple.com/search?q=caf' comes 'Ã%A9&lang=en&page=2#results, s', "
         "not '%C3%A9&lang=en&page=2#results,'"),
        ("refusals: a number for a code", "error.code is a number, not text or null"),
    ],
)  # fmt: skip
def test_a_reason_says_what_came_and_what_was_expected(what, reason, fragile):
    (client, now), (name, breaks) = fragile, BREAKAGES[what]
    now.append(breaks)
    assert failed(outcomes(client, model="head"))[name] == reason


def test_a_reason_to_end_that_openai_does_not_know_fails_every_check_that_reads_it():
    with running(whole(is_chat, put("eos", *FIRST, "finish_reason"))) as url:
        found = failed(outcomes(url))
    assert set(found) == {SHAPE, STREAM, CUT, STOP, TWICE}
    assert set(found.values()) == {'finish_reason is "eos", not "stop" or "length"'}


def test_every_check_is_broken_by_something():
    assert {MODELS, *OPENAI_CHECKS, *OUR_CHECKS} == {name for name, _ in BREAKAGES.values()}


def test_a_foreign_server_is_not_asked_what_only_ours_promises():
    said = []
    with running(owner="somebody") as url:
        found = outcomes(url, said=said)
        with_ours = outcomes(url, expect_ours=True)
    assert failed(found) == {}
    assert {o.name for o in with_ours} - {o.name for o in found} == {HEALTH, LARGE, HOST, CORS}
    assert said == [
        "asking the model head…",
        "note: what mlx-tune serve alone promises was left out; --ours checks it too",
    ]


def test_without_a_model_nothing_more_is_asked():
    said = []
    with running(token="secret") as url:
        (only,) = outcomes(url, said=said)
    assert only.reason == (
        '401, not 200: {"error": {"message": "a token is wanted", "type": '
        '"invalid_request_error", "param": null, "code": null}}; name the server\'s token with '
        "--token"
    )
    assert said == ["note: without a model nothing more can be asked; name one with --model"]


def test_a_token_opens_a_server_that_wants_one():
    with running(token="secret") as url:
        assert failed(outcomes(url, token="secret")) == {}


def test_the_model_named_is_the_one_asked():
    asked = set()

    def listen(request, reply):
        asked.add(request.model)

    with running(listen) as url:
        found = failed(outcomes(url, model="b"))
    assert asked == {None, "b", "no-such-model-here"}
    assert found[SHAPE].startswith("404, not 200: ")


def test_nobody_there_is_one_line():
    with running() as url:
        pass
    with pytest.raises(NetworkError) as error:
        outcomes(url)
    assert str(error.value) == (
        f"{url}: no connection (Connection refused); is the server running there?"
    )
