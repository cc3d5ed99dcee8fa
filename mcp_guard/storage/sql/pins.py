"""The rows of tool definitions: pinned, quarantined, refused, retired. Statements only."""

from collections.abc import Iterable
from typing import Any

from mcp_guard.core import exact_json
from mcp_guard.core.errors import LedgerError, LedgerFault, defect_text
from mcp_guard.core.tool_pins import Pin, PinState, definition_text
from mcp_guard.core.visible_text import say
from mcp_guard.storage.sql.queries import Queries


class PinQueries(Queries):
    """The part of `Store` that speaks of pins."""

    def pinned_hash(self, upstream: str, tool: str) -> str | None:
        """The definition in force. On the path of each call: one look into a small index."""
        query = "SELECT hash FROM pin WHERE upstream = ? AND tool = ? AND state = 'pinned'"
        row = self._run(query, (upstream, tool)).fetchone()
        return row[0] if row else None

    def pin_states(self) -> list[tuple[str, str, str, PinState]]:
        """Upstream, tool, hash and state of every definition."""
        rows = self._run("SELECT upstream, tool, hash, state FROM pin")
        return [(upstream, tool, hash, PinState(state)) for upstream, tool, hash, state in rows]

    def pin_upstreams(self) -> set[str]:
        """Upstreams that have listed any tool before."""
        return {upstream for (upstream,) in self._run("SELECT DISTINCT upstream FROM pin")}

    def pin_generation(self) -> int:
        """Grows with everything that is recorded of any definition."""
        return int(self._run("SELECT coalesce(max(receipt), -1) FROM pin").fetchone()[0])

    def pins(self, upstream: str | None = None, tool: str | None = None) -> list[Pin]:
        """Every definition, or those of one tool, the latest spoken of last."""
        wanted = {"upstream": upstream, "tool": tool}
        conditions = [f"{name} = ?" for name, value in wanted.items() if value is not None] or ["1 = 1"]
        query = f"SELECT * FROM pin WHERE {' AND '.join(conditions)} ORDER BY receipt"
        return [_read(row) for row in self._run(query, [value for value in wanted.values() if value is not None])]

    def add_pins(self, pins: Iterable[Pin]) -> None:
        for pin in pins:
            definition = definition_text(pin.definition)
            values = (pin.upstream, pin.tool, pin.hash, str(pin.state), definition, pin.receipt, pin.why)
            self._write("INSERT INTO pin VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def move_pin(self, before: Pin, to: PinState, receipt: int, why: str) -> None:
        """Compare-and-set. Raises: ChangedElsewhere if it is not in that state any more."""
        query = (
            "UPDATE pin SET state = ?, receipt = ?, why = ? WHERE upstream = ? AND tool = ? AND hash = ? AND state = ?"
        )
        values = (str(to), receipt, why, before.upstream, before.tool, before.hash, str(before.state))
        self._change_one(f"the pin of {before.tool}", query, values)

    def drop_pin(self, pin: Pin) -> None:
        """Forget a definition that is not in force."""
        query = "DELETE FROM pin WHERE upstream = ? AND tool = ? AND hash = ? AND state != 'pinned'"
        self._change_one(f"the pin of {pin.tool}", query, (pin.upstream, pin.tool, pin.hash))


def _read(row: tuple[Any, ...]) -> Pin:
    """Raises: LedgerError if it is no definition of this tool."""
    upstream, tool, hash, state, text, receipt, why = row
    try:
        definition = exact_json.loads(text)
        if definition["name"] != tool:
            raise ValueError("it has another name")
        return Pin(upstream, tool, hash, PinState(state), definition, receipt, why)
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            say(
                "the definition of the tool {} of {} in the ledger is damaged: {}",
                f"`{tool}`",
                f"`{upstream}`",
                defect_text(error),
            ),
            "somebody changed the table `pin`: restore the newest backup",
            LedgerFault.DAMAGED,
        ) from None
