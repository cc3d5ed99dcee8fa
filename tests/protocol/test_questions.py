"""The questions of a stateless upstream are bounded in number."""

import pytest

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.protocol.stateless_client import MAX_QUESTIONS, read_input_required


def required(count: int) -> Json:
    questions = {str(number): {"method": "elicitation/create"} for number in range(count)}
    return {"result": {"resultType": "input_required", "inputRequests": questions}}


def test_as_many_questions_as_allowed_are_read() -> None:
    read = read_input_required(required(MAX_QUESTIONS))
    assert read is not None
    assert len(read.requests) == MAX_QUESTIONS


def test_more_questions_are_refused() -> None:
    with pytest.raises(UpstreamError, match="more than"):
        read_input_required(required(MAX_QUESTIONS + 1))
