"""What people write into the statements that they sign. Pure."""

from collections.abc import Iterable

from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.visible_text import is_hidden


def check_words(text: str, what: str, most: int) -> None:
    """Raises: ApprovalError if nothing of it can be seen, it has more than `most`
    characters, or not every ledger can keep it."""
    if all(character.isspace() or is_hidden(character) for character in text):
        raise ApprovalError(f"a {what} is required", "say why; it is recorded")
    if len(text) > most:
        raise ApprovalError(f"a {what} must have at most {most} characters", "shorten it")
    check_keepable((text,))


def check_keepable(texts: Iterable[str]) -> None:
    """Raises: ApprovalError if a text is not Unicode, or has the character U+0000, which PostgreSQL cannot keep."""
    for text in texts:
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise ApprovalError("it has characters that cannot be kept, such as U+0000", "type it again")
