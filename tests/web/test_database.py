"""The inbox of a ledger in PostgreSQL: its pages read and write without waiting for the database on the event loop."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.config import load
from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.place import Database
from mcp_guard.web.carrier import cookie_name
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import cli, text, write_config
from tests.proof_size import in_full
from tests.storage.postgres_network import network
from tests.storage.postgres_server import server
from tests.web.inbox_client import InboxClient
from tests.web.inbox_process import InboxScenario, free_port, inbox_scenario
from tests.web.software_passkey import SoftwarePasskey
from tests.web.web_client import WebClient
from tests.web.web_process import HOST, make_certificate, web_section


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InboxScenario]:
    monkeypatch.setenv("DATABASE_URL", server().url)

    def edit(config: str) -> str:
        own = config.replace("crm-example.local/ledger", f"crm-example.local/{tmp_path.name}")
        return f'{own}\n[ledger]\ndatabase = {{ env = "DATABASE_URL" }}\n'

    with inbox_scenario(tmp_path, edit) as made:
        yield made


def test_a_request_is_decided_in_the_inbox(on: InboxScenario) -> None:
    held = on.hold()
    [request] = on.requests()
    client, passkey = InboxClient(on.url).sign_in(on.code()), SoftwarePasskey(on.url)
    assert client.enrol(passkey) == (200, {"go": "/keys"})
    for path in ("/", "/history", "/keys", f"/requests/{request['id']}"):
        status, page = client.get(path)
        assert status == 200, page
    status, answer = client.decide(request["id"], passkey)
    assert (status, answer["state"], answer["go"]) == (200, "approved", "/")
    assert "Closed Won" in text(on.client.wait(held))
    assert client.get(f"/requests/{request['id']}/state") == (200, {"state": "consumed"})
    assert "approved and used" in client.get("/history")[1]
    with open_read_only(Database(server().url, load(on.config).origin)) as store:
        kinds = [row.kind for row in store.receipts_after(-1)]
    assert {"approver.enrolled", "approval.granted", "approval.consumed"} <= set(kinds)


@in_full
def test_two_passkeys_at_once_cannot_be_enrolled_with_one_code(on: InboxScenario) -> None:
    enrolling = cli("approvers", "code", "alice", "--enrol", "--json", "--config", str(on.config)).stdout
    client = InboxClient(on.url).sign_in(json.loads(enrolling)["code"])
    credentials = [SoftwarePasskey(on.url).register(client.post("/passkeys/options")[1]) for _ in range(4)]
    with ThreadPoolExecutor() as threads:
        statuses = list(threads.map(lambda credential: client.post("/passkeys", credential)[0], credentials))
    assert statuses.count(200) == 1


def test_pages_wait_for_a_database_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with network(server().url) as between:
        monkeypatch.setenv("DATABASE_URL", between.url)
        certificate, port = make_certificate(tmp_path), free_port()
        more = f'[ledger]\ndatabase = {{ env = "DATABASE_URL" }}\n{web_section(port)}'
        config = write_config(tmp_path, "", more=more, guard=f'origin = "away.example/{tmp_path.name}"')
        between.is_down = True
        pages = Forked(["web", "--config", str(config)], stderr=PIPE, text=True)
        assert pages.stderr is not None
        notes = pages.stderr.readline()
        assert "waiting for the database: the database cannot be reached" in notes
        between.is_down = False
        client = WebClient(f"https://{HOST}:{port}", context=certificate.context)
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                assert client.get("/sign-in")[0] == 200
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        between.is_down = True
        between.cut()
        stranger = replace(client, cookies={cookie_name(client.url): "of nobody"})
        status, page = stranger.get("/ledger")
        assert (status, "cannot use its ledger" in page, "127.0.0.1" in page) == (503, True, False), page
        pages.terminate()
        pages.wait(30)
        pages.stderr.close()
