"""What the texts of one message cost: the guard's other agents wait while they are read."""

import random
import string
from base64 import b64encode
from functools import partial
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Call, Json, ToolCallRequest
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.history import InstanceHistory
from tests.core.provenance.test_history import TASK, reply
from tests.growth import assert_once_below, cpu_seconds
from tests.promises.harness import make_instance, make_tool

SIZE = 300_000
TOOL = make_tool("post", {"to": {"type": "string"}, "text": {"type": "string"}}, returns=("untrusted",), sinks=("to",))


def words(size: int) -> str:
    luck = random.Random(1)
    return " ".join("".join(luck.choices(string.ascii_letters, k=9)) for _ in range(size // 10))


def evaluate(call: Call, answer: Json) -> None:
    history = InstanceHistory(TASK)
    history.note(call, answer)
    history.history_for(call)


@pytest.mark.parametrize(
    ("text", "copies", "limit"),
    [(words(SIZE), 1, 25), ("%25" * (SIZE // 6), 1, 80), (b64encode(b"x: 1 " * 40_000).decode(), 8, 6)],
    ids=["words", "escapes", "more than is kept"],
)
def test_reading_a_long_text_costs_little_more_than_its_normal_form(text: str, copies: int, limit: float) -> None:
    unit = cpu_seconds(partial(matching.plain, words(len(text) * copies)))
    request = ToolCallRequest(TOOL.listed_as, {"to": "a@b.example", "text": text})
    call = describe(DescriptionRules(), "call", make_instance(task=TASK), request, TOOL)
    assert_once_below(limit, lambda: cpu_seconds(partial(evaluate, call, reply(text * copies))) / unit)


@given(st.text(st.sampled_from("%0123456789abcdefABCDEFxä€ ")))
def test_percent_escapes_are_read_as_the_standard_library_reads_them(text: str) -> None:
    assert [decoded for decoded in matching.decodings(text, 1) if "%" in text][:1] == (
        [unquote(text)] if unquote(text) != text else []
    )
