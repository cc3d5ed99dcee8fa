"""What a guard has recorded, read from its own files: how many records there are, and how many signatures on them."""

import sqlite3
from contextlib import closing
from pathlib import Path

JSON_LINES = {
    # the file, and the member that holds a record's signature
    "mcp-firewall": ("audit.jsonl", '"signature":'),
    "mcp-firewall, sign": ("audit.jsonl", '"signature":'),
    "mcp-airlock": ("audit.jsonl", '"signature":'),
    "ctrlrun": (".ctrlrun/receipts.jsonl", '"signature":'),
    "tracekit-ai": ("data/store/records.jsonl", '"sig":'),
    "tracekit-ai, ack-on-fsync": ("data/store/records.jsonl", '"sig":'),
}
SQLITE = {
    # the file, the table of records, and the table of signatures, if there is one
    "squidbrake": ("home/data/gateway.db", "audit_log", "audit_checkpoints"),
    "hol-guard": ("home/guard.db", "runtime_receipts", ""),
}


def count_rows(file: Path, *tables: str) -> list[int]:
    if not file.exists():
        return [0] * len(tables)
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as database:
        return [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] if table else 0 for table in tables]


def count_records(name: str, folder: Path) -> tuple[int, int]:
    """The records and signatures of the rival of this name in its folder."""
    if name in SQLITE:
        file, records, signatures = SQLITE[name]
        first, second = count_rows(folder / file, records, signatures)
        return first, second
    file, member = JSON_LINES[name]
    lines = (folder / file).read_text().splitlines() if (folder / file).exists() else []
    return len(lines), sum(member in line for line in lines)


def count_guard_records(folder: Path) -> tuple[int, int]:
    """The receipts of the guard, each of which is signed."""
    [receipts] = count_rows(folder / "state" / "ledger.sqlite", "receipt")
    return receipts, receipts
