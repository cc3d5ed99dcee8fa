"""Reads what a ledger file says about calls without any of the guard's own code."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Key = tuple[str, str]
"""A tool of the upstream and its arguments, as text."""


def key_of(tool: str, arguments: Json) -> Key:
    return tool, json.dumps(arguments, sort_keys=True)


@dataclass
class Said:
    """`intents` are the receipts of calls to be sent, `endings` their outcomes, `open` those without one."""

    receipts: list[Json]
    intents: dict[Key, list[Json]] = field(default_factory=dict)
    endings: dict[int, str] = field(default_factory=dict)
    open: dict[int, Json] = field(default_factory=dict)


def read_ledger(path: Path) -> Said:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.execute("BEGIN")
        rows = db.execute("SELECT body, request FROM receipt LEFT JOIN payload USING (seq) ORDER BY seq").fetchall()
        opened = [seq for (seq,) in db.execute("SELECT intent FROM open_call")]
    said = Said([json.loads(body) for body, _ in rows])
    for receipt, (_, request) in zip(said.receipts, rows, strict=True):
        if receipt["kind"] == "intent":
            tool = receipt["tool"].partition("__")[2]
            said.intents.setdefault(key_of(tool, json.loads(request[16:])["arguments"]), []).append(receipt)
        elif receipt["kind"] == "outcome":
            [intent] = receipt["follows"]
            said.endings[intent] = receipt["ending"]
    said.open = {seq: said.receipts[seq] for seq in opened}
    return said


def read_effects(folder: Path) -> "Counter[Key]":
    """The calls that the upstreams really ran."""
    ran: Counter[Key] = Counter()
    for log in folder.glob("*.ran"):
        for line in log.read_text().splitlines():
            tool, arguments = json.loads(line)
            ran[key_of(tool, arguments)] += 1
    return ran
