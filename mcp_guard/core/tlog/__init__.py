"""The transparency log: Merkle tree (RFC 6962), signed notes and proof bundles (C2SP). Pure."""
