"""What of four eyes on policy needs attention, for `doctor` and `status`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mcp_guard.core.errors import LedgerError, PolicyError
from mcp_guard.core.policy_approval import PENDING, PolicyApprovalState, describe_missing, hash_of_set
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.policy_approvals import read_state, read_texts
from mcp_guard.policy.source import read_files
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.place import Place


@contextmanager
def as_in_force(settings: Settings, place: Place) -> Iterator[Settings]:
    """The settings with the policies that people have approved, in files of a folder of their own, if they must. While
    none are approved, or the ledger cannot be read, which others report, with the policy files as they are."""
    texts: dict[str, str] = {}
    if settings.policy_approval is not None:
        try:
            with open_read_only(place) as store, store.reading():
                state = read_state(store)
                texts = read_texts(store, state.in_force) if state is not None and state.in_force else {}
        except LedgerError:
            texts = {}
    if not texts:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="mcp-guard-policies-") as folder:
        for name, text in texts.items():
            (Path(folder) / Path(name).name).write_text(text)
        yield replace(settings, policies=Path(folder))


def inspect_policy_approval(settings: Settings, place: Place) -> tuple[str, str]:
    """What needs attention, and what to do; both empty if nothing does, or the ledger cannot be read."""
    if settings.policy_approval is None:
        return "", ""
    try:
        with open_read_only(place) as store, store.reading():
            state = read_state(store) or PolicyApprovalState()
        policy_set = hash_of_set(read_files(settings.policies))
    except (LedgerError, PolicyError):  # other checks report it
        return "", ""
    if state.open is not None:
        denied = "" if state.in_force else ", and until then every call is denied"
        return say("proposal {} {}{}", state.open.id, describe_missing(state.open), denied), PENDING
    if state.in_force is None:
        return "no policies have been approved, so every call is denied", "mcp-guard policy propose"
    if policy_set == state.denied:
        return "the policy files were denied, and others are in force", "change them, or: mcp-guard policy propose"
    if policy_set != state.in_force:
        return "the policy files are not those in force, and are not proposed yet", "mcp-guard policy propose"
    return "", ""
