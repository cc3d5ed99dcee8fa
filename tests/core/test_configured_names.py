"""A rule in the configuration for a tool that does not exist is found, where the server's tools are known."""

import pytest

from mcp_guard.core.configured_names import ConfiguredName, find_unmatched

LISTED = ["git__git_diff", "git__git_log", "time__now"]


def unmatched(name: str, *others: str, seen: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    entry = ConfiguredName(name, ("tools", name), {name, *others})
    return [found.meant for found in find_unmatched([entry], LISTED, seen)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("git__git_lgo", ("git__git_log",)),
        ("git__log", ("git__git_log",)),
        ("git__Git_Log", ("git__git_log",)),
        ("git__git_commit", ()),
        ("time__nwo", ("time__now",)),
    ],
)
def test_a_name_that_no_tool_has_is_found_with_the_tool_that_it_may_mean(name: str, meant: tuple[str, ...]) -> None:
    assert unmatched(name) == [meant]


@pytest.mark.parametrize("name", ["git__git_log", "crm__update"])
def test_a_listed_tool_and_one_of_an_unknown_server_are_right(name: str) -> None:
    assert unmatched(name) == []


def test_a_tool_that_was_seen_earlier_is_right() -> None:
    assert unmatched("git__git_lgo", seen=("git__git_lgo",)) == []
    assert unmatched("crm__update", seen=("crm__create",)) == [()]


def test_a_tool_with_a_rule_of_its_own_is_not_meant() -> None:
    assert unmatched("git__git_lgo", "git__git_log") == [()]


def test_a_name_like_no_other_may_be_of_a_tool_that_is_listed_later() -> None:
    is_misspelt = {
        name: find_unmatched([ConfiguredName(name, ("tools", name))], LISTED)[0].is_misspelt
        for name in ("git__git_lgo", "git__git_logging", "git__cherry_pick")
    }
    assert is_misspelt == {"git__git_lgo": True, "git__git_logging": True, "git__cherry_pick": False}


def test_the_message_names_place_and_nearest_tool() -> None:
    [section] = find_unmatched([ConfiguredName("git__git_lgo", ("tools", "git__git_lgo"))], LISTED)
    assert str(section) == '[tools."git__git_lgo"]: `git` has no tool of this name; did you mean `git__git_log`?'
    [rate] = find_unmatched([ConfiguredName("git__x", ("rates", "r", "tools"))], LISTED)
    assert str(rate).startswith("`git__x` in rates.r.tools: `git` has no tool of this name, and has had none")


@pytest.mark.parametrize(
    ("written", "suggestion"),
    [
        ("git__git_log", "write the name that the server itself uses, without `git__`: `git_log`"),
        ("git_lgo", "did you mean `git_log`?"),
    ],
)
def test_a_name_that_is_written_without_its_server_is_suggested_so(written: str, suggestion: str) -> None:
    """`facts.tool` is a tool of the same server: the listed name, which every other place takes, is the wrong kind."""
    key = ("tools", "git__git_diff", "facts", "tool")
    [found] = find_unmatched([ConfiguredName(f"git__{written}", key, is_own=True)], LISTED)
    assert found.is_misspelt
    assert str(found) == (
        f"`{written}` in tools.git__git_diff.facts.tool: `git` has no tool of this name; {suggestion}"
    )
