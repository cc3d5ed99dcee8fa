"""The hash of a tool definition covers everything an agent could be shown, and nothing else."""

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcp_guard.core.model import Json, Tool
from mcp_guard.core.tool_pins import (
    MAX_DEFINITION_BYTES,
    MAX_DEFINITION_DEPTH,
    PROMISED,
    FirstUse,
    Pin,
    PinRule,
    PinState,
    definition_hash,
    differing_members,
    exceeded_limit,
    find_quarantined,
)
from mcp_guard.upstream.catalog import make_tool

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0, -0.0]) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from([*PROMISED, "icons", "execution", "_meta", "unheard-of"])
DEFINITIONS = st.dictionaries(MEMBERS, VALUES, min_size=1)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in places(each, (*at, key)))]


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    changed = copy.copy(value)
    changed[at[0]] = put(value[at[0]], at[1:], new)
    return changed


@given(DEFINITIONS, st.data())
def test_any_change_of_a_definition_changes_the_hash_and_is_named(definition: Json, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from([place for place in places(definition) if place]))
    changed = put(definition, at, data.draw(VALUES))
    assume(repr(changed) != repr(definition))
    same = definition_hash(changed) == definition_hash(definition)
    assert not same or sort_keys(changed) == sort_keys(definition)
    assert differing_members(definition, changed) == (() if same else (at[0],))


def sort_keys(value: Any) -> str:
    if isinstance(value, dict):
        return repr(sorted((key, sort_keys(inner)) for key, inner in value.items()))
    return repr([sort_keys(inner) for inner in value] if isinstance(value, list) else value)


@given(DEFINITIONS, st.data())
def test_added_or_removed_member_changes_the_hash(definition: Json, data: st.DataObject) -> None:
    member = data.draw(MEMBERS)
    other = {name: value for name, value in definition.items() if name != member}
    if member not in definition:
        other = definition | {member: data.draw(VALUES)}
    assert definition_hash(other) != definition_hash(definition)
    assert differing_members(definition, other) == (member,)


@given(DEFINITIONS, st.randoms())
def test_member_order_does_not_change_the_hash(definition: Json, random: Any) -> None:
    def shuffle(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffle(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        names = list(value)
        random.shuffle(names)
        return {name: shuffle(value[name]) for name in names}

    assert definition_hash(shuffle(definition)) == definition_hash(definition)


@given(DEFINITIONS, VALUES)
def test_excluded_member_does_not_change_the_hash(definition: Json, value: Any) -> None:
    changed = definition | {"_meta": value}
    assert definition_hash(changed, ("_meta",)) == definition_hash(definition, ("_meta",))


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), ("1", 1), (None, False), ([], {}), ("", None)])
def test_values_equal_in_python_but_not_in_json_hash_differently(one: Any, other: Any) -> None:
    assert differing_members({"a": one}, {"a": other}) == ("a",)
    assert definition_hash({"a": one}) != definition_hash({"a": other})


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [MAX_DEFINITION_DEPTH, 300, 900])
def test_deeply_nested_definition_is_refused(depth: int) -> None:
    assert "nested" in str(exceeded_limit({"name": "a", "inputSchema": nested(depth)}))
    assert exceeded_limit({"name": "a", "inputSchema": nested(MAX_DEFINITION_DEPTH - 2)}) is None


def test_oversized_definition_is_refused() -> None:
    assert f"over {MAX_DEFINITION_BYTES}" in str(
        exceeded_limit({"name": "a", "description": "x" * MAX_DEFINITION_BYTES})
    )


@pytest.mark.parametrize(
    ("first_use", "new", "on_known_upstream"),
    [(FirstUse.LISTING, True, False), (FirstUse.PIN, True, True), (FirstUse.ASK, False, False)],
)
def test_a_tool_is_quarantined_unless_its_definition_is_pinned_or_will_be(
    first_use: FirstUse, new: bool, on_known_upstream: bool
) -> None:
    tool = make_tool("up", {"name": "a", "inputSchema": {}}, {})
    hides = make_tool("up", {"name": "a\u200b", "inputSchema": {}}, {})
    rules = {"up": PinRule(first_use)}

    def is_accepted(tool: Tool, *pins: Pin) -> bool:
        return not find_quarantined([tool], pins, rules)

    pin = Pin("up", "a", tool.definition_hash, PinState.PINNED, tool.definition, 1)
    assert is_accepted(tool) is new
    assert not is_accepted(hides)
    assert is_accepted(tool, replace(pin, tool="b")) is on_known_upstream
    assert is_accepted(tool, pin)
    assert not is_accepted(tool, replace(pin, hash="other"))
    assert not any(is_accepted(tool, replace(pin, state=state)) for state in PinState if state is not PinState.PINNED)
