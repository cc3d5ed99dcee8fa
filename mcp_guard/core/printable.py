"""Text that somebody else wrote, made fit for a terminal or a log line. Pure."""


def printable(value: object) -> str:
    """The text with every character that is no visible one spelt out, `\\x1b` for an escape."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else _spell(c) for c in text)


def _spell(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
