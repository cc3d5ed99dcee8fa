"""`mcp-guard serve`: its options. How it serves is in tests/live."""

import pytest

from mcp_guard.cli.serve import build_parser


@pytest.mark.parametrize("port", ["65536", "-1", "http", "٣", ""])
def test_text_that_is_no_port_is_refused_with_what_one_is(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([f"--port={port}"])
    assert ended.value.code == 2
    assert f"`{port}` is not a port; write a number up to 65535" in capsys.readouterr().err
