"""Where the ledger of a configuration is."""

import os

from mcp_guard.secrets import read_secret
from mcp_guard.settings import SecretReference, Settings
from mcp_guard.storage.place import Database, Place

FILE = "ledger.sqlite"
"""In the state folder, unless the configuration says otherwise."""


def ledger_place(settings: Settings) -> Place:
    """Raises: ConfigError if the URL of the database cannot be read."""
    database = settings.database
    if isinstance(database, SecretReference):
        return Database(read_secret(database, settings.path.parent, os.environ), settings.origin)
    return database or settings.state_dir / FILE
