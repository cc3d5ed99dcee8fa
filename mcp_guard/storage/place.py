"""Where a ledger is."""

from pathlib import Path
from typing import NamedTuple


class Database(NamedTuple):
    """A ledger in a database that may keep those of several origins. `url` may hold a password; `str` leaves it out."""

    url: str
    origin: str

    def __str__(self) -> str:
        scheme, separator, rest = self.url.partition("://")
        if not separator:
            return f"a database ({self.origin})"
        server = rest.rpartition("@")[2].partition("?")[0]
        return f"{scheme}://{f'localhost{server}' if server[:1] in ('', '/') else server} ({self.origin})"


Place = Path | Database
"""A file, or an origin in a database."""
