"""`/livez` and `/readyz` of a guard that serves: as an orchestrator asks them, without a token or a client."""

from pathlib import Path

import httpx2 as httpx

from tests.live.http_guard import NO_TLS, Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, cli, scripted, upstream, write_config
from tests.live.test_session import eventually
from tests.servers.wild_http import WildServer


def test_readiness_says_what_works_and_names_nothing(tmp_path: Path) -> None:
    port, state = free_port(), tmp_path / "state"
    dies = upstream("canaryname", "sh", "-c", "echo canary-reason >&2; exit 1")
    config = write_config(tmp_path, scripted("up", tmp_path) + dies, more=serving(port))
    answers: list[httpx.Response] = []

    def ask(path: str) -> httpx.Response:
        # the proxy of a cluster asks by address, whatever `Host` says
        headers = {"host": "10.1.2.3:8766"}
        answers.append(httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, trust_env=False, verify=NO_TLS))
        return answers[-1]

    def becomes(code: int, **checks: str) -> None:
        eventually(lambda: ask("/readyz").status_code == code and answers[-1].json().items() >= checks.items())

    with Served(config, port) as served:
        assert (ask("/livez").status_code, answers[-1].json()) == (200, {"status": "ok"})
        assert (ask("/readyz").status_code, answers[-1].json()["policies"]) == (503, "unknown")  # and looks now
        assert answers[-1].headers["retry-after"] == "5"
        becomes(200, status="ready", ledger="ok", policies="ok")
        assert answers[-1].json()["upstreams"] == {"up": 1, "configured": 2}
        assert ask("/readyz?upstreams=all").status_code == 503

        state.rename(tmp_path / "gone")
        becomes(503, ledger="failing")
        (tmp_path / "gone").rename(state)
        becomes(200, ledger="ok")

        policies = tmp_path / "policies" / "test.cedar"
        policies.write_text("permit (principal, action, canary);")
        becomes(503, policies="failing")
        policies.write_text(ALLOW_ALL)
        becomes(200, policies="ok")

        client = served.raw(served.issue()[1])
        client.start()  # from now on a session knows
        assert client.call("up__echo", {"text": "x"})["result"]["isError"] is False
        becomes(200, status="ready")
        health = served.health()
        assert (health["status"], health["sessions"]) == ("ok", 1)
        usual = httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False, verify=NO_TLS)
        assert (usual.status_code, "health at /livez and /readyz" in usual.text) == (404, True)
    assert all(set(answer.json()) <= {"status", "ledger", "policies", "upstreams"} for answer in answers)
    assert not any("canary" in answer.text for answer in answers)
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers)
    assert "canary-reason" in served.notes
    assert "not ready: ledger failing, policies ok, 1 of 2 upstreams can be called" in served.notes
    assert not list(state.glob(".ready.*"))


def test_a_dead_server_over_http_is_counted_as_down_by_all_sessions_until_it_is_back(tmp_path: Path) -> None:
    """Also by the session that has not called it since."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/readyz?upstreams=all"
    with WildServer(lambda exchange: exchange.serve()) as far:
        config = write_config(tmp_path, f'[upstreams.far]\nurl = "{far.url}"\n', more=serving(port))
        with Served(config, port) as served:

            def becomes(code: int, up: int) -> None:
                def answers() -> bool:
                    answer = httpx.get(address, trust_env=False, verify=NO_TLS)
                    return (answer.status_code, answer.json()["upstreams"]["up"]) == (code, up)

                eventually(answers)

            def status() -> str:
                lines = cli("status", "--config", str(config)).stdout.splitlines()
                return next((line for line in lines if line.startswith("upstream far: ")), "")

            clients = [served.raw(served.issue()[1]) for _ in range(2)]
            for client in clients:
                client.start()
                assert client.call("far__run")["result"]["content"][0]["text"] == "done"
            becomes(200, up=1)
            far.stop()
            for _ in range(2):
                assert "ConnectError" in str(clients[0].call("far__run"))
            becomes(503, up=0)
            eventually(lambda: status().startswith("upstream far: down since "))
            assert "(1 of 2 sessions): cannot be reached: ConnectError" in status()
            far.start()
            becomes(200, up=1)
            eventually(lambda: status().endswith("(2 sessions)"))
            assert clients[0].call("far__run")["result"]["content"][0]["text"] == "done"
    assert served.notes.count("upstream `far` cannot be reached: ConnectError") == 1
