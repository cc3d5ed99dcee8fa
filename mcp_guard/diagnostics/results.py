"""What a check of `doctor` finds."""

from dataclasses import dataclass

from mcp_guard.diagnostics.snapshot import ResultLevel


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`check` names what was checked; `fix` is a command or an edit, empty if all is well."""

    check: str
    level: ResultLevel
    what: str
    fix: str = ""
    is_choice: bool = False
    """Whether a guard is healthy with it, because somebody chose it: a warning all the same."""


CheckResults = list[CheckResult]


def ok(check: str, what: str) -> CheckResults:
    return [CheckResult(check, ResultLevel.OK, what)]


def warning(check: str, what: str, fix: str) -> CheckResults:
    return [CheckResult(check, ResultLevel.WARNING, what, fix)]


def problem(check: str, what: str, fix: str) -> CheckResults:
    return [CheckResult(check, ResultLevel.PROBLEM, what, fix)]
