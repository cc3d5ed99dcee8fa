"""Upstreams that answer the greeting and the listings with malformed values, beside one that works."""

from pathlib import Path

from tests.fuzz.session import ENVELOPE, Session, config

LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
ANSWERS = 1 + len(LISTS) + 1
"""Garbled answers that one guard meets at least: to the greeting, the lists, and the tools once more."""


def greet(folder: Path, era: str, seed: int) -> int:
    """One guard; returns how many garbled answers it met. Raises: AssertionError."""
    with Session(folder, era, seed, config(folder, era, garbled=seed)) as session:
        params = {"_meta": ENVELOPE} if era == "stateless" else {}
        for number, method in enumerate(LISTS, 1):
            session.guard.write({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        session.wait_for(*range(1, len(LISTS) + 1))
        listed = session.guard.replies[1]["result"]["tools"]
        assert {"up__echo", "up__say"} <= {tool["name"] for tool in listed}, listed
        session.call()
        session.finish()
    return ANSWERS
