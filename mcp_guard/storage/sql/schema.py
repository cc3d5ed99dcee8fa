"""The tables of the ledger, as SQLite takes them. One row a receipt; payloads apart, so that they can be erased.

A node is the root of a complete subtree of 256**level receipts, kept when the last of them is appended.
A use of a rate has the running total with it, in decimal, of whatever size: so the sum of a window is a difference.
A payload's cell is its 16-byte salt and its bytes; a salt alone stands for one that was hashed and not kept.
"""

VERSION = 5

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE receipt (
  seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, at INTEGER NOT NULL, call TEXT, body BLOB NOT NULL,
  signature BLOB NOT NULL, leaf BLOB NOT NULL
);
CREATE INDEX receipt_call ON receipt (call) WHERE call IS NOT NULL;
CREATE TABLE node (
  level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) WITHOUT ROWID;
CREATE TABLE head (
  one INTEGER PRIMARY KEY CHECK (one = 0), size INTEGER NOT NULL, edge BLOB NOT NULL, checkpoint TEXT NOT NULL,
  key TEXT NOT NULL
);
INSERT INTO head VALUES (0, 0, x'', '', '');
CREATE TABLE guard_key (id INTEGER PRIMARY KEY, since INTEGER NOT NULL, verifier TEXT NOT NULL);
CREATE TABLE witnessed (
  witness TEXT PRIMARY KEY, size INTEGER NOT NULL, at INTEGER NOT NULL, note TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE payload (
  seq INTEGER PRIMARY KEY, request BLOB, facts BLOB, material BLOB, response BLOB, subject BLOB
);
CREATE TABLE open_call (intent INTEGER PRIMARY KEY, guard TEXT NOT NULL);
CREATE TABLE approval (
  id TEXT PRIMARY KEY, state TEXT NOT NULL, instance TEXT NOT NULL, lookup TEXT NOT NULL, request_hash TEXT NOT NULL,
  decision_hash TEXT NOT NULL, nonce TEXT NOT NULL, rules TEXT NOT NULL, subject TEXT NOT NULL, votes TEXT NOT NULL,
  requested INTEGER NOT NULL, expires INTEGER NOT NULL, note TEXT NOT NULL, outcome INTEGER, answered INTEGER NOT NULL,
  receipts TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX approval_request ON approval (instance, lookup);
CREATE INDEX approval_unanswered ON approval (outcome) WHERE answered = 0;
CREATE INDEX approval_state ON approval (state);
CREATE INDEX approval_requested ON approval (requested);
CREATE TABLE granted (
  id TEXT PRIMARY KEY, approval TEXT NOT NULL, state TEXT NOT NULL, instance TEXT NOT NULL, terms TEXT NOT NULL,
  used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX granted_instance ON granted (instance, state);
CREATE TABLE approver_key (
  id TEXT PRIMARY KEY, approver TEXT NOT NULL, method TEXT NOT NULL, public TEXT NOT NULL, details TEXT NOT NULL,
  enrolled INTEGER NOT NULL, removed INTEGER
) WITHOUT ROWID;
CREATE TABLE delivery (
  id INTEGER PRIMARY KEY, subject TEXT NOT NULL, notifier TEXT NOT NULL, event TEXT NOT NULL, state TEXT NOT NULL,
  attempts INTEGER NOT NULL, due INTEGER NOT NULL, note TEXT NOT NULL
);
CREATE INDEX delivery_due ON delivery (state, due);
CREATE TABLE sign_in (
  code TEXT PRIMARY KEY, approver TEXT NOT NULL, kind TEXT NOT NULL, expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE rate_use (
  id INTEGER PRIMARY KEY, counter TEXT NOT NULL, key TEXT NOT NULL, at INTEGER NOT NULL, amount INTEGER NOT NULL,
  total TEXT NOT NULL
);
CREATE INDEX rate_use_window ON rate_use (counter, key, at, id, amount, total);
CREATE TABLE agent_run (
  agent TEXT NOT NULL, at INTEGER NOT NULL, instance TEXT NOT NULL, acts BLOB NOT NULL,
  PRIMARY KEY (agent, at, instance)
) WITHOUT ROWID;
CREATE TABLE policy_version (version TEXT PRIMARY KEY, material BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE pin (
  upstream TEXT NOT NULL, tool TEXT NOT NULL, hash TEXT NOT NULL, state TEXT NOT NULL, definition BLOB NOT NULL,
  receipt INTEGER NOT NULL, why TEXT NOT NULL, PRIMARY KEY (upstream, tool, hash)
) WITHOUT ROWID;
CREATE UNIQUE INDEX pin_in_force ON pin (upstream, tool) WHERE state = 'pinned';
CREATE INDEX pin_receipt ON pin (receipt);
CREATE TABLE enrolled_agent (
  name TEXT PRIMARY KEY, owner TEXT NOT NULL, groups TEXT NOT NULL, on_behalf_of TEXT, seconds INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE instance (
  id TEXT PRIMARY KEY, credential TEXT NOT NULL, agent TEXT NOT NULL, said TEXT NOT NULL, started INTEGER NOT NULL,
  expires INTEGER NOT NULL, begun INTEGER, ended INTEGER
) WITHOUT ROWID;
CREATE INDEX instance_expires ON instance (expires);
CREATE UNIQUE INDEX instance_credential ON instance (credential);
CREATE TABLE revocation (kind TEXT, name TEXT, until INTEGER NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE launch (code TEXT PRIMARY KEY, instance TEXT NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID;
"""
