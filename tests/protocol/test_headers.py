"""Headers that mirror arguments (2026-07-28): numbers are written as in the body, and read in any spelling."""

import pytest

from mcp_guard.core import exact_json
from mcp_guard.protocol.headers import is_same_value, mirror_headers

SCHEMA = {"type": "object", "properties": {"n": {"type": "number", "x-mcp-header": "N"}}}
META = b'"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}'


@pytest.mark.parametrize(
    "number", ["1e-7", "0.00001", "1", "1.5", "1e+21", "100000000000000000000", "0.30000000000000000001", "true"]
)
def test_a_number_is_written_as_in_the_body(number: str) -> None:
    call = b'{"method":"tools/call","params":{"name":"t","arguments":{"n":%s},%s}}' % (number.encode(), META)
    assert mirror_headers(exact_json.loads(call), lambda _: SCHEMA)["mcp-param-n"] == number


@pytest.mark.parametrize(
    ("header", "mirrored", "is_same"),
    [
        ("0.00001", "1e-5", True),
        ("1E-05", "1e-5", True),
        ("42.0", "42", True),
        ("=?base64?NDI=?=", "42", True),
        ("9007199254740993", "9007199254740992", False),
        ("", "0", False),
        (None, "0", False),
        (" 42", "42", False),
        ("0x2A", "42", False),
        ("x", "x", True),
        ("NaN", "nan", False),
    ],
)
def test_a_header_has_the_value_of_the_body_in_any_spelling(header: str | None, mirrored: str, is_same: bool) -> None:
    assert is_same_value(header, mirrored) is is_same
