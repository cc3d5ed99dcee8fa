"""The policies in force; a candidate replayed against history; the explanation of one decision."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import HOUR
from mcp_guard.core.policy_approval import hash_of_set, set_material
from mcp_guard.core.visible_text import visible_code
from mcp_guard.ledger.ledger import LOADED_AS
from mcp_guard.policy.authoring.explain import explain, lines
from mcp_guard.policy.authoring.past import decision, versions
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.authoring.set_diff import diff_sets, show_files
from mcp_guard.policy.source import parse_policies
from mcp_guard.storage.contract import Store
from mcp_guard.storage.items import Item
from mcp_guard.web.console import Console, NavigationLink, read_json
from mcp_guard.web.policy_replays import PolicyReplays
from mcp_guard.web.policy_view import RECENT_DAYS, read_counts, read_set
from mcp_guard.web.roles import PAYLOAD_READERS, READERS, Role
from mcp_guard.web.story import may_be_drill

NAV = (NavigationLink("/policies", "Policies", READERS),)
CANDIDATE = "candidate"
"""The kind of item that holds the files of a candidate, so that any gateway answers for it."""
CANDIDATE_LIFETIME = HOUR
MAX_CANDIDATES = 5
"""Of one person; one more forgets their oldest."""
OF_CANDIDATES = PAYLOAD_READERS & READERS
"""Who may read payloads: whoever chooses the policies of a replay finds out what they read of the calls."""
MAX_SEQ_DIGITS = 15


def routes(console: Console) -> list[Route]:
    pages = _PolicyPages(console, PolicyReplays(console.settings, console.reader))
    return [
        Route("/policies", pages.show),
        Route("/policies/candidate", pages.add_candidate, methods=["POST"]),
        Route("/policies/candidate/{set}", pages.show_candidate),
        Route("/policies/candidate/{set}/replay", pages.replay),
        Route("/policies/decision", pages.explain_decision),
    ]


@dataclass(frozen=True, slots=True)
class _PolicyPages:
    console: Console
    replays: PolicyReplays

    async def show(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *READERS)
        counts = await console.search.read(lambda index: read_counts(index, console.now()))
        view = await console.reader.read(lambda store: read_set(store, counts))
        receipts = (await console.search.progress())[1]
        return console.page(
            "policies.html",
            viewer,
            view=view,
            calls=counts.calls,
            days=RECENT_DAYS,
            indexed=counts.indexed,
            receipts=receipts,
            may_explain=Role.AUDITOR in viewer.roles,
        )

    # A candidate

    async def add_candidate(self, request: Request) -> Response:
        """Take the text of one file, in place of the file of that name in force, or beside the others."""
        console = self.console
        viewer, body = await console.allowed(request, *OF_CANDIDATES), await read_json(request)
        file, text = str(body.get("file", "")), str(body.get("text", ""))
        texts = dict(await console.reader.read(_texts_in_force)) | {file: text}
        await asyncio.to_thread(parse_policies, texts, tuple(console.settings.routes))
        policy_set, expires = hash_of_set(texts), console.now() + CANDIDATE_LIFETIME
        item = Item(CANDIDATE, policy_set, viewer.person.owner, set_material(texts), expires)
        await console.items.put(item, console.now())
        await console.forget_oldest(CANDIDATE, viewer.person.owner, MAX_CANDIDATES)
        return JSONResponse({"go": f"/policies/candidate/{policy_set}"})

    async def _candidate(self, request: Request) -> tuple[str, Mapping[str, str]]:
        policy_set = request.path_params["set"]
        item = await self.console.items.get(CANDIDATE, policy_set, self.console.now())
        if item is None:
            raise HTTPException(404, "no such candidate; candidates are kept for an hour: enter it again")
        texts: dict[str, str] = orjson.loads(item.value)["policies"]
        return policy_set, texts

    async def show_candidate(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *OF_CANDIDATES)
        policy_set, texts = await self._candidate(request)
        before = await console.reader.read(_texts_in_force)
        files = await asyncio.to_thread(lambda: show_files(diff_sets(before, texts)))
        return console.page("policy_candidate.html", viewer, policy_set=policy_set, files=files)

    async def replay(self, request: Request) -> Response:
        viewer = await self.console.allowed(request, *OF_CANDIDATES, is_part=True)
        replay = await self.replays.ask(*await self._candidate(request))
        return self.console.page("policy_replay_part.html", viewer, replay=replay)

    # One decision

    async def explain_decision(self, request: Request) -> Response:
        """For those who may read payloads: conditions are shown with the values that they read."""
        console, what = self.console, request.query_params.get("what", "").strip()
        viewer = await console.allowed(request, *OF_CANDIDATES)
        past, version = await console.reader.read(lambda store: _find(store, what, console.settings.time_zone))
        assert past.material is not None
        explanation = await asyncio.to_thread(explain, version, past.material)
        text = visible_code("\n".join(lines(explanation)))
        return console.page("policy_decision.html", viewer, receipt=past.receipt, text=text)


def _texts_in_force(store: Store) -> dict[str, str]:
    version = store.noted(LOADED_AS)
    material = store.policy(version) if version else None
    texts: dict[str, str] = orjson.loads(material)["policies"] if material else {}
    return texts


def _find(store: Store, what: str, time_zone: str) -> tuple[RecordedDecision, PolicyVersion]:
    """The decision of a receipt or call. Raises: HTTPException, LedgerError."""
    is_number = what.isascii() and what.isdecimal() and len(what) <= MAX_SEQ_DIGITS
    seqs = [int(what)] if is_number else [row.seq for row in store.receipts_of(what)]
    found = [past for seq in seqs if (past := decision(store, seq, time_zone))]
    if not found:
        raise HTTPException(404, f"no decision in receipt or call `{what[:100]}`")
    past = found[-1]
    if past.material is None:
        why = "its request was erased or redacted" if past.asked else "no policy was evaluated for it"
        raise LedgerError(f"receipt {past.receipt['seq']} cannot be explained: {why}", "choose another one")
    if may_be_drill([orjson.loads(row.body) for row in store.receipts_of(past.receipt["call"])]):
        what = f"receipt {past.receipt['seq']} cannot be explained while people decide on it: its route has drills"
        raise LedgerError(what, "look again once it is decided")
    version = versions(store)(past.receipt["policy_version"])
    if version is None:
        raise LedgerError("the text of its policies is not stored", "choose another one")
    return past, version
