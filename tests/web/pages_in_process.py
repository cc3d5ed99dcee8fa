"""The pages at a real origin in this process, over a real ledger."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2 as httpx

from mcp_guard.config.file import check
from mcp_guard.core.approval import Route
from mcp_guard.core.model import Agent, Json, ToolCallRequest
from mcp_guard.ledger.approvals.approver_keys import CodeKind
from mcp_guard.ledger.approvals.sign_in_codes import make_code
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.web.app import make_app, make_console
from mcp_guard.web.console import Console
from mcp_guard.web.middleware import SameOriginMiddleware
from mcp_guard.web.sessions import Person
from tests.promises.harness import ALLOW, HOLD, PEOPLE, ROUTES, Harness, make_instance, open_harness, pending_id

ORIGIN = "https://guard.example"
CONFIG = f'''
[guard]
policies = "policies.cedar"
[approvers.alice]
name = "Alice"
[approvers.bob]
name = "Bob"
[routes.people]
approvers = ["alice", "bob"]
quorum = 2
[web]
url = "{ORIGIN}"
'''
ISSUER = "https://idp.example"
PROVIDER = f'''
[web.oidc]
issuer = "{ISSUER}"
client_id = "guard"
[web.oidc.roles]
user = {{ role = ["user"] }}
viewer = {{ role = ["viewer"] }}
auditor = {{ role = ["auditor"] }}
operator = {{ role = ["operator"] }}
'''


@dataclass
class Pages:
    harness: Harness
    console: Console
    app: SameOriginMiddleware
    clients: list[httpx.AsyncClient]

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.clients.append(httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers={"origin": ORIGIN}))
        return self.clients[-1]

    def code(self, approver: str = "alice", kind: CodeKind = "sign_in_code") -> str:
        return make_code(self.harness.ledger.writer, approver, kind)

    async def sign_in(self, approver: str = "alice", code: str = "") -> httpx.AsyncClient:
        client = self.client()
        reply = await client.post("/sign-in", content=f"code={code or self.code(approver)}")
        assert reply.status_code == 200, reply.text
        return client

    async def sign_in_by_provider(self, role: str) -> httpx.AsyncClient:
        """Somebody who is no approver."""
        person = Person("", "Zoe", ISSUER, "zoe", {"role": role})
        client, console = self.client(), self.console
        client.cookies.set("__Host-mcp-guard", await console.sessions.open(person, console.now()))
        return client

    async def call(self, **arguments: Any) -> Json:
        call = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150} | arguments)
        return await self.harness.guard.call(make_instance(agent=Agent("a", "zed", ())), call)

    async def hold(self, **arguments: Any) -> str:
        return pending_id(await self.call(**arguments))


@asynccontextmanager
async def open_pages(folder: Path, config: str = CONFIG) -> AsyncIterator[Pages]:
    routes = {"people": replace(ROUTES["people"], quorum=2)}
    async with pages_over(open_harness(folder, f"{ALLOW}\n{HOLD}", routes=routes), folder, config, routes) as made:
        yield made


@asynccontextmanager
async def pages_over(
    harness: Harness, folder: Path, config: str, routes: Mapping[str, Route], people: Mapping[str, str] = PEOPLE
) -> AsyncIterator[Pages]:
    settings = replace(check(config, folder / "mcp-guard.toml"), state_dir=folder / "state", routes=routes)
    ledger = harness.ledger
    items, proofs = ledger.engine.open_items(folder), ledger.engine.open_used_proofs(folder)
    console = make_console(settings, Votes(ledger.writer, routes, people), ledger.reader, items, proofs, ORIGIN)
    made = Pages(harness, console, make_app(console), [])
    yield made
    for client in made.clients:
        await client.aclose()
    await items.close()
    await proofs.close()
    await ledger.reader.close()
