"""A webhook, signed as those of the notifiers: `ledger.checkpoint`, with the checkpoint as it is."""

import json

from mcp_guard.notify.webhook import signature_headers
from mcp_guard.outbound import post
from mcp_guard.witness.submission import Place, Submission, Taken


def send(place: Place, submission: Submission) -> Taken:
    """Raises: Undelivered unless the receiver says that it took it."""
    id = f"msg_checkpoint_{submission.head.size}_{submission.head.root.hex()[:16]}"
    said = {"type": "ledger.checkpoint", "timestamp": submission.at, "data": submission.data()}
    body = json.dumps(said).encode()
    post(place.values["url"], body, signature_headers(place.secret("secret"), id, submission.at, body))
    return Taken({"message": id})
