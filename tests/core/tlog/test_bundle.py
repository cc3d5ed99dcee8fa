"""Bundles, and the text form of a proof per C2SP tlog-proof."""

import base64
import json

from mcp_guard.core.tlog.bundle import bundle, proof_text

HASHES = (
    "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=",
    "B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=",
)
CHECKPOINT = """\
example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

— example.com/fancylog hI2DJw==
"""


def test_a_proof_has_the_form_of_the_published_example() -> None:
    """The example of C2SP tlog-proof, without its optional `extra` line and with fewer hashes."""
    text = proof_text(73894, [base64.b64decode(item) for item in HASHES], CHECKPOINT)
    assert text == "c2sp.org/tlog-proof@v1\nindex 73894\n" + "\n".join(HASHES) + "\n\n" + CHECKPOINT


def test_the_proof_of_a_tree_of_one_has_no_hashes() -> None:
    assert proof_text(0, [], CHECKPOINT) == f"c2sp.org/tlog-proof@v1\nindex 0\n\n{CHECKPOINT}"


def test_a_bundle_is_one_line_of_json() -> None:
    line = bundle(b'{"a":"\xe2\x82\xac"}\nc2ln', "proof", {"request": (b"salt", b"\x00")})
    assert b"\n" not in line
    assert json.loads(line) == {
        "form": "mcp-guard/bundle/v1",
        "entry": '{"a":"€"}\nc2ln',
        "proof": "proof",
        "payloads": {"request": {"salt": "c2FsdA==", "payload": "AA=="}},
    }
    assert "payloads" not in json.loads(bundle(b"", ""))
