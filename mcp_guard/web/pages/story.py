"""A call, or a single receipt: what became of it, each step, whether it can be proved, and its proof as a file."""

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import format_time
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.call_receipts import find_problem, find_receipts, read_payloads, read_receipt
from mcp_guard.ledger.export import LedgerProofs
from mcp_guard.ledger.place import ledger_place
from mcp_guard.ledger.receipt_search import MALFORMED
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.roles import READERS, Role
from mcp_guard.web.story import Payloads, Story, make_story, without_what_tells

MAX_RECEIPTS = 200
"""Of one call on a page: a grant can have many uses."""
MAX_CHECKED = 40
MAX_WORD = 100
NAV: tuple[NavigationLink, ...] = ()


def routes(console: Console) -> list[Route]:
    pages = _StoryPages(console)
    return [
        Route("/calls/{what}", pages.show),
        Route("/calls/{what}/proof", pages.proof),
        Route("/calls/{what}/bundle", pages.bundle),
        Route("/ledger/{what}", pages.show),
    ]


@dataclass(frozen=True, slots=True)
class _StoryPages:
    console: Console

    async def show(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *READERS)
        sees_payloads = Role.AUDITOR in viewer.roles
        story = await console.reader.read(lambda store: self._read(store, _named(request), sees_payloads))
        return console.page(
            "story.html",
            viewer,
            story=story,
            name=_named(request),
            sees_payloads=sees_payloads,
            is_long=len(story.seqs) >= MAX_RECEIPTS,
        )

    def _read(self, store: Store, what: str, sees_payloads: bool) -> Story:
        """Raises: HTTPException, LedgerError."""
        try:
            receipts = without_what_tells(find_receipts(store, what))[:MAX_RECEIPTS]
            payloads: Payloads = {}
            if sees_payloads:
                payloads = {receipt["seq"]: read_payloads(store, receipt["seq"]) for receipt in receipts}
            return make_story(receipts, payloads, format_time(self.console.now()))
        except LedgerError:  # its message has the place of the ledger
            raise HTTPException(
                404, say("there is no receipt or call `{}`; search for it in the ledger", what)
            ) from None
        except MALFORMED:
            text = "the ledger has something here that is not a receipt; find out more with: mcp-guard verify"
            raise HTTPException(404, text) from None

    async def proof(self, request: Request) -> Response:
        """Whether the receipts of the call are signed and in the tree that is."""
        console = self.console
        viewer = await console.allowed(request, *READERS, is_part=True)
        seqs = (await self._seqs(_named(request)))[:MAX_CHECKED]
        settings = console.settings
        engine = find_engine(ledger_place(settings))

        def check() -> str:
            store = engine.open_reader()
            try:
                with store.reading():
                    rows = [row for seq in seqs if (row := store.receipt(seq))]
            finally:
                store.close()
            return find_problem(engine, settings.state_dir, [read_receipt(row) for row in rows])

        problem = await asyncio.to_thread(check)
        size = await console.reader.read(lambda store: store.head().size)
        return console.page("proof.html", viewer, problem=problem, checked=len(seqs), size=size)

    async def bundle(self, request: Request) -> Response:
        """The receipts with their proofs, one line each, for anybody with the public key; with `payloads`, for
        auditors, also what they commit to."""
        console = self.console
        with_payloads = request.query_params.get("payloads") == "1"
        await console.allowed(request, *([Role.AUDITOR] if with_payloads else READERS), is_part=True)
        name = _named(request)
        seqs = await self._seqs(name)

        def prove(store: Store) -> bytes:
            proofs = LedgerProofs(store)
            return b"".join(proofs.prove(seq, with_payloads) + b"\n" for seq in seqs if seq < proofs.head.size)

        text = await console.reader.read(prove)
        headers = {"content-disposition": f'attachment; filename="{name}.bundle.jsonl"'}
        return Response(text, media_type="text/plain", headers=headers)

    async def _seqs(self, what: str) -> list[int]:
        def read(store: Store) -> list[int]:
            try:
                return [receipt["seq"] for receipt in without_what_tells(find_receipts(store, what))]
            except LedgerError:
                raise HTTPException(404, say("there is no receipt or call `{}`", what)) from None
            except MALFORMED:
                raise HTTPException(409, "the ledger has something here that is not a receipt") from None

        return await self.console.reader.read(read)


def _named(request: Request) -> str:
    """The number or call in the address. Raises: HTTPException."""
    what = str(request.path_params["what"])
    if len(what) > MAX_WORD or not what.isascii() or not what.replace("_", "").replace("-", "").isalnum():
        raise HTTPException(404, "no call has such a name; search for it in the ledger")
    if what.isdecimal() and len(what) > 15:
        raise HTTPException(404, "the ledger has no receipt of this number")
    return what
