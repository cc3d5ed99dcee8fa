"""Proposes changed policy files for approval, where `[guard] policy_approval` says that people must approve them.

The files are polled like those of a guard without that rule (`policy/reload.py`), and only what could be loaded is
proposed. What becomes of a proposal is for the ledger.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from mcp_guard.core.errors import GuardError, LedgerError, PolicyError
from mcp_guard.core.policy_approval import PENDING, PolicyApprovalState, PolicyProposal, describe_missing, hash_of_set
from mcp_guard.core.receipt import Draft
from mcp_guard.core.visible_text import say
from mcp_guard.policy.files import FileStamps, file_stamps
from mcp_guard.policy.reload import POLL_SECONDS, PolicyReceipts


class Proposals(Protocol):
    """Where sets are proposed, by their files' texts. Both return the state afterwards. Raises: LedgerError."""

    async def propose(self, texts: Mapping[str, str]) -> PolicyApprovalState:
        """Unless it is in force, proposed already, or was denied last."""

    async def withdraw(self, policy_set: str, note: str) -> PolicyApprovalState:
        """If it is proposed."""


class PolicyProposer:
    """Watches one guard's policy files. `why_unusable` says what keeps a set from being loaded, and `tell` writes a
    message for the operator."""

    def __init__(
        self,
        proposals: Proposals,
        receipts: PolicyReceipts,
        *,
        policies: Path,
        routes: Collection[str],
        why_unusable: Callable[[Mapping[str, str]], Awaitable[GuardError | None]],
        tell: Callable[[str], None],
    ) -> None:
        self._proposals = proposals
        self._receipts = receipts
        self._policies = policies
        self._routes = routes
        self._why_unusable = why_unusable
        self._tell = tell
        self._handled: FileStamps | None = None
        self._set = ""
        """The set that the files had when they were read last."""
        self._last_error = ""

    async def watch(self) -> None:
        """Propose whatever is new in the files, until cancelled: once when the guard starts, and then once a change has
        lasted for a while."""
        previous = self._handled
        while True:
            stamp = file_stamps(self._policies)
            if stamp != self._handled and (self._handled is None or stamp == previous):
                await self._propose_or_report(stamp)
            previous = stamp
            await asyncio.sleep(POLL_SECONDS)

    async def _propose_or_report(self, stamp: FileStamps) -> None:
        try:
            await self.propose()
            self._handled, self._last_error = stamp, ""
        except LedgerError as error:  # tried again
            self._report(error)
        except GuardError as error:
            self._handled = stamp
            self._report(error)
            if isinstance(error, PolicyError):
                await self._receipt_rejection(error)

    async def _receipt_rejection(self, error: PolicyError) -> None:
        try:
            await self._receipts.note(Draft("policy.rejected", {"reasons": error.message.splitlines()}))
        except LedgerError as failure:
            self._handled = None  # read, and receipted, once more
            self._report(failure)

    def _report(self, error: GuardError) -> None:
        if str(error) != self._last_error:
            self._last_error = str(error)
            self._tell(say("the policy files were not proposed; the policies in force stay:\n{}", str(error)))

    async def propose(self) -> None:
        """Propose the files as they are now; if they cannot be loaded, withdraw what they were before.

        Raises: PolicyError, LedgerError.
        """
        try:
            texts = await self._read_usable()
        except GuardError:
            if self._set:
                await self._proposals.withdraw(self._set, "the files have a mistake")
                self._set = ""
            raise
        policy_set, before = hash_of_set(texts), self._set
        state = await self._proposals.propose(texts)
        if policy_set == state.in_force and before not in ("", policy_set):
            await self._proposals.withdraw(before, "the files are as the set in force again")
        self._set = policy_set
        if state.open is not None and state.open.policy_set == policy_set:
            self._tell(describe_waiting(state.open))
        elif state.denied == policy_set:
            self._tell(say("these policy files were denied, and are not in force\nhint: {}", PENDING))

    async def _read_usable(self) -> dict[str, str]:
        texts = await asyncio.to_thread(self._read)
        if (problem := await self._why_unusable(texts)) is not None:
            raise problem
        return texts

    def _read(self) -> dict[str, str]:
        """Raises: PolicyError."""
        from mcp_guard.policy.source import parse_policies, read_files

        texts = read_files(self._policies)
        parse_policies(texts, self._routes)
        return texts


def describe_waiting(proposal: PolicyProposal) -> str:
    """What waits, and for whom, in a sentence with a hint."""
    return say(
        "policy set {} {} (route `{}`); until then {}\nhint: {}",
        proposal.policy_set[7:19], describe_missing(proposal), proposal.rule.route,
        "the policies in force stay" if proposal.previous else "every call is denied", PENDING,
    )  # fmt: skip
