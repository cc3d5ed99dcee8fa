"""The difference of two sets of policies shows what Cedar reads: nothing hides in a comment or comes out of one."""

import time

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.policy.authoring.set_diff import diff_sets, show_files
from mcp_guard.policy.source import parse_policies

CLOSING = '// closings\n@id("closing")\nforbid (principal, action, resource);\n'
LOOK_LIKE_LINE_ENDS = ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e", "\r"]


@pytest.mark.parametrize("sign", LOOK_LIKE_LINE_ENDS)
def test_policy_that_becomes_a_comment_is_shown(sign: str) -> None:
    [change] = diff_sets({"a.cedar": CLOSING}, {"a.cedar": CLOSING.replace("\n", sign)})
    assert [line.text for line in change.lines if line.sign == "-"] == [*CLOSING.split("\n")[:-1], ""]
    assert [line.text for line in change.lines if line.sign == "+"] == [CLOSING.replace("\n", sign)]


def test_added_file_has_no_lines_before_and_none_after_its_last_one() -> None:
    [change] = diff_sets({}, {"a.cedar": CLOSING})
    assert [(line.sign, line.text) for line in change.lines] == [
        ("@", "@@ -0,0 +1,3 @@"),
        *(("+", line) for line in CLOSING.splitlines()),
    ]
    [change] = diff_sets({"a.cedar": CLOSING}, {"a.cedar": CLOSING[:-1]})
    assert [(line.sign, line.text) for line in change.lines][-1] == ("-", "")


def test_lines_that_are_all_alike_take_no_time() -> None:
    kinds = [f"// {number % 150}" for number in range(20_000)]
    before, after = "\n".join(kinds), "\n".join(reversed(kinds))
    began = time.process_time()
    [change] = diff_sets({"a.cedar": before}, {"a.cedar": after})
    assert time.process_time() - began < 2
    assert "the whole file" in change.lines[0].text
    assert [line.text for line in change.lines if line.sign == "-"] == before.split("\n")
    assert [line.text for line in change.lines if line.sign == "+"] == after.split("\n")


def test_blanks_that_push_a_policy_out_of_sight_are_counted() -> None:
    hidden = f"{CLOSING[:-1]}{' ' * 400}permit (principal, action, resource);" + "\n" * 300 + " " * 90 + "// far\n"
    [change] = show_files(diff_sets({"a.cedar": CLOSING}, {"a.cedar": hidden}))
    shown = [line.text for line in change.lines if line.sign == "+"]
    assert shown == [
        "forbid (principal, action, resource); [400 blanks] permit (principal, action, resource);",
        "[299 empty lines]",
        " [90 blanks] // far",
    ]


@pytest.mark.parametrize("sign", LOOK_LIKE_LINE_ENDS)
def test_character_that_looks_like_the_end_of_a_line_is_refused(sign: str) -> None:
    with pytest.raises(PolicyError, match=r"a\.cedar:1:12: a character that only looks like the end of a line"):
        parse_policies({"a.cedar": CLOSING.replace("\n", sign)}, ())


def test_line_ends_of_windows_are_taken() -> None:
    assert parse_policies({"a.cedar": CLOSING.replace("\n", "\r\n")}, ()).policies.keys() == {"closing"}
