"""The ledger: receipts appended in one transaction per step, approvals, keys, export and retention."""
