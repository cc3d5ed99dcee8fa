"""Which message of an HTTP response answers the request. Pure.

The response to a `POST` belongs to the one request in it. So a reply in it is the answer even if its id is missing, is
text, or is one that no request ever had; and an error without an id says that the request was not read.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

import orjson

from mcp_guard.core import exact_json
from mcp_guard.core.message_remains import request_number
from mcp_guard.core.model import Json
from mcp_guard.protocol.batches import split_batch
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.methods import INTERNAL_ERROR, METHOD_NOT_FOUND

PING_ID = "mcp-guard-ping"
"""How the ids of our own pings begin. INVARIANT: their replies are the answer to no other request."""


class HttpAnswerKind(Enum):
    """What a message is to the request whose response it came in."""

    REPLY = auto()
    UNIDENTIFIED_ERROR = auto()
    """An error with no id, or one of no request: servers that do not know the session, or cannot read the request."""
    UNREADABLE = auto()
    """Something like a message; it may have been the reply."""
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One message. A reply and an unidentified error have the id of the request in `frame`, whatever they came with."""

    kind: HttpAnswerKind
    frame: bytes
    is_result: bool = False
    has_other_id: bool = False
    """Whether it came with the id of no request, so that a better one may follow."""
    names_session: bool = False
    """Whether it is an error whose message speaks of a session, which may be lost."""
    is_refusal: bool = False
    """Whether it is an error by whose code the server may refuse whatever it is asked in this session."""
    version: str | None = None
    """`protocolVersion` of the result, if it has one that a header can hold."""


def read_answers(data: bytes, id: Id, open_ids: Collection[Id]) -> list[HttpAnswer]:
    """The messages of a document or of an event: one, or those of an array (revision 2025-03-26, "Batching").

    `open_ids` are those of all requests that are waiting for an answer.
    """
    return [_read_answer(frame, id, open_ids) for frame in split_batch(data)]


def _read_answer(frame: bytes, id: Id, open_ids: Collection[Id]) -> HttpAnswer:
    try:
        message = exact_json.loads(frame)
    except orjson.JSONDecodeError:
        return HttpAnswer(HttpAnswerKind.UNREADABLE if frame.lstrip()[:1] == b"{" else HttpAnswerKind.OTHER, frame)
    if not isinstance(message, dict) or "method" in message:
        return HttpAnswer(HttpAnswerKind.OTHER, frame)
    own_id, is_result, is_error = message.get("id"), "result" in message, isinstance(message.get("error"), dict)
    names_session = is_error and "session" in str(message["error"].get("message")).lower()
    is_refusal = is_error and message["error"].get("code") not in (METHOD_NOT_FOUND, INTERNAL_ERROR)
    if own_id == id and type(own_id) is type(id):
        return HttpAnswer(HttpAnswerKind.REPLY, frame, is_result, False, names_session, is_refusal, _version(message))
    if isinstance(own_id, str) and own_id.startswith(PING_ID):
        return HttpAnswer(HttpAnswerKind.OTHER, frame)
    number = request_number(own_id)
    is_spelled_otherwise = number is not None and number == id
    if not is_spelled_otherwise and number is not None and _was_sent(number, id, open_ids):
        return HttpAnswer(HttpAnswerKind.OTHER, frame)
    if is_result or is_spelled_otherwise:
        has_other_id = not is_spelled_otherwise and own_id is not None
        return HttpAnswer(
            HttpAnswerKind.REPLY,
            _with_id(frame, id),
            is_result,
            has_other_id,
            names_session,
            is_refusal,
            _version(message),
        )
    return (
        HttpAnswer(HttpAnswerKind.UNIDENTIFIED_ERROR, _with_id(frame, id), is_refusal=is_refusal)
        if is_error
        else HttpAnswer(HttpAnswerKind.OTHER, frame)
    )


def is_of_another(frame: bytes, open_ids: Collection[Id]) -> bool:
    """Whether this is a request or a notification of the server, or the reply to one of these requests by its id."""
    try:
        message = exact_json.loads(frame)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and ("method" in message or request_number(message.get("id")) in open_ids)


def _was_sent(number: int, id: Id, open_ids: Collection[Id]) -> bool:
    """Whether another request of ours has this id, or had it before this one: its late reply is no answer to this."""
    return number in open_ids or (isinstance(id, int) and 0 < number < id)


def _with_id(frame: bytes, id: Id) -> bytes:
    """The object with this id as its last member, which is the one that counts. Every other byte stays as it is."""
    return frame.rstrip()[:-1] + b',"id":' + orjson.dumps(id) + b"}"


def begins_as_reply(data: bytes, id: Id) -> bool:
    """Whether these are the first bytes of the result of this request, as most servers write it.

    It saves parsing the rest, which may be long and is parsed by whoever it is handed on to.
    """
    own_id = orjson.dumps(id)
    return data.startswith(
        (b'{"jsonrpc":"2.0","id":' + own_id + b',"result":{', b'{"id":' + own_id + b',"result":{')
    ) or (data.startswith(b'{"result":{') and data.endswith(b'},"jsonrpc":"2.0","id":' + own_id + b"}"))


def _version(message: Json) -> str | None:
    result = message.get("result")
    version = result.get("protocolVersion") if isinstance(result, dict) else None
    return version if isinstance(version, str) and re.fullmatch(r"[\x21-\x7e]{1,40}", version) else None
