"""The part of the storage contract that only pages for people ask for. Nothing on the path of a call uses it."""

from collections.abc import Collection
from typing import Protocol

from mcp_guard.core.model import Micros
from mcp_guard.storage.rows import InstanceRow, ReceiptRow


class PageReads(Protocol):
    """Reads of a limited number of rows, whose cost does not grow with the ledger."""

    def receipts_with_calls(self, seqs: Collection[int]) -> list[ReceiptRow]:
        """These receipts, and all others of the calls that they belong to, in order."""

    def instances_page(
        self, before: str, count: int, alive_at: Micros | None = None, agent: str | None = None
    ) -> list[InstanceRow]:
        """Those before this id, if it is not empty, in descending order of ids: of all times, or those that have
        neither expired nor ended at one; of all agents, or of one."""

    def count_instances(self, alive_at: Micros) -> list[tuple[str, int]]:
        """By agent, how many have neither expired nor ended by then."""
