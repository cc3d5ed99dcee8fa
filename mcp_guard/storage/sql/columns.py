"""The columns of the ledger's tables, for what is done with all of them alike."""

import re
from collections.abc import Mapping

from mcp_guard.storage.sql.schema import TABLES

TABLE = re.compile(r"CREATE TABLE (\w+) \((.*?)\)(?: WITHOUT ROWID)?;", re.DOTALL)
KEY = re.compile(r",\s+PRIMARY KEY \(.*\)")


def _columns() -> Mapping[str, Mapping[str, str]]:
    tables = {}
    for name, text in TABLE.findall(TABLES):
        columns = [column.split() for column in re.split(r",\s+", KEY.sub("", text).strip())]
        tables[name] = {column[0]: column[1] for column in columns}
    return tables


COLUMNS = _columns()
"""By table, the types of its columns, in their order."""
