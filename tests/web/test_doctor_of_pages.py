"""What `doctor` says of the pages at `web.url`."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from mcp_guard.config import load
from mcp_guard.diagnostics.pages import PagesState, inspect_pages
from mcp_guard.settings import WebSettings
from tests.live.running_guard import scripted, write_config
from tests.web.inbox_process import free_port
from tests.web.web_process import make_certificate, web_process, web_section

PAGE = b'<body data-page="sign-in">'


def now() -> int:
    return time.time_ns() // 1000


@contextmanager
def answering(status: int, body: bytes, refused: bytes = b"", date: float = 0) -> Iterator[str]:
    """A server that answers so; `refused` to a change."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            self.send_header("date", formatdate(time.time() + date))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.send_response_only(403)
            self.end_headers()
            self.wfile.write(refused)

        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def found(url: str) -> PagesState:
    state = inspect_pages(WebSettings(url), now())
    assert state is not None
    return state


def test_pages_that_answer_are_fine(tmp_path: Path) -> None:
    port = free_port()
    section = f'[web]\nurl = "http://localhost:{port}"\nlisten = "127.0.0.1:{port}"\n'
    config = write_config(tmp_path, scripted("up", tmp_path), more=section)
    with web_process(config):
        state = inspect_pages(load(config).web, now())
    assert state == PagesState(f"http://localhost:{port}")
    assert inspect_pages(None, now()) is None


@pytest.mark.parametrize(
    ("status", "body", "refused", "failure"),
    [
        (421, b"host not allowed", b"", "changes the header `Host`"),
        (200, b"welcome to nginx", b"", "something else answers there (status 200)"),
        (200, PAGE, b'{"problem": "origin not allowed: "}', "changes the header `Origin`"),
        (200, PAGE, b"", ""),
    ],
)
def test_what_is_in_front_of_the_pages_is_named(status: int, body: bytes, refused: bytes, failure: str) -> None:
    with answering(status, body, refused) as url:
        assert failure in found(url).failure
        assert bool(found(url).failure) == bool(failure)


def test_other_clock_is_noticed() -> None:
    with answering(200, PAGE, date=90) as url:
        assert 85 <= found(url).ahead <= 90


def test_nothing_that_answers_is_a_failure() -> None:
    assert found(f"http://localhost:{free_port()}").failure == "does not answer: Connection refused"
    assert found("https://guard.nowhere.invalid").failure.startswith("does not answer: ")


@pytest.mark.parametrize(
    ("days", "change", "failure"),
    [
        (0, lambda _: None, ""),
        (9, lambda folder: (folder / "web.key").chmod(0o644), "is accessible to other users"),
        (9, lambda folder: (folder / "web.crt").write_text("-"), "are not a certificate and its key"),
    ],
)
def test_certificate_of_the_guard_is_checked(
    tmp_path: Path, days: int, change: Callable[[Path], object], failure: str
) -> None:
    make_certificate(tmp_path, days)
    change(tmp_path)
    web = load(write_config(tmp_path, scripted("up", tmp_path), more=web_section(free_port()))).web
    assert web is not None
    state = inspect_pages(replace(web), now())
    assert state is not None
    assert failure in state.failure
    if not failure:
        assert state.failure == ""
        assert state.expires is not None
        assert state.expires < now()
