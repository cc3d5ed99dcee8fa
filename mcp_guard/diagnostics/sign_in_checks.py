"""The check of `doctor` about the sign-in on the pages, as those in `checks.py`."""

from mcp_guard.diagnostics.identity_provider import PROVIDER_FIX
from mcp_guard.diagnostics.results import CheckResult, CheckResults, ok, problem
from mcp_guard.diagnostics.snapshot import GuardSnapshot, ResultLevel


def identity_provider(snapshot: GuardSnapshot) -> CheckResults:
    state = snapshot.provider
    if state is None:
        return []
    if state.failure:
        return problem("identity provider", f"`{state.issuer}`: {state.failure}", PROVIDER_FIX)
    results = [CheckResult("identity provider", ResultLevel.WARNING, note, PROVIDER_FIX) for note in state.notes]
    return results or ok("identity provider", f"`{state.issuer}` answers, and publishes its keys")
