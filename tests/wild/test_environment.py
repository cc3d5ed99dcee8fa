"""A guard works in the environment that a host leaves it: next to none, another locale, the root as its folder."""

import os
import sys
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, text, upstream, write_config

ENVIRONMENTS = {
    "nothing": {},
    "C": {"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    "latin-1": {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PATH": "/usr/bin:/bin"},
}


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_texts_arrive_whole(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    said = "žluťoučký 🎉"
    answer = f'{{"jsonrpc":"2.0","id":@ID@,"result":{{"content":[{{"type":"text","text":"{said}"}}]}}}}\n'
    server = upstream("up", sys.executable, str(SERVERS / "raw_replies.py"), str(tmp_path / "log"))
    config = write_config(tmp_path, server)
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    with Client(config) as client:
        client.start()
        assert text(client.call("up__raw", {"hex": answer.encode().hex()})) == said
