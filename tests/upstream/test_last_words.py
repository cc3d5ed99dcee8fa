"""What an operator is told about a server that ended: the line that says most, and what it may have lacked."""

import os
import threading
from pathlib import Path

import pytest

from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.upstream.last_words import MAX_LINE_LENGTH, LastWords, lines_of, telling_line, withheld_variables
from mcp_guard.upstream.stdio import TAIL_BYTES, StderrTail, copy_stderr

PYTHON = """Traceback (most recent call last):
  File "/srv/weather.py", line 3, in <module>
    key = os.environ["WEATHER_API_KEY"]
          ~~~~~~~~~~^^^^^^^^^^^^^^^^^^^
KeyError: 'WEATHER_API_KEY'
"""
NODE = """/srv/index.js:1
throw new Error('fetch failed')
^

Error: fetch failed
    at Object.<anonymous> (/srv/index.js:1:7) {
  code: 'ENOTFOUND',
}

Node.js v20.11.0
"""
NPM = """npm error code ENOTFOUND
npm error network request to https://registry.example/x failed
npm error A complete log of this run can be found in: /var/log/x.log
"""
PYDANTIC = """pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings
api_key
  Field required [type=missing, input_value={}, input_type=dict]
    For further information visit https://errors.pydantic.dev/2.11/v/missing
"""
UV = """\x1b[31merror\x1b[0m: Failed to fetch: `https://index.example/weather/`
  Caused by: tunnel error: unsuccessful
"""


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (PYTHON, "KeyError: 'WEATHER_API_KEY'"),
        (NODE, "Error: fetch failed"),
        (NPM, "npm error network request to https://registry.example/x failed"),
        (PYDANTIC, "pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings"),
        (UV, "error: Failed to fetch: `https://index.example/weather/`"),
        ("starting\nError 1\nPlease set WEATHER_API_KEY\n\n", "Please set WEATHER_API_KEY"),
        ("  only indented\n", "only indented"),
        ("Killed", "Killed"),
        ("}\n", "}"),
        ("", ""),
    ],
    ids=["python", "node", "npm", "pydantic", "uv", "sentence", "indented", "word", "bracket", "nothing"],
)
def test_the_line_that_says_why_is_told(stderr: str, told: str) -> None:
    assert telling_line(lines_of(stderr.encode())) == told


def test_variables_that_its_stderr_mentions_are_named_first_and_those_of_a_terminal_never() -> None:
    ours = dict.fromkeys(("AWS_PROFILE", "PWD", "LS_COLORS", "WEATHER_API_KEY", "WEATHER", "HOME", "TERM_PROGRAM"), "x")
    names = withheld_variables(["KeyError: 'WEATHER_API_KEY'"], ours, {"HOME"})
    assert names == (("WEATHER_API_KEY",), ("AWS_PROFILE", "WEATHER"))
    shown = LastWords.of_start("exited", "up", ["KeyError: 'WEATHER_API_KEY'"], ours, {"HOME"}).report("up")
    assert "not passed to it: WEATHER_API_KEY and 2 more\n" in shown
    assert shown.endswith('env = { WEATHER_API_KEY = { env = "WEATHER_API_KEY" } }')


def test_report_names_at_most_some_variables_and_no_value() -> None:
    ours = {f"SETTING_{number:02}": "canary-value" for number in range(12)}
    words = LastWords.of_start("exited with status 1", "up", ["no \x1b]0;title\x07"], ours, ())
    shown = words.report("up").splitlines()
    assert shown[0] == r"upstream `up`: its stderr ends: no \u{1b}]0;title\u{7}"
    assert ": SETTING_00, SETTING_01, " in shown[1]
    assert shown[1].endswith(", SETTING_06, SETTING_07 and 4 more")
    assert shown[2] == ('hint: pass what it needs by name: [upstreams.up] env = { NAME = { env = "NAME" } }')
    assert "canary" not in words.report("up")
    assert words.summary.startswith("exited with status 1; its stderr ends: no ")


def test_a_line_that_is_cut_at_a_blank_does_not_end_in_one() -> None:
    line = f"{'x' * (MAX_LINE_LENGTH - 1)} and more"
    assert LastWords("it ended", [line]).message == "x" * (MAX_LINE_LENGTH - 1)


def test_a_server_that_was_up_is_reported_without_variables() -> None:
    assert LastWords("exited with status 1", ["bye"]).report("up") == "upstream `up`: its stderr ends: bye"
    assert LastWords("was stopped").report("up") == ""
    assert LastWords("cannot be started", hint="is it on PATH?").report("up") == "upstream `up`: is it on PATH?"


def test_the_kept_end_of_stderr_is_short_and_scrubbed(tmp_path: Path) -> None:
    scrubber, tail = Scrubber(), StderrTail()
    scrubber.learn("proxy", "canary-password")
    near, far = os.pipe()
    copied = os.fdopen(near, "rb", 0), (tmp_path / "log").open("ab", 0), scrubber, tail
    thread = threading.Thread(target=copy_stderr, args=copied)
    thread.start()
    with os.fdopen(far, "wb", 0) as sink:
        sink.write(b"x" * 100 + b"\n")
        sink.write(b"y\n" * (TAIL_BYTES // 2) + b"cannot reach http://guard:canary-password@proxy\n")
    thread.join(20)
    assert len(tail.text) <= TAIL_BYTES
    assert telling_line(lines_of(tail.text)) == "cannot reach http://guard:[secret proxy]@proxy"
