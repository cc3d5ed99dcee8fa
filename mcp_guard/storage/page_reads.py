"""The part of the storage contract that only pages for people ask for. Nothing on the path of a call uses it."""

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from mcp_guard.core.approval import Approval
from mcp_guard.core.approval_card import CountedRequest
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Micros
from mcp_guard.storage.rows import InstanceRow, ReceiptRow, RequestRow


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

    def open_requests(self, ids: Iterable[str]) -> list[RequestRow]:
        """Those of these requests that nobody has decided on. Reads no subject."""

    def requests_before(self, before: tuple[Micros, str], count: int) -> list[RequestRow]:
        """The requests that were made before this time, or then and have a lower id, the newest first. Reads no
        subject."""

    def requests_since(self, since: Micros) -> Iterator[CountedRequest]:
        """Those that were made since then, the oldest first. Reads no subject."""

    def approvals_among(self, ids: Collection[str]) -> list[Approval]:
        """These approvals, in any order."""

    def active_grants(self, after: str, count: int) -> list[Grant]:
        """Those after this id, in the order of ids. Some may have expired."""
