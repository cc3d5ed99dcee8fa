"""Approvals in the ledger: requests, votes, state transitions and the approvers' keys."""
