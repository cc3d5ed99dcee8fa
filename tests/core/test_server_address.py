"""Addresses without what must stay secret."""

import pytest

from mcp_guard.core.server_address import server_of


@pytest.mark.parametrize(
    "url",
    [
        "https://mcp.example:8443",
        "https://user:secret@mcp.example:8443/s/token/mcp?key=token",
        "https://a@b@mcp.example:8443#token",
    ],
)
def test_only_scheme_host_and_port_are_shown(url: str) -> None:
    assert server_of(url) == "https://mcp.example:8443"
