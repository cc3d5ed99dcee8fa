"""`[web] listen` as a Unix socket, which no other user of the machine can take or reach."""

import json
import socket
import stat
from pathlib import Path

import pytest

from mcp_guard.core.errors import ListenError
from mcp_guard.downstream.unix import open_socket
from mcp_guard.settings import SocketSettings
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import scripted, write_config


def test_pages_are_served_on_a_socket_of_their_user_which_another_process_takes_over(tmp_path: Path) -> None:
    more = '[web]\nurl = "https://guard.example"\nlisten = "unix:pages.sock"\n'
    config, path = write_config(tmp_path, scripted("up", tmp_path), more=more), tmp_path / "pages.sock"
    process = Forked(["web", "--config", str(config), "--json"], stdout=PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert json.loads(process.stdout.readline()) == {"url": "https://guard.example", "socket": str(path)}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /sign-in HTTP/1.1\r\nhost: guard.example\r\nconnection: close\r\n\r\n")
            assert b"200 OK" in client.recv(1000)
        settings = SocketSettings(path)
        with pytest.raises(ListenError, match="is in use by another process"):
            open_socket(settings, "web.listen")
        process.kill()
        process.wait(30)
    open_socket(settings, "web.listen").close()
