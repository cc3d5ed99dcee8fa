"""The approvers' keys that a verification trusts, and when two of them are the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import MAX_KEYS, parse_json, read_limited, reason_of
from .report import UnusableInput
from .signatures import Receipt


def is_same_key(key: Receipt, other: Receipt | None) -> bool:
    """Also of the same page: a passkey of `localhost` signs for whichever port its owner visits."""
    page, other_page = (_page_of(side.get("details") or {}) for side in (key, other or {}))
    members = ("approver", "method", "public")
    return other is not None and page == other_page and all(key.get(name) == other.get(name) for name in members)


def _page_of(details: Receipt) -> tuple[Any, Any]:
    """The relying party and page of a passkey; nothing for a key file."""
    return details.get("rp_id"), details.get("origin")


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The approvers' keys given to the verifier, by id, and the file that they are from."""

    file: Path
    by_id: Mapping[str, Receipt]

    def why_unknown(self, key: str, approver: str) -> str:
        """The problem of a vote that is signed with another key, and what to do."""
        nothing = "" if self.by_id else ", which has none"
        return (
            f"key `{key}` of `{approver}` is not among the approvers' keys given in `{self.file}`{nothing}; "
            f"if `{approver}` confirms that it is theirs, add it from: mcp-guard approvers list --json"
        )


def read_approvers(path: Path) -> TrustedKeys:
    """From a file as `approvers list --json` prints it. Raises: UnusableInput."""
    try:
        keys = parse_json(read_limited(path, MAX_KEYS))
        if not isinstance(keys, list) or not all(isinstance(key, dict) and isinstance(key["key"], str) for key in keys):
            raise ValueError("it is not a list of keys as `mcp-guard approvers list --json` prints it")
        return TrustedKeys(path, {key["key"]: key for key in keys})
    except (OSError, ValueError, KeyError) as error:
        raise UnusableInput(f"cannot read the approvers' keys `{path}`: {reason_of(error)}") from None
