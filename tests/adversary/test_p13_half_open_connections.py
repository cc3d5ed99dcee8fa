"""Attack on P13: connections that never finish a request take all descriptors, and keep the guard from ending."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import cli, scripted, write_config

DESCRIPTORS = 128
UNFINISHED = {
    "nothing": b"",
    "headers": b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    "body": b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n",
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port))
    with Served(config, port, descriptors=DESCRIPTORS) as running:
        yield running


@pytest.mark.parametrize("kind", UNFINISHED)
def test_others_are_served_and_the_guard_ends_beside_unfinished_requests(served: Served, kind: str) -> None:
    with ExitStack() as stack:
        for _ in range(2 * DESCRIPTORS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=5))
            connection.sendall(UNFINISHED[kind])
        assert served.health()["status"] == "ok"
        client = served.raw(served.issue()[1])
        client.start()
        assert "result" in client.call("up__echo", {"text": "x"})
        begun = time.monotonic()
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert time.monotonic() - begun < 12


def test_a_disconnect_in_the_middle_of_a_body_is_not_an_internal_error(served: Served) -> None:
    token = served.issue()[1]
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
    assert served.health()["status"] == "ok"
    served.process.terminate()
    assert served.process.wait(60) == 0
    assert served.process.stderr is not None
    assert "Traceback" not in served.process.stderr.read()


def test_outcomes_are_recorded_when_the_guard_ends_beside_unfinished_requests(served: Served) -> None:
    client = served.raw(served.issue()[1])
    client.start()
    client.call("up__echo", {"text": "x"})
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(UNFINISHED["headers"])
        served.process.terminate()
        assert served.process.wait(60) == 0
    receipts = cli("log", "--config", str(served.config), "--json").stdout
    kinds = [receipt["kind"] for receipt in json.loads(receipts)]
    assert kinds.count("outcome") == kinds.count("intent") == 1
    assert kinds[-1] == "guard.stopped"
