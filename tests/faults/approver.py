"""A person who approves, and the part of the configuration that the races and kills have in common."""

import base64
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.config import load
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer

PEOPLE_AND_RATES = """
[agents.loader]
owner = "bob"
[approvers.alice]
name = "Alice"
[routes.people]
approvers = ["alice"]
[rates.writes]
window_seconds = 3600
by = "agent"
effects = ["write"]
"""
THINGS = """
[resources.Thing.attributes]
amount = "number"
[tools."up__get"]
effect = "read"
[tools."up__update"]
resource = {{ type = "Thing", id = "/id" }}
[tools."up__update".facts]
tool = "get"
arguments = {{ id = "/id" }}
"""
"""The tools of the upstream, for `str.format`."""


class Person:
    """Alice, who signs in this process."""

    def __init__(self, config: Path) -> None:
        settings = load(config)
        self.writer = open_writer(ledger_settings(settings), CLOCK)
        self._private = Ed25519PrivateKey.generate()
        self._key = NewKey("ed25519", self._private.public_key().public_bytes_raw(), {})
        enrol(self.writer, Approver("alice", "Alice"), self._key)
        self._votes = Votes(self.writer, settings.routes, settings.approvers)

    def decide(self, id: str, decision: str = "approve") -> None:
        """Sign and record a vote. Raises: ApprovalError, LedgerError."""
        statement = self._votes.prepare(id, "alice", decision, "seen")
        signature = base64.b64encode(self._private.sign(statement.text())).decode()
        self._votes.record(statement, self._key.id, {"signature": signature})
