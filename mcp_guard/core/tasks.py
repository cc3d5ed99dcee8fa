"""The tasks extension of revision 2026-07-28 (SEP-2663): its names, and what is read from a task. Pure.

An upstream may answer a tool call with a task, and tell its result later. The intent of the call stays open until then.
"""

import re
from typing import Any

from mcp_guard.core.model import SECOND, Json, Micros

EXTENSION = "io.modelcontextprotocol/tasks"
GET_TASK, UPDATE_TASK, CANCEL_TASK = "tasks/get", "tasks/update", "tasks/cancel"
TASK_METHODS = (GET_TASK, UPDATE_TASK, CANCEL_TASK)
TASK_CHANGED = "notifications/tasks"
ENDED = ("completed", "failed", "cancelled")
"""The states in which a task stays."""
ID = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")
MAX_TTL: Micros = 30 * 86_400 * SECOND
GRACE: Micros = 86_400 * SECOND
"""How long after its time to live an upstream can still say how a task ended, before nobody waits for that any more."""
DEFAULT_POLL_SECONDS, MIN_POLL_SECONDS, MAX_POLL_SECONDS = 5.0, 0.5, 60.0


def offers_tasks(capabilities: object) -> bool:
    """Whether a client or server with these capabilities speaks the extension."""
    extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
    return isinstance(extensions, dict) and isinstance(extensions.get(EXTENSION), dict)


def read_task_id(task: Json) -> str:
    """The upstream's id of a task. Raises: ValueError if it has none that can be used."""
    id = task.get("taskId")
    if not isinstance(id, str) or not ID.fullmatch(id):
        raise ValueError("`taskId` must be a text of 1 to 1024 characters, without control characters")
    return id


def time_to_live(task: Json) -> Micros:
    """For how long after its creation the upstream may be asked how the task ended."""
    return min(_number(task.get("ttlMs"), MAX_TTL // 1000) * 1000, MAX_TTL) + GRACE


def poll_seconds(task: Json) -> float:
    """How often the upstream is asked about it, at most."""
    wanted = _number(task.get("pollIntervalMs"), int(DEFAULT_POLL_SECONDS * 1000)) / 1000
    return min(max(wanted, MIN_POLL_SECONDS), MAX_POLL_SECONDS)


def _number(value: Any, default: int) -> int:
    return value if type(value) is int and value > 0 else default
