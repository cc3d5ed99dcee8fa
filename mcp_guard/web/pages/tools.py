"""Tools: their definitions and pins, what changed in one that waits, and accepting or refusing it with a passkey."""

import asyncio
import json
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_guard.core import definition_diff
from mcp_guard.core.definition_diff import DiffPart
from mcp_guard.core.hidden_characters import DefinitionFinding
from mcp_guard.core.model import ToolRule
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.core.visible_text import VisibleText, visible, visible_line, visible_lines
from mcp_guard.ledger.tool_entries import ToolEntry, findings, tool_entries
from mcp_guard.upstream.catalog import resolve_effect
from mcp_guard.web.console import Console, NavigationLink
from mcp_guard.web.roles import READERS

NAV = (NavigationLink("/tools", "Tools", READERS),)


def routes(console: Console) -> list[Route]:
    pages = _ToolPages(console)
    return [Route("/tools", pages.show_list), Route("/tools/{name:path}", pages.show)]


@dataclass(frozen=True, slots=True)
class ToolRow:
    """One tool in the list."""

    name: str
    upstream: str
    effect: str
    state: str
    why: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One member of a definition that differs, word by word."""

    where: str
    parts: tuple[DiffPart, ...]


class KnownFindings:
    """What is suspect of each tool. Definitions are looked at once, in a thread, because a server chooses how long they
    are, and the pages share one event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._of: tuple[tuple[str, str], ...] = ()
        self._found: dict[str, tuple[DefinitionFinding, ...]] = {}

    async def of(self, known: dict[str, ToolEntry]) -> dict[str, tuple[DefinitionFinding, ...]]:
        async with self._lock:
            definitions = tuple((name, entry.latest.hash) for name, entry in known.items())
            if self._of != definitions:
                self._found = await asyncio.to_thread(findings, known)
                self._of = definitions
            return self._found


@dataclass(frozen=True, slots=True)
class _ToolPages:
    console: Console
    findings: KnownFindings = field(default_factory=KnownFindings)

    async def show_list(self, request: Request) -> Response:
        console = self.console
        viewer = await console.allowed(request, *READERS)
        known = await console.reader.read(tool_entries)
        flagged = await self.findings.of(known)
        rows = [
            ToolRow(
                name,
                entry.latest.upstream,
                self._effect(entry),
                entry.state,
                entry.latest.why,
                tuple(sorted({finding.check for finding in flagged[name]})),
            )
            for name, entry in known.items()
        ]
        rows.sort(key=lambda row: (row.state == "pinned", row.name))
        return console.page("tools.html", viewer, rows=rows)

    def _effect(self, entry: ToolEntry) -> str:
        rule = self.console.settings.tool_rules.get(entry.name, ToolRule())
        return str(resolve_effect(entry.latest.definition, rule))

    async def show(self, request: Request) -> Response:
        console, name = self.console, request.path_params["name"]
        viewer = await console.allowed(request, *READERS)
        known = await console.reader.read(tool_entries)
        entry = known.get(name)
        if entry is None:
            raise HTTPException(404, "no tool of this name has been seen")
        shown = entry.latest
        return console.page(
            "tool.html",
            viewer,
            can_change=console.can_change(viewer),
            entry=entry,
            shown=shown,
            effect=self._effect(entry),
            differences=await asyncio.to_thread(_differences, entry.pinned, shown) if entry.waiting else [],
            findings=(await self.findings.of(known))[name],
            definition=await asyncio.to_thread(_definition, shown),
            target={"upstream": shown.upstream, "tool": entry.name, "definition": shown.hash},
            can_accept=shown.state is not PinState.PINNED,
            can_refuse=shown.state is not PinState.REFUSED,
            has_passkey=bool(await console.passkeys_of(viewer)),
        )


def _definition(shown: Pin) -> VisibleText:
    return visible_lines(json.dumps(shown.definition, indent=2, ensure_ascii=False))


def _differences(before: Pin | None, after: Pin) -> list[DiffRow]:
    return [
        DiffRow(visible(difference.where), tuple((kind, _part(text)) for kind, text in parts))
        for difference, parts in definition_diff.diff_definitions(before.definition if before else {}, after.definition)
    ]


def _part(text: str) -> VisibleText:
    """Blanks and line breaks stay wherever they are."""
    return VisibleText("\n".join(map(visible_line, text.split("\n"))))
