"""Past decisions and policy versions, as the ledger has them. Nothing here starts an upstream or writes."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mcp_guard.core import canonical
from mcp_guard.core.errors import LedgerError, PolicyError
from mcp_guard.policy.authoring.recorded import DECIDING, PolicyVersion, RecordedDecision, read_decision, read_version
from mcp_guard.policy.authoring.replay import FindVersion
from mcp_guard.policy.source import Policy, PolicySource, is_outside_schema, read_policies, with_unlisted
from mcp_guard.policy.time_of_call import UTC_NAME
from mcp_guard.policy.validation import ValidationSchema, validate
from mcp_guard.storage.contract import Store
from mcp_guard.verifier.checkpoints import ProgressCallback
from mcp_guard.verifier.progress import no_progress


def decisions(
    store: Store,
    since: str | None = None,
    last: int | None = None,
    tell: ProgressCallback = no_progress,
    time_zone: str = UTC_NAME,
) -> Iterator[RecordedDecision]:
    """The decisions of this span, oldest first; payloads are read as they are asked for."""
    wanted: list[int] = []
    drills: set[str | None] = set()
    """Calls that nobody made. The receipt that says so comes after their decision, so it is read before it."""
    with store.reading():
        for row in store.receipts_back():
            if row.kind.startswith("approval.") and b'"drill":{' in row.body and "drill" in json.loads(row.body):
                drills.add(row.call)
            if row.call not in drills and row.kind in DECIDING and b'"purpose"' not in row.body:
                if (since and json.loads(row.body)["time"] < since) or len(wanted) == last:
                    break
                wanted.append(row.seq)
    for done, seq in enumerate(reversed(wanted)):
        tell(done, len(wanted))
        if past := decision(store, seq, time_zone):
            yield past


def decision(store: Store, seq: int, time_zone: str = UTC_NAME) -> RecordedDecision | None:
    with store.reading():
        row = store.receipt(seq)
        return read_decision(json.loads(row.body), store.payloads(seq), time_zone) if row else None


def versions(store: Store) -> FindVersion:
    """The policy versions of this ledger, each read once."""

    @cache
    def read_kept(version: str) -> PolicyVersion | None:
        with store.reading():
            text = store.policy(version)
        if text and canonical.digest(text) != version:
            what = f"the stored policies of version `{version}` do not match its hash"
            raise LedgerError(f"{what}: `{store.name}`", "mcp-guard verify")
        return read_version(version, text) if text else None

    return read_kept


def latest_version(store: Store) -> PolicyVersion:
    """The version loaded last. Raises: LedgerError if there is none."""
    version = find_latest(store)
    if version is None:
        raise LedgerError(f"no policies have been loaded in `{store.name}`", "run the guard once: mcp-guard run")
    return version


def find_latest(store: Store) -> PolicyVersion | None:
    with store.reading():
        for row in store.receipts_back():
            if row.kind == "policy.loaded" and "shadow" not in (receipt := json.loads(row.body)):
                version = versions(store)(receipt["policy_version"])
                if version is not None:
                    return version
    return None


def read_candidate(path: Path, routes: tuple[str, ...], world: PolicyVersion) -> dict[str, Policy]:
    """Policies of a folder or file, as `check_candidate`. Raises: PolicyError."""
    return check_candidate(path, read_policies(path, routes), world)


def check_candidate(path: Path, source: PolicySource, world: PolicyVersion) -> dict[str, Policy]:
    """Policies that were read, validated against the schema of a kept version; those on tools that were not listed then
    are taken as they are. `path` is for messages. Raises: PolicyError.
    """
    policies = dict(source.policies)
    covered = {id: policy for id, policy in policies.items() if not is_outside_schema(policy, world.schema)}
    try:
        if covered:
            schema = with_unlisted(world.schema, covered.values())
            validate(covered, ValidationSchema(schema), path)
    except ValueError as error:
        raise PolicyError(f"{path}: {error}", "check the policies") from None
    return policies
