"""Who is trusted, as decided from what a person asked for."""

import pytest

from mlx_tune.errors import UsageError
from mlx_tune.serving.policy import decide


def test_a_server_for_this_machine_asks_for_the_token_only_where_something_changes():
    policy = decide("127.0.0.1")

    assert not policy.token_for_all
    assert policy.hosts == {"localhost", "127.0.0.1", "[::1]"}
    assert policy.origins == frozenset()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "model.local", ""])
def test_a_server_for_others_asks_for_the_token_everywhere(host):
    assert decide(host).token_for_all


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_every_loopback_address_is_this_machine(host):
    assert not decide(host).token_for_all


def test_a_token_of_ones_own_is_asked_for_everywhere():
    policy = decide("127.0.0.1", token="s3cret")

    assert policy.token_for_all
    assert policy.token == "s3cret"


def test_a_name_of_another_kind_means_that_others_come_though_through_this_machine():
    assert decide("127.0.0.1", allow_hosts=["model.example.org"]).token_for_all
    assert not decide("127.0.0.1", allow_origins=["https://a.b"]).token_for_all


def test_a_drawn_token_is_long_and_another_each_time_and_not_shown():
    first, second = decide("127.0.0.1"), decide("127.0.0.1")

    assert first.token != second.token
    assert len(first.token) >= 43  # 32 bytes
    assert first.token not in repr(first)


def test_the_address_listened_on_is_a_name_of_the_server_but_every_address_is_none():
    assert "192.168.1.5" in decide("192.168.1.5").hosts
    assert "[fe80::1]" in decide("fe80::1").hosts
    assert decide("0.0.0.0").hosts == decide("::").hosts == decide("127.0.0.1").hosts


def test_names_and_origins_are_compared_as_browsers_write_them():
    policy = decide(
        "127.0.0.1",
        allow_hosts=["Model.Local", "[2001:db8::1]", "2001:DB8:0::2"],
        allow_origins=["HTTPS://Example.org:443/", "http://a.b:8080", "app://obsidian.md"],
    )

    assert {"model.local", "[2001:db8::1]", "[2001:db8::2]"} < policy.hosts
    assert policy.origins == {"https://example.org", "http://a.b:8080", "app://obsidian.md"}


@pytest.mark.parametrize("name", ["*", "http://a.b", "a.b:80", "a b", "", "a/b", "a@b", ".local"])
def test_what_is_no_host_name_is_refused(name):
    with pytest.raises(UsageError) as error:
        decide("127.0.0.1", allow_hosts=[name])

    assert str(error.value) == (
        f'--allow-host "{name}" is not a host name; write the name alone, without scheme or port, '
        "such as model.local"
    )


@pytest.mark.parametrize("origin", ["*", "null", "example.org", "https://a.b/c", "https://", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(UsageError, match="is not an origin") as error:
        decide("127.0.0.1", allow_origins=[origin])

    assert ("would be trusted" in str(error.value)) == (origin == "*")


@pytest.mark.parametrize("token", ["", "two words", "naïve", "line\n"])
def test_a_token_that_no_header_field_carries_is_refused(token):
    with pytest.raises(UsageError, match="--token is empty or holds"):
        decide("127.0.0.1", token=token)
