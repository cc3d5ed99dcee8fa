"""What is wrong with the configuration is said when the guard starts, not only when somebody asks or calls."""

import json
from pathlib import Path

from tests.live.http_guard import Served, await_answer, free_port, serving
from tests.live.preloaded_cli import Forked
from tests.live.running_guard import cli, write_config
from tests.live.test_session import eventually

TOKEN = """
[upstreams.lan]
url = "http://tracker.invalid/mcp"
bearer = { env = "TRACKER_TOKEN" }

[upstreams.here]
url = "http://127.0.0.1:9/mcp"
bearer = { env = "TRACKER_TOKEN" }
"""
SERVED = "accepts other machines, and `serve.url` is not https"
SECRETS = "the secrets of `lan` are sent unencrypted to another machine"


def test_serve_names_broken_policies_and_what_is_not_encrypted_when_it_starts(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, TOKEN, "permit (principal, action;", serving(port, 'host = "0.0.0.0"'))
    log = tmp_path / "log"
    with log.open("w") as stderr:
        guard = Forked(("serve", "--config", str(config)), stderr=stderr.fileno())
        try:
            for note in ("serving ", "the policies could not be loaded; every call is denied:\ntest.cedar:"):
                eventually(lambda note=note: note in log.read_text())  # type: ignore[misc]
            await_answer(f"http://127.0.0.1:{port}/livez")  # it serves, and denies every call
        finally:
            guard.terminate()
            guard.wait()
    for warning in (SERVED, SECRETS):
        assert log.read_text().count(warning) == 1
    assert "`here`" not in log.read_text()


def test_doctor_warns_of_what_is_not_encrypted(tmp_path: Path) -> None:
    config = write_config(tmp_path, TOKEN, more=serving(8766, 'host = "0.0.0.0"'))

    def warnings() -> list[str]:
        findings = json.loads(cli("doctor", "--json", "--config", str(config), check=False).stdout)
        return [row["what"] for row in findings if (row["check"], row["level"]) == ("network", "warning")]

    served, secrets = warnings()
    assert SERVED in served
    assert secrets == SECRETS
    text = config.read_text().replace("[serve]", '[serve]\nurl = "https://guard.example.com/mcp"')
    config.write_text(text.replace("http://tracker.invalid", "https://tracker.invalid"))
    assert warnings() == []


def test_doctor_names_the_address_of_a_server_over_http_that_does_not_answer(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/mcp"
    config = write_config(tmp_path, f'[upstreams.far]\nurl = "{url}"\n')
    findings = json.loads(cli("doctor", "--upstreams", "--json", "--config", str(config), check=False).stdout)
    [problem] = [row for row in findings if row["check"] == "upstreams"]
    assert "cannot be reached" in problem["what"]
    assert url in problem["fix"]
    assert "stderr" not in problem["fix"]


def test_serve_says_that_it_starts_a_new_ledger_and_only_then(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, "", more=serving(port))
    with Served(config, port) as first:
        pass
    assert (
        f"serving http://127.0.0.1:{port}/mcp (the address that tokens are for) on 127.0.0.1 port {port}" in first.notes
    )
    assert f"started a new ledger: `{tmp_path / 'state' / 'ledger.sqlite'}`" in first.notes
    with Served(config, port) as second:
        pass
    assert "new ledger" not in second.notes


def test_starts_that_fail_say_once_that_the_ledger_is_new(tmp_path: Path) -> None:
    metrics = '[telemetry]\nmetrics = true\nmetrics_token = { file = "none" }\n'
    config = write_config(tmp_path, "", more=serving(free_port()) + metrics)
    first, second = (cli("serve", "--config", str(config), check=False) for _ in range(2))
    assert first.returncode == second.returncode != 0
    assert "started a new ledger" in first.stderr
    assert "started a new ledger" not in second.stderr


def test_a_restored_ledger_has_no_other_gateway(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, "", more=serving(port))
    with Served(config, port):
        pass
    (tmp_path / "state" / "shared.key").unlink()  # as in a new folder with the restored ledger
    with Served(config, port) as after:
        pass
    assert "warning: this gateway has another" not in after.notes
