"""Who runs a command, for receipts: the account that the system knows, which no environment variable can change."""

import os
import pwd


def account() -> str:
    """Its name, or its number where it has none, as in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
