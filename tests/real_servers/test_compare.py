"""The comparison of `make servers` notices what it should, and one real server is the same through the guard."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.real_servers.catalogue import BIN, SERVERS, Server
from tests.real_servers.compare import Observation, compare
from tests.real_servers.raw import parse
from tests.real_servers.run import Comparison

NODE = Path(__file__).parent.parent / "node" / "node_modules"


def difference(direct: str, through: str, again: str = "", label: str = "call 1 t") -> str | None:
    """The kind of the first difference between replies, given as JSON."""
    first: Observation = {label: parse(direct)}
    found = compare(first, {label: parse(again or direct)}, {label: parse(through)} if through else {})
    return next((one.kind for one in found), None)


def test_replies_that_are_spelled_the_same_are_the_same() -> None:
    reply = '{"result": {"content": [], "n": 1.0, "big": 123456789012345678901234567890}}'
    assert difference(reply, reply) is None


@pytest.mark.parametrize(
    "changed",
    [
        '{"result": {"n": 1, "m": [1]}}',  # 1.0 became 1
        '{"result": {"m": [1], "n": 1.0}}',  # another order
        '{"result": {"n": 1.0}}',
        '{"result": {"n": 1.0, "m": []}}',
        '{"result": {"n": "1.0", "m": [1]}}',
        '{"result": {"n": 1.0, "m": [1], "more": true}}',
    ],
)
def test_lossy_replies_differ(changed: str) -> None:
    assert difference('{"result": {"n": 1.0, "m": [1]}}', changed) == "differs"


def test_what_varies_directly_is_not_compared() -> None:
    at_one, at_two = '{"result": {"at": 1, "n": 1}}', '{"result": {"at": 2, "n": 1}}'
    assert difference(at_one, '{"result": {"at": 3, "n": 1}}', again=at_two) is None
    assert difference(at_one, '{"result": {"at": 3, "n": 2}}', again=at_two) == "differs"


def test_a_working_call_that_fails_through_the_guard_is_refused() -> None:
    works = '{"result": {"content": []}}'
    assert difference(works, '{"result": {"content": [], "isError": true}}') == "refused"
    assert difference(works, '{"error": {"code": -32602}}') == "refused"
    assert difference(works, '{"error": {"code": -32602}}', label="unknown tool") == "error"
    assert difference('{"error": {"code": 1}}', '{"error": {"code": 2}}') == "error"


def test_what_is_not_listed_through_the_guard_is_missing() -> None:
    assert difference('{"name": "t"}', "", label="tool t") == "missing"


async def test_a_real_server_is_the_same_through_the_guard(tmp_path: Path) -> None:
    listed = next(server for server in SERVERS if server.name == "filesystem")
    entry = NODE / listed.package / "dist" / "index.js"
    sample: Server = replace(listed, argv=(str(BIN / "node"), str(entry), "{work}"))
    row = await Comparison(sample, tmp_path, "").run()
    assert not row.failure
    assert row.count("tool") == row.sdk == row.wrapped == 14
    assert [one for one in row.differences if one.label != "unknown tool"] == []
