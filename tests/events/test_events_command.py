"""`mcp-guard ledger events`: lines, a real receiver, and resuming from a cursor."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.events.sender import Cursor, Receiver, check_url, read_headers
from mcp_guard.network import Network
from tests.ledger.sized_ledger import ORIGIN, fill, open_filled
from tests.live.running_guard import Json, cli, command
from tests.notify.receivers import truncating_web, web


def events(ledger: Path, *args: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return cli("ledger", "events", "--ledger", str(ledger), *args, check=check)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    open_filled(tmp_path, 250)
    return tmp_path / "ledger.sqlite"


def lines(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_are_printed_in_order_from_the_given_position(ledger: Path) -> None:
    assert [event["id"] for event in lines(events(ledger).stdout)] == [str(seq) for seq in range(250)]
    assert [event["id"] for event in lines(events(ledger, "--after", "247").stdout)] == ["248", "249"]
    [event, _] = lines(events(ledger, "--after", "247", "--format", "ocsf").stdout)
    assert event["class_uid"] == 6003


def test_cursor_resumes_where_it_stopped(ledger: Path, tmp_path: Path) -> None:
    cursor = ("--cursor", str(tmp_path / "here"))
    assert len(lines(events(ledger, *cursor).stdout)) == 250
    assert events(ledger, *cursor).stdout == ""
    fill(open_filled(tmp_path, 0), 3)
    assert [event["id"] for event in lines(events(ledger, *cursor).stdout)] == ["250", "251", "252"]


def test_receiver_gets_every_event_once_in_batches(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "headers").touch(0o600)
    (tmp_path / "headers").write_text("Authorization: Bearer of-the-receiver\n")
    with web() as receiver:
        to = ("--format", "otel", "--to", f"{receiver.url}/v1/logs", "--headers", str(tmp_path / "headers"))
        assert "sent 250 events to 127.0.0.1" in events(ledger, *to).stdout
        assert "sent 0 events" in events(ledger, *to).stdout
    assert [len(records(post.body)) for post in receiver.posted] == [100, 100, 50]
    assert {post.path for post in receiver.posted} == {"/v1/logs"}
    assert receiver.posted[0].headers["authorization"] == "Bearer of-the-receiver"
    assert receiver.posted[0].headers["content-type"] == "application/json"


def records(body: bytes) -> list[Json]:
    report: list[Json] = json.loads(body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    return report


def test_busy_receiver_gets_the_same_batch_again(ledger: Path) -> None:
    with web(503, 429) as receiver:
        done = events(ledger, "--after", "239", "--to", receiver.url)
        bodies = [post.body for post in receiver.posted]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert [event["id"] for event in json.loads(bodies[0])] == [str(seq) for seq in range(240, 250)]
    assert "answered HTTP 503; trying again" in done.stderr


def test_refused_batch_does_not_move_the_cursor(ledger: Path) -> None:
    with web(200, 401) as receiver:
        refused = events(ledger, "--to", receiver.url, check=False)
        assert refused.returncode == 6
        assert "refused the events: HTTP 401" in refused.stderr
        assert receiver.url not in refused.stderr
        assert "sent 150 events" in events(ledger, "--to", receiver.url).stdout


def test_a_refusal_whose_body_is_cut_off_is_a_refusal() -> None:
    with truncating_web(401) as url, pytest.raises(UpstreamError, match="refused the events: HTTP 401"):
        Receiver(url, "application/json", {}, Network()).send(b"[]")


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1:9/", {"Authorization": "Bearer t\u20ac"}),
        ("http://127.0.0.1:9/", {"Authorization": "two\nlines"}),
        ("http://127.0.0.1:port/", {}),
        ("http://127.0.0.1:9/a b", {}),
    ],
)
def test_a_request_that_cannot_be_sent_is_not_retried(url: str, headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"cannot send to `127\.0\.0\.1`") as refused:
        Receiver(url, "application/json", headers, Network()).send(b"[]")
    assert "Bearer" not in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "warning"),
    [
        (b'{"partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "too old"}}', "dropped 2 events: too old"),
        (b'{"partialSuccess": {"rejectedLogRecords": "0"}}', ""),
        (b'{"partialSuccess": {"rejectedLogRecords": "n/a"}}', ""),
        (b'{"partialSuccess": {"rejectedLogRecords": [1]}}', ""),
        (b'{"partialSuccess": {"rejectedLogRecords": 1e999}}', ""),
        (b'{"partialSuccess": "none"}', ""),
        (b"[" * 4096, ""),
    ],
)
def test_what_a_receiver_has_accepted_is_not_sent_again_whatever_it_says(
    ledger: Path, answer: bytes, warning: str
) -> None:
    with web(content=answer) as receiver:
        done = events(ledger, "--after", "239", "--to", receiver.url)
        assert "sent 10 events" in done.stdout
        assert done.stderr.strip() == (f"mcp-guard: the receiver {warning}" if warning else "")
        assert "sent 0 events" in events(ledger, "--to", receiver.url).stdout


def test_a_damaged_receipt_is_reported_as_such(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as database, database:
        database.execute("UPDATE receipt SET body = '{}' WHERE seq = 249")
    with web() as receiver:
        for options in ((), ("--to", receiver.url), ("--after", "0")):
            damaged = events(ledger, *options, check=False)
            assert damaged.returncode == 5
            assert "the ledger holds something that is not a receipt" in damaged.stderr


def test_a_redirect_is_not_followed(ledger: Path) -> None:
    with web(302) as receiver:
        refused = events(ledger, "--to", receiver.url, check=False)
    assert refused.returncode == 6
    assert "refused the events: HTTP 302" in refused.stderr
    assert len(receiver.posted) == 1


def test_follow_prints_new_events(ledger: Path, tmp_path: Path) -> None:
    following = subprocess.Popen(
        command("ledger", "events", "--ledger", str(ledger), "--after", "248", "--follow"), stdout=subprocess.PIPE
    )
    assert following.stdout is not None
    try:
        assert json.loads(following.stdout.readline())["id"] == "249"
        fill(open_filled(tmp_path, 0), 1)
        assert json.loads(following.stdout.readline())["id"] == "250"
    finally:
        following.terminate()
        following.communicate(timeout=10)


def test_a_cursor_of_another_ledger_is_refused(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "cursor")
    cursor.move(ORIGIN, 7)
    assert cursor.read(ORIGIN) == 7
    with pytest.raises(ConfigError, match=r"belongs to another ledger, `test\.example/ledger`"):
        cursor.read("other")


def test_a_cursor_beyond_the_end_of_a_restored_ledger_is_refused_and_not_taken_for_nothing_new(
    ledger: Path, tmp_path: Path
) -> None:
    cursor = Cursor(tmp_path / "cursor")
    cursor.move(ORIGIN, 250)
    refused = events(ledger, "--cursor", str(cursor.path), check=False)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "is at receipt 250, but the last one of the ledger is 249" in refused.stderr
    assert "--after SEQ" in refused.stderr
    again = events(ledger, "--cursor", str(cursor.path), "--after", "248")
    assert [event["id"] for event in lines(again.stdout)] == ["249"]
    assert cursor.read(ORIGIN) == 249


def test_a_start_after_the_end_of_the_ledger_is_refused_before_anything_is_waited_for(ledger: Path) -> None:
    refused = events(ledger, "--after", "250", "--follow", check=False)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "`--after 250` is after the end of the ledger, whose last receipt is 249" in refused.stderr
    assert "hint: for every receipt after that one: --after 249" in refused.stderr
    assert events(ledger, "--after", "249").stdout == ""


@pytest.mark.parametrize("text", ["99999", "", '{"origin": "test.example/ledger"}', '{"seq": "7", "origin": "x"}'])
def test_a_file_that_is_no_cursor_is_refused_in_plain_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.y").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.y` has no position that this command wrote") as refused:
        Cursor(tmp_path / "c.y").read(ORIGIN)
    assert "--after SEQ" in refused.value.hint


def test_header_file_readable_by_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_text("Authorization: x")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="is accessible to other users"):
        read_headers(path)
    path.chmod(0o600)
    path.write_text("no colon")
    with pytest.raises(ConfigError, match="line 1 is not `Name: value`"):
        read_headers(path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://[::1", "http://"])
def test_receiver_must_be_an_http_url(ledger: Path, url: str) -> None:
    refused = events(ledger, "--to", url, check=False)
    assert refused.returncode == 3
    assert "the address in --to does not begin with http:// or https://, or names no host" in refused.stderr


def test_an_error_about_the_url_does_not_repeat_it() -> None:
    with pytest.raises(ConfigError) as refused:
        check_url("ftp://user:s3cret@host.example/path")
    assert "s3cret" not in str(refused.value)
