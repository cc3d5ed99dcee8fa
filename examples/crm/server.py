"""A small CRM as an MCP server on stdio: deals in a SQLite file, seeded on first use.

    python examples/crm/server.py --database crm.sqlite

It trusts whoever calls it, as most tool servers do: what an agent may change is the guard's business, not its own. It
speaks just enough of MCP by itself, so that `mcp-guard demo` needs nothing that the guard does not have.
"""

import argparse
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

LATEST = "2025-11-25"
Stage = Literal["Prospecting", "Qualification", "Proposal", "Negotiation", "Closed Won", "Closed Lost"]
DealId = Annotated[str, Field(description="Id of the deal, for example 789")]

SCHEMA = """
CREATE TABLE deal (
  deal_id TEXT PRIMARY KEY, name TEXT NOT NULL, account TEXT NOT NULL, stage TEXT NOT NULL, amount REAL NOT NULL,
  paid REAL NOT NULL, assigned_to TEXT NOT NULL, discount_rate REAL NOT NULL, billing_contact_email TEXT NOT NULL,
  close_date TEXT NOT NULL, notes TEXT NOT NULL
);
CREATE TABLE note (deal_id TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE refund (deal_id TEXT NOT NULL, amount REAL NOT NULL, reason TEXT NOT NULL);
"""
SEED = [
    ("789", "Fleet telematics", "Northwind Haulage", "Negotiation", 48000.0, 0.0, "dana", 0.05,
     "billing@northwind.example", "2026-03-31", "Wants a later start."),
    ("790", "Warehouse sensors", "Contoso Cold Storage", "Proposal", 12500.0, 0.0, "dana", 0.0,
     "accounts@contoso.example", "2026-05-15", ""),
    ("791", "Route planning", "Fabrikam Parcels", "Qualification", 93000.0, 0.0, "lee", 0.1,
     "finance@fabrikam.example", "2026-06-30", "Second demo booked."),
    ("655", "Driver app", "Northwind Haulage", "Closed Won", 7200.0, 7200.0, "dana", 0.0,
     "billing@northwind.example", "2025-11-30", "Signed."),
]  # fmt: skip
EDITABLE = ("stage", "amount", "discount_rate", "billing_contact_email", "close_date", "notes")


class Deal(BaseModel):
    """One deal, as it is now."""

    deal_id: str
    name: str
    account: str
    stage: str
    amount: float
    paid: float
    assigned_to: str
    discount_rate: float
    billing_contact_email: str
    close_date: str
    notes: str


class DealResult(BaseModel):
    deal: Deal


class Deals(BaseModel):
    deals: list[Deal]


class Done(BaseModel):
    message: str


class ToolError(Exception):
    """The tool failed; the message is the reason."""


class Crm:
    """The database behind the tools."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        with closing(self._db.execute("SELECT name FROM sqlite_master WHERE name = 'deal'")) as found:
            is_new = found.fetchone() is None
        if is_new:
            self._db.executescript(SCHEMA)
            self._db.executemany(f"INSERT INTO deal VALUES ({', '.join('?' * 11)})", SEED)

    def get(self, deal_id: str) -> Deal:
        row = self._db.execute("SELECT * FROM deal WHERE deal_id = ?", (deal_id,)).fetchone()
        if row is None:
            raise ToolError(f"there is no deal {deal_id}")
        return Deal(**dict(row))

    def search(self, text: str) -> list[Deal]:
        pattern = f"%{text}%"
        query = "SELECT * FROM deal WHERE name LIKE ? OR account LIKE ? OR stage LIKE ? ORDER BY deal_id"
        return [Deal(**dict(row)) for row in self._db.execute(query, (pattern, pattern, pattern))]

    def update(self, deal_id: str, changes: dict[str, object]) -> Deal:
        self.get(deal_id)
        wanted = {name: value for name, value in changes.items() if name in EDITABLE and value is not None}
        if not wanted:
            raise ToolError("nothing to change: name at least one field")
        columns = ", ".join(f"{name} = ?" for name in wanted)
        self._db.execute(f"UPDATE deal SET {columns} WHERE deal_id = ?", (*wanted.values(), deal_id))
        return self.get(deal_id)

    def add_note(self, deal_id: str, text: str) -> None:
        self.get(deal_id)
        self._db.execute("INSERT INTO note VALUES (?, ?)", (deal_id, text))

    def refund(self, deal_id: str, amount: float, reason: str) -> Deal:
        deal = self.get(deal_id)
        if not 0 < amount <= deal.paid:
            raise ToolError(f"deal {deal_id} has {deal.paid:.2f} paid; {amount:.2f} cannot be refunded")
        self._db.execute("INSERT INTO refund VALUES (?, ?, ?)", (deal_id, amount, reason))
        self._db.execute("UPDATE deal SET paid = paid - ? WHERE deal_id = ?", (amount, deal_id))
        return self.get(deal_id)

    def delete(self, deal_id: str) -> None:
        self.get(deal_id)
        self._db.execute("DELETE FROM deal WHERE deal_id = ?", (deal_id,))


class GetDeal(BaseModel):
    """Read one deal."""

    deal_id: DealId

    def run(self, crm: Crm) -> DealResult:
        return DealResult(deal=crm.get(self.deal_id))


class SearchDeals(BaseModel):
    """Find deals."""

    text: Annotated[str, Field(description="Part of a name, an account or a stage")] = ""

    def run(self, crm: Crm) -> Deals:
        return Deals(deals=crm.search(self.text))


class UpdateDeal(BaseModel):
    """Change fields of a deal; fields that are left out stay as they are."""

    deal_id: DealId
    stage: Stage | None = None
    amount: Annotated[float | None, Field(description="US dollars")] = None
    discount_rate: Annotated[float | None, Field(description="0.05 is five per cent")] = None
    billing_contact_email: str | None = None
    close_date: Annotated[str | None, Field(description="YYYY-MM-DD")] = None
    notes: str | None = None

    def run(self, crm: Crm) -> DealResult:
        return DealResult(deal=crm.update(self.deal_id, self.model_dump(exclude={"deal_id"})))


class AddNote(BaseModel):
    """Attach a note to a deal."""

    deal_id: DealId
    text: str

    def run(self, crm: Crm) -> Done:
        crm.add_note(self.deal_id, self.text)
        return Done(message=f"note added to deal {self.deal_id}")


class Refund(BaseModel):
    """Pay money back to the customer of a deal."""

    deal_id: DealId
    amount: Annotated[float, Field(description="US dollars")]
    reason: str

    def run(self, crm: Crm) -> DealResult:
        return DealResult(deal=crm.refund(self.deal_id, self.amount, self.reason))


class DeleteDeal(BaseModel):
    """Delete a deal for good."""

    deal_id: DealId

    def run(self, crm: Crm) -> Done:
        crm.delete(self.deal_id)
        return Done(message=f"deal {self.deal_id} deleted")


TOOLS: dict[str, tuple[type[Any], type[BaseModel]]] = {
    "get_deal": (GetDeal, DealResult),
    "search_deals": (SearchDeals, Deals),
    "update_deal": (UpdateDeal, DealResult),
    "add_note": (AddNote, Done),
    "refund": (Refund, DealResult),
    "delete_deal": (DeleteDeal, Done),
}
"""Tool name: the models of its arguments and of its result."""


def listing() -> list[dict[str, Any]]:
    listed = []
    for name, (takes, gives) in TOOLS.items():
        schema = takes.model_json_schema()
        about = schema.pop("description")
        schemas = {"inputSchema": schema, "outputSchema": gives.model_json_schema()}
        listed.append({"name": name, "description": about, **schemas})
    return listed


def call(crm: Crm, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The `result` or `error` member for one call."""
    if name not in TOOLS:
        return {"error": {"code": -32602, "message": f"unknown tool: {name}"}}
    try:
        done = TOOLS[name][0](**arguments).run(crm).model_dump()
    except (ToolError, ValidationError) as error:
        return {"result": {"content": [{"type": "text", "text": str(error)}], "isError": True}}
    return {"result": {"content": [{"type": "text", "text": json.dumps(done)}], "structuredContent": done}}


def answer(crm: Crm, message: dict[str, Any]) -> dict[str, Any]:
    """The `result` or `error` member for one request."""
    params = message.get("params", {})
    match message.get("method"):
        case "initialize":
            return {"result": {
                "protocolVersion": min(str(params.get("protocolVersion", LATEST)), LATEST),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "crm", "version": "1"},
                "instructions": "Deals of the sales team. Amounts are in US dollars.",
            }}  # fmt: skip
        case "ping":
            return {"result": {}}
        case "tools/list":
            return {"result": {"tools": listing()}}
        case "tools/call":
            return call(crm, str(params.get("name")), params.get("arguments") or {})
        case method:
            return {"error": {"code": -32601, "message": f"`{method}` is not known here"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--database", type=Path, default=Path("crm.sqlite"), help="made and filled if it is not there")
    crm = Crm(parser.parse_args().database)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer(crm, message)}), flush=True)


if __name__ == "__main__":
    main()
