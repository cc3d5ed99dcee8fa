"""`/metrics` of real guards, read by Prometheus' own parser, and the dashboard that is made of it."""

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Never

import httpx2 as httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from mcp_guard import monitoring
from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.model import Call, Resource, Task
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_ledger
from mcp_guard.monitoring import Monitoring
from mcp_guard.telemetry.metrics import MAX_TOOLS, Metrics
from tests.core.test_request_meta import INSTANCE, TOOL
from tests.live.http_guard import NO_TLS, Served, free_port, serving
from tests.live.running_guard import (
    ALLOW_ALL,
    cli,
    enrol,
    scripted,
    text,
    upstream,
    write_config,
    write_private,
)
from tests.live.test_session import eventually, held

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "mcp-guard.json"
PAGE = ROOT / "docs" / "howto" / "observe-with-prometheus-and-otel.md"
POLICIES = ALLOW_ALL + (
    '@id("ask") @require_approval("people") forbid (principal, action == Action::"up__update_deal", resource);'
    '@id("no") forbid (principal, action == Action::"up__count", resource);'
)
WITNESS = '[witnesses.file]\nkind = "file"\npath = "seen"\n'


def scrape(url: str, headers: dict[str, str] | None = None) -> dict[str, Metric]:
    answer = httpx.get(url, headers=headers, trust_env=False, verify=NO_TLS)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def values(family: Metric, suffix: str = "") -> dict[tuple[str, ...], float]:
    """By the values of the labels, in the order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for sample in family.samples
        if sample.name == family.name + suffix
    }


UNDER_WAY = ("ledger_open_intents", "ledger_late_outcomes", "ledger_waiting_commits", "calls_held")


def scrape_after(url: str, call: tuple[str, ...]) -> dict[str, Metric]:
    """Nothing until this outcome, tool and upstream are counted and nothing is under way."""
    found = scrape(url)
    counted = call in values(found["mcp_guard_calls"], "_total")
    # the ledger is read a moment before the calls are counted
    return found if counted and all(values(found[f"mcp_guard_{name}"]) == {(): 0} for name in UNDER_WAY) else {}


def test_metrics_say_what_the_guard_does(tmp_path: Path) -> None:
    port, down = free_port(), upstream("down", "sh", "-c", "exit 1")
    more = serving(port) + WITNESS + "[telemetry]\nmetrics = true\n"
    config = write_config(tmp_path, scripted("up", tmp_path) + down, POLICIES, more)
    with Served(config, port) as served:
        client, url = served.raw(served.issue()[1]), f"http://127.0.0.1:{port}/metrics"
        client.start()
        for tool in ("echo", "echo", "count", "tool_error", "agents-own-name"):
            client.call(f"up__{tool}", {"text": "canary-argument"} if tool == "echo" else {})
        client.patience = 0.001
        with pytest.raises(httpx.TimeoutException):
            client.call("up__update_deal", {"id": "7", "amount": 1})
        assert served.raw("not-a-token").request("ping").status_code == 401
        eventually(lambda: values(scrape(url)["mcp_guard_calls_held"]) == {(): 1})
        assert values(scrape(url)["mcp_guard_open_approvals"]) == {(): 1}
        assert values(scrape(url)["mcp_guard_calls_in_flight"]) == {(): 1}, "what is held is not answered yet"
        client.patience = 60
        cli("approvals", "approve", held(config), "--rationale", "fine", *enrol(config))
        found = eventually(lambda: scrape_after(url, ("ok", "up__update_deal", "up")))
        eventually(lambda: values(scrape(url)["mcp_guard_calls_in_flight"]) == {(): 0})
        exported = httpx.get(url, trust_env=False, verify=NO_TLS).text
        # a page of another origin, whose name has been made to resolve to this machine
        for name, value, code in (("host", "attacker.example", 421), ("origin", "https://attacker.example", 403)):
            assert httpx.get(url, headers={name: value}, trust_env=False, verify=NO_TLS).status_code == code
    assert values(found["mcp_guard_calls"], "_total") == {
        ("ok", "up__echo", "up"): 2, ("denied", "up__count", "up"): 1, ("tool_error", "up__tool_error", "up"): 1,
        ("denied", "unknown", "unknown"): 1, ("ok", "up__update_deal", "up"): 1,
    }  # fmt: skip
    assert values(found["mcp_guard_decisions"], "_total") == {("allow",): 3, ("deny",): 2, ("require_approval",): 2}
    assert values(found["mcp_guard_refused_tokens"], "_total") == {(): 1}
    assert values(found["mcp_guard_decision_seconds"], "_count") == {(): 7}
    assert values(found["mcp_guard_hold_seconds"], "_count") == {(): 1}
    assert values(found["mcp_guard_upstream_seconds"], "_count") == {("up",): 4}
    assert values(found["mcp_guard_commit_seconds"], "_count") == {("conclude",): 4, ("intend",): 4, ("refuse",): 2}
    assert values(found["mcp_guard_upstream_up"]) == {("up",): 1, ("down",): 0}
    receipts = values(found["mcp_guard_ledger_receipts"])[()]
    assert receipts > 10
    assert values(found["mcp_guard_witness_lag_receipts"]) == {("file",): receipts}
    assert values(found["mcp_guard_ledger_up"]) == values(found["mcp_guard_sessions"]) == {(): 1}
    assert values(found["mcp_guard_ledger_bytes"])[()] > 4096
    assert not re.search("canary-argument|agents-own-name|not-a-token", exported)
    assert not [name for name in found if name.startswith("mcp_guard") and f"`{name}" not in PAGE.read_text()]


def test_calls_refused_without_a_receipt_are_counted(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port) + "[telemetry]\nmetrics = true\n")
    with Served(config, port) as served:
        client = served.raw(served.issue()[1])
        client.start()
        assert "result" in client.call("up__echo", {"text": "x"})
        with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = text(client.call("up__echo", {"text": "x"}))
            assert refused == "denied by mcp-guard: another process has locked the ledger. Nothing was sent."
        url = f"http://127.0.0.1:{port}/metrics"
        found = eventually(lambda: scrape_after(url, ("unrecorded", "up__echo", "up")))
    outcomes = {("unrecorded", "up__echo", "up"): 1, ("ok", "up__echo", "up"): 1}
    assert values(found["mcp_guard_calls"], "_total") == outcomes


class HangingReader:
    async def read(self, query: object) -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None: ...


async def test_metrics_are_given_while_the_database_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "READ_SECONDS", 0.01)
    settings = check('[guard]\npolicies = "p"\n', tmp_path / "mcp-guard.toml")
    with closing(open_ledger(ledger_settings(settings), CLOCK)) as ledger:
        hanging = replace(ledger, reader=HangingReader())
        async with asyncio.timeout(5):
            text = await Monitoring(Metrics(), hanging, settings, lambda: 0, dict).render()
    found = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert values(found["mcp_guard_ledger_up"]) == {(): 0}
    assert values(found["mcp_guard_lease_held"]) == {(): 1}


def test_only_the_operators_machines_can_read_metrics(tmp_path: Path) -> None:
    write_private(tmp_path / "token", "canary-metrics-token")
    port, own = free_port(), free_port()
    telemetry = '[telemetry]\nmetrics = true\nmetrics_listen = "127.0.0.1:{}"\nmetrics_token = {{ file = "token" }}\n'
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port) + telemetry.format(own))
    with Served(config, port):
        url = f"http://127.0.0.1:{own}/metrics"
        assert "mcp_guard_info" in scrape(url, {"authorization": "Bearer canary-metrics-token"})
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "canary-metrics-token"}):
            assert httpx.get(url, headers=headers, trust_env=False, verify=NO_TLS).status_code == 401
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, verify=NO_TLS).status_code == 404


@pytest.mark.parametrize(
    ("serve", "telemetry", "problem"),
    [
        ('host = "0.0.0.0"', "", "the address of `[serve]` can be reached from other machines"),
        ('url = "https://guard.example.com/mcp"', "", "the address of `[serve]` can be reached from other machines"),
        ('host = "0.0.0.0"', 'metrics_listen = "127.0.0.1:9464"', ""),
        ('host = "0.0.0.0"', 'metrics_token = { env = "T" }', ""),
        ('host = "0.0.0.0"', "unsafe_public_metrics = true", ""),
        ("", 'metrics_listen = "0.0.0.0:9464"', "telemetry.metrics_listen can be reached from other machines"),
        ("", 'metrics_listen = "[::1]:9464"', ""),
        ("", 'metrics_listen = "9464"', "`9464` is not an address and a port"),
        ("", 'metrics_listen = "localhost:99999"', "`localhost:99999` is not an address and a port"),
        ("", 'otlp_headers = { a = "b" }', "`otlp_headers` requires `otlp_endpoint`"),
        ("", 'otlp_endpoint = "https://u:p@example.com"', "a password is a secret"),
        (None, "", "telemetry.metrics: requires the section `[serve]`"),
    ],
)
def test_configuration_does_not_open_metrics_by_accident(
    tmp_path: Path, serve: str | None, telemetry: str, problem: str
) -> None:
    section = "" if serve is None else f"[serve]\n{serve}\n"
    text = f'[guard]\npolicies = "p"\n{section}[telemetry]\nmetrics = true\n{telemetry}\n'
    if problem:
        with pytest.raises(ConfigError, match=re.escape(problem)):
            check(text, tmp_path / "mcp-guard.toml")
        return
    settings = check(text, tmp_path / "mcp-guard.toml")
    assert ("telemetry.unsafe_public_metrics" in settings.unsafe_keys) == ("unsafe" in telemetry)


def test_tools_beyond_a_limit_share_a_label() -> None:
    metrics = Metrics()

    def labels(number: int) -> tuple[str, str]:
        tool = replace(TOOL, listed_as=f"up__{number}")
        call = Call("c", INSTANCE, tool.listed_as, tool, {}, b"{}", b"{}", Resource("Tool", ""), Task())
        return metrics._labels(call)

    assert [labels(number) for number in range(MAX_TOOLS)][-1] == ("up", f"up__{MAX_TOOLS - 1}")
    assert (labels(MAX_TOOLS), labels(0)) == (("up", "other"), ("up", "up__0"))


def test_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    asked = {name for query in queries for name in re.findall(r"mcp_guard_[a-z_]+", query)}
    exported = {
        family.name + suffix
        for family in Metrics().registry.collect()
        for suffix in {"counter": ["_total"], "histogram": ["_bucket"], "info": ["_info"]}.get(family.type, [""])
    }
    assert len(queries) > 10
    assert asked <= exported
