"""CloudEvents 1.0 (https://github.com/cloudevents/spec, JSON event format and JSON batch format)."""

import json
from collections.abc import Iterable
from urllib.parse import quote

from mcp_guard.events.summary import Receipt

CONTENT_TYPE = "application/cloudevents-batch+json"
SCHEMA = "urn:mcp-guard:receipt:v1"


def event(receipt: Receipt) -> Receipt:
    """The event, with the receipt as `data`. `source` (ledger), `id` (sequence number) and `time` identify it."""
    revoked = receipt.get("name") if "scope" in receipt else None
    subject = receipt.get("call") or receipt.get("instance") or receipt.get("approver") or revoked
    return {
        "specversion": "1.0",
        "id": str(receipt["seq"]),
        "source": f"urn:mcp-guard:{quote(receipt['origin'], safe='/:')}",
        "type": f"mcp-guard.{receipt['kind']}",
        **({"subject": subject} if subject else {}),
        "time": receipt["time"],
        "datacontenttype": "application/json",
        "dataschema": SCHEMA,
        "sequence": f"{receipt['seq']:016d}",
        "data": receipt,
    }


def batch(events: Iterable[Receipt]) -> bytes:
    return json.dumps(list(events), ensure_ascii=False).encode()
