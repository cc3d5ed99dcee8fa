"""A resource has one owner: exact listing before link before template, and the oldest claim of each kind first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.downstream.resource_owners import MAX_LINK_LENGTH, MAX_LINKS, MAX_VALUES, ResourceOwners, find_links
from tests.growth import cpu_seconds

URIS = st.sampled_from(["x://1", "x://2", "x://3"])
SERVERS = st.sampled_from(["a", "b", "c"])


def test_exact_listing_comes_before_link_and_link_before_template() -> None:
    owners = ResourceOwners()
    owners.set_templates("a", ["x://{id}"])
    owners.add_links("b", ["x://1"])
    assert (owners.owner("x://1"), owners.claimants("x://1")) == (None, ["b", "a"])
    assert owners.set_listed("c", ["x://1"]) == []
    assert owners.owner("x://1") == "c"


def test_oldest_claim_stays_until_it_is_withdrawn() -> None:
    owners = ResourceOwners()
    owners.set_listed("b", ["x://1"])
    assert owners.set_listed("a", ["x://1", "x://2"]) == ["x://1"]
    assert owners.owner("x://1") == "b"
    owners.set_listed("b", [])
    assert owners.owner("x://1") == "a"
    assert owners.set_listed("b", ["x://1"]) == ["x://1"]
    assert owners.set_listed("b", []) == []
    assert owners.set_listed("c", ["x://1"]) == ["x://1"], "the oldest claim that is left"
    assert owners.set_listed("c", ["x://1"]) == ["x://1"]
    owners.set_templates("a", ["y://{id}"])
    owners.set_templates("b", ["{+all}"])
    owners.set_templates("a", ["z://{id}", "y://{id}"])
    assert owners.claimants("y://1") == ["a", "b"]
    assert owners.claimants("z://1") == ["b", "a"], "a template that was added later"
    assert owners.template_owner("z://{id}") == "a"


@pytest.mark.parametrize(
    ("listed", "read"),
    [
        ("http://Example.com", "http://example.com/"),
        ("file:///a b/ü", "file:///a%20b/%C3%BC"),
        ("DOC://x", "doc://x"),
    ],
)
def test_uri_that_an_sdk_has_normalized_is_the_listed_one(listed: str, read: str) -> None:
    owners = ResourceOwners()
    owners.set_templates("b", ["{+all}"])
    owners.set_listed("a", [listed, "doc://X/y"])
    assert (owners.owner(listed), owners.owner(read), owners.owner("doc://x/Y")) == ("a", "a", None)
    owners.set_listed("a", [])
    assert owners.owner(read) is None


@pytest.mark.parametrize(
    ("link", "template", "read"),
    [
        ("file:///my docs/a", "file:///my docs/{name}", "file:///my%20docs/a"),
        ("file:///café/a", "file:///café/{name}", "file:///caf%C3%A9/a"),
        ("jira://PROJ/1", "jira://PROJ/{id}", "jira://proj/1"),
        ("JIRA://x/1", "JIRA://x/{id}", "jira://x/1"),
        ("search://docs?q=a", "search://docs{?q}", "search://docs/?q=a"),
        ("x://a%7Bb/1", "x://a%7Bb/{id}", "x://a%7Bb/1"),
        ("x://a/?q=1", "x://a/{?q}", "x://a/?q=1"),
    ],
)
def test_uri_that_an_sdk_has_normalized_belongs_to_the_link_or_template(link: str, template: str, read: str) -> None:
    linked, listed = ResourceOwners(), ResourceOwners()
    linked.add_links("a", [link])
    listed.set_templates("a", [template])
    assert linked.claimants(read) == linked.claimants(link) == listed.claimants(read) == listed.claimants(link) == ["a"]
    assert linked.schemes("a") == listed.schemes("a") == {read.partition(":")[0]}


def test_encoded_brace_in_a_template_is_no_expression() -> None:
    owners = ResourceOwners()
    owners.set_templates("a", ["x://a%7Bb%7D"])
    assert (owners.claimants("x://a%7Bb%7D"), owners.claimants("x://anything")) == (["a"], [])


@pytest.mark.parametrize(
    "other", ["repo://g%2Fp/x", "repo://g/p%2fx", "repo://g/p/x%3F", "repo://g/p/x%23", "repo://g/p%252Fx"]
)
def test_encoded_delimiters_make_another_uri(other: str) -> None:
    owners = ResourceOwners()
    owners.set_listed("a", [other, "repo://g/a%2Fb"])
    owners.set_templates("b", ["repo://{group}/{+path}"])
    for uri in ("repo://g/p/x", "repo://g/p/x?", "repo://g/p/x#"):
        assert (owners.owner(uri), owners.claimants(uri)[:1]) == (None, ["b"])
    assert owners.owner("repo://G/a%2fb") == "a"


@given(st.lists(st.tuples(SERVERS, st.lists(URIS, max_size=3)), max_size=12))
def test_nobody_takes_over_what_another_one_lists(listings: list[tuple[str, list[str]]]) -> None:
    owners = ResourceOwners()
    latest: dict[str, list[str]] = {}
    for server, uris in listings:
        before = {uri: owners.owner(uri) for uri in ("x://1", "x://2", "x://3")}
        foreign = owners.set_listed(server, uris)
        latest[server] = uris
        for uri, owner in before.items():
            listed_by: set[str | None] = {name for name, listed in latest.items() if uri in listed}
            if owner is not None and uri in latest[owner]:
                assert owners.owner(uri) == owner
            assert owners.owner(uri) in (listed_by or {None})
            assert (uri in foreign) == (uri in uris and owners.owner(uri) != server)


def test_links_are_bounded_for_each_upstream() -> None:
    owners = ResourceOwners()
    owners.add_links("a", ["x://kept"])
    for number in range(3):
        owners.add_links("b", [f"x://{number}-{index}" for index in range(MAX_LINKS)])
    assert owners.claimants("x://kept") == ["a"]
    assert owners.claimants("x://0-0") == []
    assert owners.claimants("x://2-0") == ["b"]


@pytest.mark.parametrize(
    ("result", "links"),
    [
        ({"content": [{"type": "text", "text": "see x://1"}]}, []),
        (
            {"content": [{"type": "resource_link", "uri": "x://1"}, {"type": "resource_link", "uri": "x://2"}]},
            ["x://1", "x://2"],
        ),
        ({"contents": [{"uri": "x://1", "text": '{"more": ["x://2", "plain", "https://a/b"]}'}]}, ["x://1", "x://2"]),
        ({"messages": [{"role": "user", "content": {"type": "resource_link", "uri": "x://1"}}]}, ["x://1"]),
        ({"structuredContent": "x://1"}, ["x://1"]),
        ({"structuredContent": [{"a": {"b": "x://1", "c": 7, "d": None}}]}, ["x://1"]),
        ({"content": [{"type": "resource_link", "uri": "x://" + "y" * MAX_LINK_LENGTH}]}, []),
        ({"content": [{"type": "resource", "resource": {"uri": "x://1", "text": "[" * 70_000}}]}, ["x://1"]),
        ({"content": 7, "_meta": {"uri": "x://1"}}, []),
    ],
)
def test_links_of_a_result(result: dict[str, object], links: list[str]) -> None:
    assert sorted(find_links(result)) == links


def test_search_for_links_is_bounded() -> None:
    hostile = {"structuredContent": [[{"uri": f"x://{number}"} for number in range(MAX_VALUES)]] * MAX_VALUES}
    assert len(find_links(hostile)) <= MAX_VALUES
    assert cpu_seconds(lambda: find_links(hostile)) < 0.1
