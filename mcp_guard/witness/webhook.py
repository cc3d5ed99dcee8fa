"""A webhook witness: posts `ledger.checkpoint` with the signed checkpoint, signed like the webhooks of notifiers."""

import json

from mcp_guard.notify.webhook import signature_headers
from mcp_guard.outbound import Destination, post_json
from mcp_guard.witness.submission import Acceptance, Submission


def send(destination: Destination, submission: Submission) -> Acceptance:
    """Raises: DeliveryError unless the receiver answers with success."""
    id = f"msg_checkpoint_{submission.head.size}_{submission.head.root.hex()[:16]}"
    event = {"type": "ledger.checkpoint", "timestamp": submission.at, "data": submission.data()}
    body = json.dumps(event).encode()
    headers = signature_headers(destination.secret("secret"), id, submission.at, body)
    post_json(destination.options["url"], body, headers, destination.network)
    return Acceptance({"message": id})
