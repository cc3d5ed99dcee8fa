"""Tells the operator of a trouble once."""

from contextlib import suppress

import pytest

from mcp_guard.core.errors import GuardError, LedgerError
from mcp_guard.trouble import TroubleReport


def test_operator_is_told_once_of_a_trouble_until_it_is_over() -> None:
    notes: list[str] = []
    report = TroubleReport(notes.append, "sign-ins cannot be read")
    for fails in (True, True, False, True):
        with suppress(GuardError), report.watching():
            if fails:
                raise LedgerError.public("the database cannot be reached", "start it", where="`postgresql://db`")
    said = "sign-ins cannot be read: the database cannot be reached: `postgresql://db`\nhint: start it"
    assert notes == [said, said]
    with pytest.raises(LedgerError), report.watching():
        raise LedgerError("x")
