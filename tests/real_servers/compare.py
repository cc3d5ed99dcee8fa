"""What a server says, as labelled values, and how what it says through the guard differs.

The server is observed twice directly, each time as a new process in a new folder: what differs between the two is not
compared. Everything else is, down to the spelling of numbers and the order of members.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.real_servers.raw import NoReply, Object, RawClient

MAX_READS = 5
UNKNOWN = "no-such-thing"
Observation = dict[str, Any]
"""By label: a definition of a listing, the order of a listing, or the result or error of a request."""

LISTINGS = (
    ("tool", "tools/list", "tools", "name"),
    ("resource", "resources/list", "resources", "uri"),
    ("template", "resources/templates/list", "resourceTemplates", "uriTemplate"),
    ("prompt", "prompts/list", "prompts", "name"),
)


class Varies:
    """Stands in a pattern where the two direct observations differ."""


VARIES = Varies()


@dataclass(frozen=True)
class Difference:
    label: str
    kind: str
    """`missing` (listed or answered directly only), `refused`, `added`, `differs`, or `error` (in other words)."""
    direct: str
    through: str


async def observe(client: RawClient, calls: Sequence[tuple[str, Any]], prefix: str = "") -> tuple[Observation, float]:
    """List everything, make the calls, read and get some of what is listed, and ask for what does not exist.

    Returns the observation, in which names have lost `prefix`, and the seconds until the first listing was complete.
    """
    reply, seconds = await client.start()
    capabilities = dict(reply.member("result").member("capabilities"))
    seen: Observation = {}
    listed: dict[str, list[Object]] = {}
    for kind, method, member, key in LISTINGS:
        if (member if kind in ("tool", "prompt") else "resources") not in capabilities:
            continue
        items = await client.every(method, member)
        if isinstance(items, Object):
            seen[f"{kind} listing"] = Object([("error", items)])
            continue
        named = [_unprefixed(item, prefix) for item in items]
        listed[kind] = [
            item for item in named if not str(item.member("name")).startswith("guard__") and not _task(item)
        ]
        seen[f"order of {kind}s"] = [item.member(key) for item in listed[kind]]
        seen |= {f"{kind} {item.member(key)}": item for item in listed[kind]}
        if kind == "tool":
            seconds += client.last_seconds
    await _ask(client, seen, calls, listed, prefix)
    return seen, seconds


async def _ask(
    client: RawClient,
    seen: Observation,
    calls: Sequence[tuple[str, Any]],
    listed: Mapping[str, Sequence[Object]],
    prefix: str,
) -> None:
    for number, (tool, arguments) in enumerate(calls, 1):
        params = {"name": prefix + tool, "arguments": arguments}
        seen[f"call {number} {tool}"] = await _outcome(client, "tools/call", params)
    for item in listed.get("resource", [])[:MAX_READS]:
        seen[f"read {item.member('uri')}"] = await _outcome(client, "resources/read", {"uri": item.member("uri")})
    for item in listed.get("prompt", [])[:MAX_READS]:
        needed = [one.member("name") for one in item.member("arguments", []) if one.member("required")]
        params = {"name": prefix + item.member("name"), "arguments": dict.fromkeys(needed, "x")}
        seen[f"get {item.member('name')}"] = await _outcome(client, "prompts/get", params)
    seen["unknown tool"] = await _outcome(client, "tools/call", {"name": prefix + UNKNOWN, "arguments": {}})
    if "resource" in listed:
        seen["unknown resource"] = await _outcome(client, "resources/read", {"uri": f"{UNKNOWN}://x"})
    if "prompt" in listed:
        seen["unknown prompt"] = await _outcome(client, "prompts/get", {"name": prefix + UNKNOWN, "arguments": {}})


def _task(tool: Object) -> bool:
    """Whether the tool runs only as a task, which the guard does not pass on."""
    return isinstance(tool.member("execution"), Object) and tool.member("execution").member("taskSupport") == "required"


def _unprefixed(item: Object, prefix: str) -> Object:
    return Object((key, value.removeprefix(prefix) if key == "name" else value) for key, value in item)


async def _outcome(client: RawClient, method: str, params: dict[str, Any]) -> Object:
    """The reply without its id, or a stand-in where there is none."""
    try:
        reply = await client.request(method, params)
    except NoReply as e:
        return Object([("no reply", str(e))])
    return Object((key, value) for key, value in reply if key in ("result", "error"))


def is_reply(value: Any) -> bool:
    """Whether this is the outcome of a request, and not a definition or an order."""
    return isinstance(value, Object) and _keys(value) in (["result"], ["error"], ["no reply"])


def is_refusal(outcome: Any) -> bool:
    """Whether this outcome is a protocol error, a tool's error, or none at all."""
    result = outcome.member("result") if isinstance(outcome, Object) else None
    return not isinstance(result, Object) or result.member("isError") is True


def pattern(first: Any, second: Any) -> Any:
    """What both have in common; `VARIES` stands where they differ."""
    if isinstance(first, Object) and isinstance(second, Object) and _keys(first) == _keys(second):
        return Object((key, pattern(a, b)) for (key, a), (_, b) in zip(first, second, strict=True))
    if type(first) is list and type(second) is list and len(first) == len(second):
        return [pattern(a, b) for a, b in zip(first, second, strict=True)]
    return first if type(first) is type(second) and first == second else VARIES


def matches(wanted: Any, value: Any) -> bool:
    if wanted is VARIES:
        return True
    if isinstance(wanted, Object) and isinstance(value, Object):
        return _keys(wanted) == _keys(value) and all(
            matches(a, b) for (_, a), (_, b) in zip(wanted, value, strict=True)
        )
    if type(wanted) is list and type(value) is list:
        return len(wanted) == len(value) and all(map(matches, wanted, value))
    return type(wanted) is type(value) and wanted == value


def _keys(value: Object) -> list[str]:
    return [key for key, _ in value]


def compare(first: Observation, second: Observation, through: Observation) -> Iterator[Difference]:
    for label, direct in first.items():
        if label not in through:
            yield Difference(label, "missing", show(direct), "")
        elif not matches(pattern(direct, second.get(label)), through[label]):
            yield Difference(label, _kind(label, direct, through[label]), show(direct), show(through[label]))
    for label in through.keys() - first.keys():
        yield Difference(label, "added", "", show(through[label]))


def _kind(label: str, direct: Any, through: Any) -> str:
    if not is_reply(direct) or not is_refusal(through):
        return "differs"
    is_error = is_refusal(direct) or label.startswith("unknown ")  # which some servers do not mark as an error
    return "error" if is_error else "refused"


def show(value: Any) -> str:
    """Like JSON, for people."""
    if isinstance(value, Object):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(show, value)) + "]"
    return str(value)
