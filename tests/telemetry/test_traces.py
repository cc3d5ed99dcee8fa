"""Traces as a collector gets them from real guards."""

import json
from pathlib import Path

import mcp_guard.cli
from mcp_guard.core.model import Json
from tests.live.http_guard import Served, free_port, reply, serving
from tests.live.preloaded_cli import PIPE, Forked, stand_in
from tests.live.running_guard import (
    ALLOW_ALL,
    SERVERS,
    Client,
    cli,
    enrol,
    log,
    scripted,
    seen,
    upstream,
    write_config,
)
from tests.live.test_session import held
from tests.servers.wild_http import Exchange, WildServer
from tests.telemetry.collector import Collector

GUARD = Path(mcp_guard.cli.__file__).with_name("__main__.py")
TRACE, PARENT = "a" * 32, "b" * 16
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
HOLD = ALLOW_ALL + '@id("ask") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);'


def tracing(collector: Collector, more: str = "") -> str:
    return f'[telemetry]\notlp_endpoint = "{collector.url}"\n{more}\n'


def call_with(client: Client, meta: Json) -> Json:
    params = {"name": "up__echo", "arguments": {"text": "secret-canary"}, "_meta": meta}
    return client.request("tools/call", params)


def test_a_trace_leads_from_the_sdks_client_through_the_guard_to_the_sdks_server(tmp_path: Path) -> None:
    traced, metas = SERVERS / "traced.py", tmp_path / "metas"
    with Collector() as collector:
        server = upstream("up", *stand_in(traced, "serve", collector.url, str(metas)))
        config = write_config(tmp_path, server, more=tracing(collector, 'service_name = "guard"'))
        guard = stand_in(GUARD, "run", "--config", str(config))
        done = Forked(["call", collector.url, "up__echo", *guard], script=traced, stdout=PIPE, text=True, seconds=60)
        assert done.stdout is not None
        with done.stdout:
            assert done.stdout.read() == "ok\n"
        sent = collector.find("MCP send tools/call up__echo", "client")
        call = collector.find("tools/call up__echo", "guard")
        execute = collector.find("execute", "guard")
        served = collector.find("tools/call echo", "server")
        assert (call.parent, execute.parent, served.parent) == (sent.id, call.id, execute.id)
        assert {span.trace for span in (sent, call, execute, served)} == {sent.trace}
        assert (sent.kind, call.kind, execute.kind, served.kind) == ("client", "server", "client", "server")
        verbs = [span.name for span in collector.spans if span.parent == call.id]
        assert verbs == ["identify", "describe", "decide", "intend", "execute", "conclude"]
        assert any({"service.version", "service.instance.id"} <= each.keys() for each in collector.resources)
    [meta] = map(json.loads, metas.read_text().splitlines())
    assert meta["traceparent"].startswith(f"00-{sent.trace}-{execute.id}-")
    of_call = [receipt for receipt in log(config, "--trace", sent.trace) if receipt["kind"] in ("intent", "outcome")]
    assert [receipt["kind"] for receipt in of_call] == ["intent", "outcome"]
    assert of_call[0]["seq"] == collector.find("intend", "guard").attributes["mcp_guard.receipt"]
    assert cli("verify", "--config", str(config)).returncode == 0


def test_a_held_call_is_one_trace_and_spans_hold_no_argument(tmp_path: Path) -> None:
    with Collector() as collector:
        config = write_config(tmp_path, scripted("up", tmp_path), HOLD, more=tracing(collector))
        with Client(config) as client:
            client.start()
            params = {"name": "up__echo", "arguments": {"text": "secret-canary"}, "_meta": {"traceparent": TRACEPARENT}}
            id = client.send("tools/call", params)
            cli("approvals", "approve", held(config), "--rationale", "fine", *enrol(config))
            assert client.wait(id)["result"]["isError"] is False
        call, hold = collector.find("tools/call up__echo"), collector.find("hold")
        assert (call.trace, call.parent, hold.parent) == (TRACE, PARENT, call.id)
        assert collector.find("intend").parent == hold.id
        assert hold.attributes["mcp_guard.routes"] == ["people"]
        assert all(b"secret-canary" not in span.raw for span in collector.spans)
        assert collector.paths == {"/v1/traces"}
    assert {receipt["kind"] for receipt in log(config, "--trace", TRACE)} == {"decision", "intent", "outcome"}


def test_an_upstream_gets_the_guards_span_in_meta_and_only_what_is_listed_of_the_rest(tmp_path: Path) -> None:
    meta = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "user=7"}
    with Collector() as collector:
        for forward, expected in (
            ("forward_meta = {}", {"traceparent"}),
            ('forward_meta = { traceparent = "string", baggage = "string" }', {"traceparent", "baggage"}),
        ):
            config = write_config(tmp_path, scripted("up", tmp_path), more=tracing(collector), guard=forward)
            with Client(config) as client:
                client.start()
                assert call_with(client, meta)["result"]["isError"] is False
            sent = seen(tmp_path, "up")[-1]["_meta"]
            assert {name for name in sent if name != "progressToken"} == expected
            assert (sent["traceparent"][:35], sent["traceparent"][36:52] != PARENT) == (f"00-{TRACE}", True)


def test_without_telemetry_trace_context_goes_on_as_it_is_and_receipts_have_its_trace(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        call_with(client, {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "baggage": "user=7"})
        call_with(client, {})
    assert seen(tmp_path, "up")[0]["_meta"] == {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    assert [receipt.get("trace") for receipt in log(config, "--kind", "intent")] == [TRACE, None]


def test_headers_of_a_request_are_the_parent_where_meta_names_none(tmp_path: Path) -> None:
    other = f"00-{'c' * 32}-{'d' * 16}-01"
    with Collector() as collector:
        port = free_port()
        secret = 'otlp_headers = { authorization = { env = "OTLP_AUTH" }, x-tenant = "one" }'
        config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port) + tracing(collector, secret))
        with Served(config, port, env={"OTLP_AUTH": "Bearer canary-token"}) as served:
            client = served.raw(served.issue()[1])
            client.start()
            for meta, trace in (({}, TRACE), ({"traceparent": other}, "c" * 32)):
                params = {"name": "up__echo", "arguments": {"text": "x"}, "_meta": meta}
                answer = client.request("tools/call", params, {"traceparent": TRACEPARENT})
                assert reply(answer)["result"]["isError"] is False
                assert log(config, "--kind", "intent", "--last", "1")[0]["trace"] == trace
            stateless = client.stateless(
                "tools/call", {"name": "up__echo", "arguments": {"text": "x"}}, {"traceparent": TRACEPARENT}
            )
            assert reply(stateless)["result"]["isError"] is False
            assert log(config, "--kind", "intent", "--last", "1")[0]["trace"] == TRACE
        assert {span.trace for span in collector.spans if span.kind == "server"} == {TRACE, "c" * 32}
        assert collector.headers[0].items() >= {"authorization": "Bearer canary-token", "x-tenant": "one"}.items()
    assert "canary-token" not in served.notes


def test_an_upstream_over_http_gets_the_same_context_in_headers_if_the_guard_traces(tmp_path: Path) -> None:
    got: list[tuple[Json, dict[str, str]]] = []

    def answer(exchange: Exchange) -> None:
        if exchange.method == "tools/call":
            names = ("traceparent", "tracestate", "baggage")
            headers = {name: exchange.headers[name] for name in names if exchange.headers[name]}
            got.append((exchange.message["params"].get("_meta", {}), headers))
        exchange.serve()

    meta = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    with WildServer(answer) as far, Collector() as collector:
        for more in (tracing(collector), ""):
            config = write_config(tmp_path, f'[upstreams.far]\nurl = "{far.url}"\n', more=more)
            with Client(config) as client:
                client.start()
                assert "error" not in client.request("tools/call", {"name": "far__run", "arguments": {}, "_meta": meta})
        sent = collector.find("execute")
    (traced, headers), (untraced, none) = got
    assert headers == {name: traced[name] for name in meta}
    assert (traced["traceparent"][:52], traced["tracestate"]) == (f"00-{TRACE}-{sent.id}", "vendor=1")
    assert (untraced, none) == (meta, {})


def test_a_collector_that_is_away_costs_no_call_and_is_reported_once(tmp_path: Path) -> None:
    with Collector() as collector:
        collector.status = 400
        config = write_config(tmp_path, scripted("up", tmp_path), more=tracing(collector))
        with Client(config) as client:
            client.start()
            assert call_with(client, {})["result"]["isError"] is False
    assert client.stderr.count("traces cannot be sent to") == 1
    assert f"{collector.url}/v1/traces: it answered 400; calls go on without" in client.stderr


def test_a_client_that_wants_no_trace_exports_none_and_its_receipts_name_it(tmp_path: Path) -> None:
    with Collector() as collector:
        config = write_config(tmp_path, scripted("up", tmp_path), more=tracing(collector, "sample_ratio = 0"))
        with Client(config) as client:
            client.start()
            call_with(client, {})
            call_with(client, {"traceparent": TRACEPARENT[:-2] + "00"})
            call_with(client, {"traceparent": f"00-{'e' * 32}-{PARENT}-01"})
    assert {span.trace for span in collector.spans} == {"e" * 32}
    traces = [receipt["trace"] for receipt in log(config, "--kind", "intent")]
    assert traces[1:] == [TRACE, "e" * 32]
    assert len(set(traces)) == 3
