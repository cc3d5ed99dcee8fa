"""Where a ledger is."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit


class Database(NamedTuple):
    """A ledger in a database that may keep those of several origins. `url` may hold a password; `str` leaves it out."""

    url: str
    origin: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or 'localhost'}{port}{parts.path} ({self.origin})"


Place = Path | Database
"""A file, or an origin in a database."""
