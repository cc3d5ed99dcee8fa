"""Makes text of unknown origin safe for a terminal or a log line. Pure."""


def printable(value: object) -> str:
    """The text with every character that cannot be printed written as an escape, such as `\\x1b`."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
