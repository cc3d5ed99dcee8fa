"""Listed tool names fit every client's limits and never collide."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.names import NAME_LIMIT, instance_id, listed_name, split_listed_name

servers = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
names = st.text(min_size=1, max_size=40).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)


@given(servers, names)
def test_every_name_fits_the_limits(server: str, name: str) -> None:
    assert re.fullmatch(rf"[A-Za-z0-9_-]{{1,{NAME_LIMIT}}}", listed_name(server, name))


@given(servers, st.text("ab_x2E./-é", min_size=1, max_size=8))
def test_names_are_reversible(server: str, name: str) -> None:
    listed = listed_name(server, name)
    if not re.search(r"_xh[0-9a-f]{12}$", listed):
        assert split_listed_name(listed) == (server, name)


@given(servers, st.lists(st.text("ab_x2E./", min_size=1, max_size=70), unique=True, min_size=2, max_size=6))
def test_two_tools_never_share_a_name(server: str, tools: list[str]) -> None:
    assert len({listed_name(server, tool) for tool in tools}) == len(tools)


def test_shortened_name_is_not_reversed_by_guess() -> None:
    with pytest.raises(ValueError, match="not a reversible"):
        split_listed_name(listed_name("crm", "a" * 100))


def test_instance_ids_contain_their_start_time() -> None:
    assert instance_id("2026-01-31T19:22:05.123456Z", "7f3k") == "run_2026_01_31_19_22Z_7f3k"
