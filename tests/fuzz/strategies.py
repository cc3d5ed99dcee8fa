"""Malformed frames made by Hypothesis: messages of odd parts, any JSON, any bytes."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.mutate import KEYS, METHODS

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4),
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | leaves,
        "id": st.integers(2_000_000_000, 3_000_000_000) | leaves,
        "method": st.sampled_from(METHODS) | trees,
        "params": trees,
        "result": trees,
        "error": trees,
    },
)


def spell(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


lines = st.one_of(
    messages.map(spell),
    trees.map(spell),
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore")),
).map(lambda data: data.replace(b"\n", b" "))
