"""Two ledgers in one PostgreSQL database: whoever has every role at one origin sees nothing of the other's on any page.

All words that only the other ledger has are looked for in each answer of each route of `PAGES`, asked with its ids.
"""

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from starlette.routing import Route

from mcp_guard.config import load
from mcp_guard.ledger.place import ledger_place
from mcp_guard.shared_secret import read_shared_secret
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.items import Item
from mcp_guard.web.carrier import cookie_name
from mcp_guard.web.pages import PAGES
from mcp_guard.web.sessions import BrowserSessions, Person
from tests.live.running_guard import Client, cli, log
from tests.storage.postgres_server import server
from tests.web.inbox_process import CLOSING, free_port, prepare
from tests.web.software_passkey import SoftwarePasskey
from tests.web.web_client import WebClient
from tests.web.web_process import make_certificate, web_process, web_section

OF_OTHER = {"deal-update-agent": "zebra-agent", 'owner = "bob"': 'owner = "zebra-owner"'}
WORDS = ("zebra-agent", "zebra-owner", "zebra-note", "zebra-reason", "INC-90210", "other/ledger")
ROLES = (
    '[web.roles]\nviewer = ["alice"]\nauditor = ["alice"]\noperator = ["alice"]\n[notifiers.phones]\nkind = "push"\n'
)
ENDS_THE_SESSION = ("/sign-out", "/sign-out/everywhere")


@dataclass(frozen=True)
class Other:
    """The other ledger. `approval` is a request that waits, `call` one that was made."""

    config: Path
    approval: str
    call: str
    instance: str
    candidate: str

    @property
    def words(self) -> tuple[str, ...]:
        return (*WORDS, self.approval, self.call, self.instance, self.candidate)

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """By the name of a parameter of a route: what is asked for."""
        return {
            "id": (self.approval,),
            "what": (self.call, "0"),
            "name": ("zebra-agent", self.instance, "crm__update_deal"),
            "set": (self.candidate,),
            "upstream": ("crm",),
        }


def configure(folder: Path, origin: str, changes: dict[str, str], more: str) -> Path:
    folder.mkdir()
    config = prepare(folder)
    text = config.read_text().replace("crm-example.local/ledger", f"{folder.parent.name}/{origin}")
    for old, new in changes.items():
        text = text.replace(old, new)
    section = '\n[ledger]\ndatabase = { env = "DATABASE_URL" }\nshared_secret = { env = "SHARED" }\n'
    config.write_text(f"{text}{section}{more}")
    return config


def fill(config: Path) -> Other:
    """A call that was made, and one that waits."""
    with Client(config, ("--ticket", "INC-90210")) as client:
        client.start()
        client.tools()
        client.call("crm__update_deal", {"deal_id": "789", "notes": "zebra-note", "guard_reason": "zebra-reason"})
        client.send("tools/call", {"name": "crm__update_deal", "arguments": CLOSING | {"guard_reason": "zebra-reason"}})
        while not (waiting := json.loads(cli("approvals", "list", "--json", "--config", str(config)).stdout)):
            pass
        [done] = log(config, "--tool", "crm__update_deal", "--outcome", "ok", "--kind", "outcome")
        candidate = f"sha256:{secrets.token_hex(32)}"
        text = json.dumps({"policies": {"a.cedar": "// zebra-note"}}).encode()

        async def keep() -> None:
            items = find_engine(ledger_place(load(config))).open_items(load(config).state_dir)
            await items.put(Item("candidate", candidate, "approver/alice", text, 1 << 60), 0)
            await items.close()

        asyncio.run(keep())
        shown = cli("log", "--json", "--config", str(config)).stdout
        assert [word for word in WORDS if word not in shown] == ["zebra-note"], "a payload, and all others in receipts"
        return Other(config, waiting[0]["id"], done["call"], done["instance"], candidate)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", server().url)
        environment.setenv("SHARED", secrets.token_hex(32))
        yield fill(configure(tmp_path_factory.mktemp("origins") / "a", "other/ledger", OF_OTHER, ""))


@pytest.fixture(scope="module")
def client(other: Other) -> Iterator[WebClient]:
    """Of somebody with a passkey and every role at the pages of an origin without calls."""
    port = free_port()
    config = configure(other.config.parent.parent / "b", "own", {}, f"{web_section(port)}{ROLES}")
    certificate = make_certificate(config.parent)
    with web_process(config) as url:
        code = json.loads(cli("approvers", "code", "alice", "--json", "--config", str(config)).stdout)["code"]
        yield WebClient(url, context=certificate.context).sign_in(code)


def own_routes(client: WebClient, other: Other) -> list[Route]:
    settings = load(other.config.parent.parent / "b" / other.config.name)
    console: Any = SimpleNamespace(
        settings=settings, reader=None, provider=None, offers_push=True, upstream_sign_ins=None
    )
    return [route for page in PAGES for route in page.routes(console)]


def addresses(route: Route, other: Other) -> list[str]:
    """The addresses of the route with what the other ledger has."""
    paths = [route.path]
    for name in route.param_convertors:
        marks = [f"{{{name}{suffix}}}" for suffix in ("", ":path", ":int")]
        mark = next(mark for mark in marks if mark in route.path)
        fitting = [value for value in other.values[name] if mark != marks[2] or value.isdecimal()]
        paths = [path.replace(mark, quote(value, safe="")) for path in paths for value in fitting]
    return paths


def queries(other: Other) -> list[str]:
    searches = {"agent": "zebra*", "user": "zebra*", "ticket": "INC-90210", "instance": other.instance, "show": "all"}
    return [
        *(f"/ledger?{name}={quote(value)}" for name, value in searches.items()),
        f"/ledger?part=rows&agent={WORDS[0]}",
        f"/policies/decision?what={other.call}",
        f"/agents?before={other.instance}~",
        f"/?after=1.{other.approval}",
        "/overview?part=overview",
        "/history?after=1",
    ]


def check(asked: str, answer: object, other: Other) -> None:
    """Nothing of the other ledger is in the answer but what was asked for."""
    shown = str(answer)
    assert [word for word in other.words if word in shown and word not in asked] == [], f"{asked}: {shown}"


def test_no_page_shows_anything_of_another_origin(client: WebClient, other: Other) -> None:
    passkey = SoftwarePasskey(client.url)
    assert client.enrol(passkey)[0] == 200
    body = {
        "approval": other.approval, "proposal": other.approval, "verdict": "approve", "rationale": "x", "reason": "x",
        "action": "instance.revoke", "target": {"name": other.instance}, "file": "a.cedar", "text": "",
    }  # fmt: skip
    asked = [(method, path) for route in own_routes(client, other) for path in addresses(route, other)
             for method in (route.methods or set()) - {"HEAD"} if path not in ENDS_THE_SESSION]  # fmt: skip
    assert len(asked) > 40
    for method, path in [*asked, *(("GET", query) for query in queries(other))]:
        status, answer = client.request(method, path, json.dumps(body) if method == "POST" else "")
        check(f"{path} {body if method == 'POST' else ''}", answer, other)
        is_about_other = any(word in path for word in other.words)
        assert not is_about_other or status >= 400 or "?" in path or path.endswith("update_deal"), path
    status, options = client.post("/operations/options", body)
    assert status == 200
    assert "no instance" in client.post("/operations", passkey.sign(options))[1]["problem"]
    kinds = {row["kind"] for row in log(other.config)}
    assert kinds.isdisjoint(("approval.granted", "approval.denied", "instance.revoked"))


def test_session_and_code_of_another_origin_open_nothing(client: WebClient, other: Other) -> None:
    """Also if both have one shared secret and one address."""
    settings = load(other.config)

    async def open_session() -> str:
        items = find_engine(ledger_place(settings)).open_items(settings.state_dir)
        key = read_shared_secret(settings).derive("web-session")
        token = await BrowserSessions(items, key, client.url).open(Person("alice"), 1_790_000_000_000_000)
        await items.close()
        return token

    stolen = replace(client, cookies={cookie_name(client.url): asyncio.run(open_session())})
    assert stolen.get("/ledger")[0] == 401
    code = json.loads(cli("approvers", "code", "alice", "--json", "--config", str(other.config)).stdout)["code"]
    assert replace(client, cookies={}).request("POST", "/sign-in", f"code={code}")[0] == 403
