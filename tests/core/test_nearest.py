"""A name that no tool has leads to the one that was meant, of the server that was meant."""

import pytest

from mcp_guard.core.nearest import nearest_tools, suggest_tools

TOOLS = ["files__read_file", "files__write_file", "git__git_log", "git__git_status", "time__convert", "time__now"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("git__git_logg", "git__git_log"),
        ("git__log", "git__git_log"),
        ("gti__git_log", "git__git_log"),
        ("git_statsu", "git__git_status"),
        ("files__readfile", "files__read_file"),
    ],
)
def test_the_nearest_tool_comes_first(name: str, nearest: str) -> None:
    assert nearest_tools(name, TOOLS)[0] == nearest


def test_tools_of_other_servers_are_not_suggested() -> None:
    assert nearest_tools("git__write_file", TOOLS) == []
    assert suggest_tools("git__nope", TOOLS) == "the tools of `git` are `git__git_log`, `git__git_status`"


def test_without_a_near_name_some_tools_are_listed() -> None:
    assert suggest_tools("git__git_logg", TOOLS) == "did you mean `git__git_log`?"
    assert suggest_tools("crm__x", TOOLS).endswith("and 1 more")
    assert suggest_tools("crm__x", []) == "no tools are listed"
