"""A small CRM as an MCP server on stdio: deals in a SQLite file, seeded on first use.

    python examples/crm/server.py --database crm.sqlite

It trusts whoever calls it, as most tool servers do: what an agent may change is the guard's business, not its own.
"""

import argparse
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

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


def make_server(crm: Crm) -> MCPServer:
    """The CRM's six tools."""
    server = MCPServer("crm", instructions="Deals of the sales team. Amounts are in US dollars.")

    @server.tool()
    def get_deal(deal_id: DealId) -> DealResult:
        """Read one deal."""
        return DealResult(deal=crm.get(deal_id))

    @server.tool()
    def search_deals(text: Annotated[str, Field(description="Part of a name, an account or a stage")] = "") -> Deals:
        """Find deals."""
        return Deals(deals=crm.search(text))

    @server.tool()
    def update_deal(  # noqa: PLR0913, PLR0917 - the fields of a deal
        deal_id: DealId,
        stage: Stage | None = None,
        amount: Annotated[float | None, Field(description="US dollars")] = None,
        discount_rate: Annotated[float | None, Field(description="0.05 is five per cent")] = None,
        billing_contact_email: str | None = None,
        close_date: Annotated[str | None, Field(description="YYYY-MM-DD")] = None,
        notes: str | None = None,
    ) -> DealResult:
        """Change fields of a deal; fields that are left out stay as they are."""
        changes: dict[str, object] = {
            "stage": stage, "amount": amount, "discount_rate": discount_rate, "close_date": close_date,
            "billing_contact_email": billing_contact_email, "notes": notes,
        }  # fmt: skip
        return DealResult(deal=crm.update(deal_id, changes))

    @server.tool()
    def add_note(deal_id: DealId, text: str) -> Done:
        """Attach a note to a deal."""
        crm.add_note(deal_id, text)
        return Done(message=f"note added to deal {deal_id}")

    @server.tool()
    def refund(deal_id: DealId, amount: Annotated[float, Field(description="US dollars")], reason: str) -> DealResult:
        """Pay money back to the customer of a deal."""
        return DealResult(deal=crm.refund(deal_id, amount, reason))

    @server.tool()
    def delete_deal(deal_id: DealId) -> Done:
        """Delete a deal for good."""
        crm.delete(deal_id)
        return Done(message=f"deal {deal_id} deleted")

    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--database", type=Path, default=Path("crm.sqlite"), help="made and filled if it is not there")
    make_server(Crm(parser.parse_args().database)).run("stdio")


if __name__ == "__main__":
    main()
