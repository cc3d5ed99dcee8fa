"""Wrapping and unwrapping as text edits: all other text is unchanged, and unwrapping is exact."""

import json
import tomllib
from collections.abc import Callable, Collection
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.clients import jsonc
from mcp_guard.clients.known import CLIENTS, Client, TimeLimit
from mcp_guard.clients.records import make_record, restore_secrets
from mcp_guard.clients.server_entries import guard_entry
from mcp_guard.clients.toml_sections import CALL_SECONDS
from mcp_guard.clients.unwrap import NotUndone, undo
from mcp_guard.clients.wrap import WrapPlan, WrapRequest, make_plan, parse_file, servers_at
from mcp_guard.config.upstreams import UpstreamConfig
from tests.clients.samples import CODE, CONFIG, CURSOR, DESKTOP, HOST, SAMPLES, VSCODE, Sample

WISH = WrapRequest(CONFIG, ("/opt/mcp-guard",), "you")
Value = dict[str, object]


def planned(sample: Sample, wish: WrapRequest = WISH, config: str = "") -> WrapPlan:
    return make_plan(sample.spot(), sample.text, config, wish, HOST)


def undone(sample: Sample, plan: WrapPlan, text: str) -> str:
    record, kept = make_record(sample.spot(), sample.spot().path, sample.text, plan, CONFIG)
    return undo(
        text, record, restore_secrets(kept, record, {entry: value for entry, value in plan.moved.items()}.__getitem__)
    )


def servers(sample: Sample, text: str) -> Value:
    node = servers_at(parse_file(text, sample.file, sample.key), sample.key)
    assert node is not None
    assert isinstance(node.value, dict)
    return node.value


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.client))
def test_wrapped_servers_are_replaced_by_the_guard(sample: Sample) -> None:
    plan = planned(sample)
    after = servers(sample, plan.client_text)
    assert plan.wrapped
    assert not {server.name for server in plan.wrapped} & set(after)
    entry = guard_entry(after["guard"])
    assert entry is not None
    assert entry.config == str(CONFIG)
    assert set(tomllib.loads(plan.config_text)["upstreams"]) == {server.upstream for server in plan.wrapped}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.client))
def test_text_outside_the_entries_is_unchanged(sample: Sample) -> None:
    """Every line outside wrapped entries is still there, in order."""
    plan = planned(sample)
    document = servers_at(jsonc.parse(sample.text), sample.key)
    assert document is not None
    names = {server.name for server in plan.wrapped}
    outside, at = "", 0
    for member in document.members:
        if member.key in names:
            outside, at = outside + sample.text[at : member.start], member.end
    outside += sample.text[at:]
    place = servers_at(jsonc.parse(plan.client_text), sample.key)
    assert place is not None
    guard = place.last("guard")
    assert guard is not None
    rest = plan.client_text[: guard.start] + plan.client_text[guard.end :]

    def ink(text: str) -> str:
        return "".join(text.split()).replace(",", "")

    assert ink(rest) == ink(outside)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.client))
def test_wrapping_and_unwrapping_restores_every_byte(sample: Sample) -> None:
    plan = planned(sample)
    assert undone(sample, plan, plan.client_text) == sample.text


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.client))
def test_unwrap_keeps_other_edits_and_restores_the_servers(sample: Sample) -> None:
    plan = planned(sample)
    edited = plan.client_text.replace("{", '{ /* mine */ "added": [1, 2],', 1)
    assert undone(sample, plan, edited) == sample.text.replace("{", '{ /* mine */ "added": [1, 2],', 1)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.client))
def test_file_rewritten_by_its_client_gets_its_servers_back(sample: Sample) -> None:
    """Other layout, no comments, another server: some clients rewrite the file whenever they exit."""
    plan = planned(sample)
    value = jsonc.parse(plan.client_text).value
    assert isinstance(value, dict)
    inner = value
    for part in sample.key:
        inner = inner[part]
    inner["new"] = {"command": "new"}
    back = undone(sample, plan, json.dumps(value, indent=4))
    assert servers(sample, back) == {**servers(sample, sample.text), "new": {"command": "new"}}


def crlf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\n", "\r\n")


def with_mark(text: str) -> str:
    return "\ufeff" + text.removeprefix("\ufeff")


def endless(text: str) -> str:
    return text.rstrip()


def tabbed(text: str) -> str:
    return text.replace("  ", "\t")


def minified(text: str) -> str:
    return json.dumps(jsonc.parse(text).value, separators=(",", ":"))


def doubled(text: str) -> str:
    """Duplicate members in each set of servers; the last ones count."""
    twins = '"twin": {"command": "no"}, "twin" :{"command": "yes"} ,/**/"n": 1, "n" : {"command":"n"},'
    for key in ('"mcpServers":', '"servers":', '"context_servers":'):
        text = text.replace(f"{key} {{", f"{key} {{{twins}").replace(f"{key}{{", f"{key}{{{twins}")
    return text


@given(
    st.sampled_from(SAMPLES),
    st.lists(st.sampled_from([crlf, with_mark, endless, tabbed, minified, doubled]), max_size=5),
)
def test_every_sample_is_restored_in_every_layout(sample: Sample, guises: list[Callable[[str], str]]) -> None:
    """Restored byte for byte; with an edit in between, only that edit remains."""
    text = sample.text
    for guise in guises:
        text = guise(text)
    guised = Sample(sample.client, text, sample.key)
    plan = planned(guised)
    assert undone(guised, plan, plan.client_text) == text
    assert undone(guised, plan, added_outside(plan.client_text)) == added_outside(text)
    beside = undone(guised, plan, added_beside(plan.client_text, sample.key))
    assert servers(guised, beside) == {**servers(guised, text), "new": {"command": "new"}}


def test_server_added_again_by_hand_is_not_overwritten() -> None:
    plan = planned(DESKTOP)
    edited = plan.client_text.replace('"guard": {', '"git": {"command": "mine"},\n    "guard": {')
    with pytest.raises(NotUndone, match="there is a new server `git`"):
        undone(DESKTOP, plan, edited)


def test_unwrap_without_a_guard_entry_restores_nothing() -> None:
    plan = planned(DESKTOP)
    with pytest.raises(NotUndone, match="the entry `guard` is missing"):
        undone(DESKTOP, plan, plan.client_text.replace('"guard": {', '"renamed": {'))


def test_file_restored_by_hand_is_left_alone() -> None:
    assert undone(DESKTOP, planned(DESKTOP), DESKTOP.text) == DESKTOP.text


def test_two_wraps_of_one_file_are_both_undone() -> None:
    first = planned(DESKTOP)
    text = first.client_text.replace('"guard": {', '"late": {"command": "late"}, "guard": {')
    later = Sample("claude-desktop", text)
    second = planned(later, config=first.config_text)
    assert [server.name for server in second.wrapped] == ["late"]
    assert list(servers(later, second.client_text)) == ["guard"]
    assert second.entry == "guard"
    middle = undone(later, second, second.client_text)
    assert middle == text
    assert servers(DESKTOP, undone(DESKTOP, first, middle)) == {
        **servers(DESKTOP, DESKTOP.text),
        "late": {"command": "late"},
    }


def test_claude_code_projects_are_kept_apart() -> None:
    plan = planned(CODE)
    assert [server.name for server in plan.wrapped] == ["a", "b"]
    assert '"/home/you/other":{"mcpServers":{"a":{"command":"other"}}}' in plan.client_text


def test_crlf_tabs_and_byte_order_mark_are_kept() -> None:
    text = planned(CURSOR).client_text
    assert text.startswith("\ufeff{\r\n\t")
    assert "\n" not in text.replace("\r\n", "")
    assert not text.endswith("\n")


def test_client_prompts_keep_working() -> None:
    plan = planned(VSCODE)
    entry = servers(VSCODE, plan.client_text)["guard"]
    assert isinstance(entry, dict)
    assert entry["env"] == {
        "MCP_GUARD_GITHUB_AUTHORIZATION": "Bearer ${input:key}",
        "MCP_GUARD_DB_PGPASSWORD": "${input:key}",
    }
    upstreams = tomllib.loads(plan.config_text)["upstreams"]
    assert upstreams["github"]["headers"] == {"Authorization": {"env": "MCP_GUARD_GITHUB_AUTHORIZATION"}}
    assert upstreams["db"]["args"] == ["--home", "/home/you"]


def variables(sample: Sample, plan: WrapPlan) -> dict[tuple[str, str], str]:
    """What the client passes on in the guard's entry, by the upstream and the variable or header that gets it."""
    entry = servers(sample, plan.client_text)["guard"]
    assert isinstance(entry, dict)
    return {
        (name, key): entry["env"][value["env"]]
        for name, upstream in tomllib.loads(plan.config_text)["upstreams"].items()
        for key, value in (upstream.get("env") or upstream.get("headers") or {}).items()
    }


def vscode(**entries: object) -> Sample:
    return Sample("vscode", json.dumps({"servers": entries}), ("servers",))


def with_env(**env: str) -> dict[str, object]:
    return {"command": "c", "env": env}


def test_each_secret_that_the_client_passes_on_has_a_variable_of_its_own() -> None:
    """Names of servers and variables may meet in a hyphen, a case or a sign."""
    headers = {"X-Key": "${input:a}", "X_Key": "${input:b}", "x-key-2": "${input:c}"}
    sample = vscode(
        **{
            "github": with_env(ENTERPRISE_TOKEN="${input:public}"),
            "github-enterprise": with_env(TOKEN="${input:corp}", Token="${input:other}"),
            "web": {"url": "https://x.example/mcp", "headers": headers},
        }
    )
    assert variables(sample, planned(sample)) == {
        ("github", "ENTERPRISE_TOKEN"): "${input:public}",
        ("github-enterprise", "TOKEN"): "${input:corp}",
        ("github-enterprise", "Token"): "${input:other}",
        **{("web", key): text for key, text in headers.items()},
    }


def test_variable_of_an_earlier_wrap_is_kept_and_goes_to_no_other_server() -> None:
    """Also one in another file, whose client runs the same servers."""
    other = vscode(github=with_env(ENTERPRISE_TOKEN="${input:public}"))
    earlier = planned(other)
    sample = vscode(**{"github-enterprise": with_env(TOKEN="${input:corp}")})
    elsewhere = planned(sample, config=earlier.config_text)
    name = "MCP_GUARD_GITHUB_ENTERPRISE_TOKEN"
    entry = servers(sample, elsewhere.client_text)["guard"]
    assert isinstance(entry, dict)
    assert entry["env"] == {f"{name}_2": "${input:corp}"}
    again = planned(sample, config=elsewhere.config_text.replace(f'"{name}"', '"NO_LONGER"'))
    assert (again.reused, again.client_text) == (("github-enterprise",), elsewhere.client_text)
    both = json.loads(earlier.client_text)
    both["servers"] |= json.loads(sample.text)["servers"]
    same_file = Sample("vscode", json.dumps(both), ("servers",))
    assert set(variables(same_file, planned(same_file, config=earlier.config_text)).values()) == {
        "${input:public}",
        "${input:corp}",
    }


def test_variable_in_the_entry_of_the_guard_is_not_overwritten() -> None:
    mine = {"command": "mcp-guard", "args": ["run", "--config", str(CONFIG)], "env": {"MCP_GUARD_DB_KEY": "mine"}}
    sample = vscode(guard=mine, db=with_env(KEY="${input:key}"))
    entry = servers(sample, planned(sample).client_text)["guard"]
    assert isinstance(entry, dict)
    assert entry["env"] == {"MCP_GUARD_DB_KEY": "mine", "MCP_GUARD_DB_KEY_2": "${input:key}"}


def test_each_secret_that_moves_has_an_entry_of_its_own_in_the_keyring() -> None:
    """A foreign entry makes the name for one key that of another."""

    def name_entry(wanted: str, _: str, used: Collection[str]) -> str:
        names = (wanted, f"{wanted}_2", f"{wanted}_2_2")
        return next(name for name in names if name not in used and name != "mcp-guard/db.A_KEY")

    sample = vscode(db=with_env(A_KEY="first", A_KEY_2="second"))
    plan = planned(sample, replace(WISH, keyring_entry=name_entry))
    assert plan.moved == {"mcp-guard/db.A_KEY_2": "first", "mcp-guard/db.A_KEY_2_2": "second"}
    assert undone(sample, plan, plan.client_text) == sample.text


LIMITS: list[tuple[list[float | None], float | None]] = [
    ([1_800_000], 1_800_000),
    ([1_800_000, None, 900_000], 1_800_000),
    ([30_000, 20_000], 30_000),
    ([30_000, None], None),
    ([None, None], None),
]


@pytest.mark.parametrize(("own", "expected"), LIMITS)
def test_client_waits_for_the_guard_as_long_as_for_any_server(own: list[float | None], expected: float | None) -> None:
    """Gemini CLI waits for ten minutes by default, also for the servers that set nothing."""
    entries = {f"s{number}": {"command": "c", "timeout": limit} for number, limit in enumerate(own)}
    entries = {name: {key: value for key, value in entry.items() if value} for name, entry in entries.items()}
    sample = Sample("gemini-cli", json.dumps({"mcpServers": entries}))
    plan = planned(sample)
    guard = servers(sample, plan.client_text)["guard"]
    assert isinstance(guard, dict)
    assert guard.get("timeout") == expected
    assert not [note for server in plan.wrapped for note in server.notes]
    seconds = [upstream.get("timeout_seconds") for upstream in tomllib.loads(plan.config_text)["upstreams"].values()]
    assert seconds == [limit / 1000 if limit and limit > 300_000 else None for limit in own]
    assert undone(sample, plan, plan.client_text) == sample.text


def test_limit_of_the_guards_entry_only_grows() -> None:
    first = Sample("gemini-cli", json.dumps({"mcpServers": {"a": {"command": "a", "timeout": 1_800_000}}}))
    plan = planned(first)
    for limit, expected in ((900_000, 1_800_000), (3_600_000, 3_600_000)):
        both = json.loads(plan.client_text)
        both["mcpServers"]["b"] = {"command": "b", "timeout": limit}
        sample = Sample("gemini-cli", json.dumps(both))
        guard = servers(sample, planned(sample, config=plan.config_text).client_text)["guard"]
        assert isinstance(guard, dict)
        assert guard["timeout"] == expected


def with_server(sample: Sample, name: str, entry: Value) -> Sample:
    if sample.client == "codex":
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in entry.items()]
        return replace(sample, text=f"{sample.text}\n[mcp_servers.{name}]\n{''.join(lines)}")
    others = servers(sample, sample.text) if sample.text else {}
    return replace(sample, text=json.dumps({sample.key[0]: {**others, name: entry}}))


@pytest.mark.parametrize("factor", [0.5, 2])
@pytest.mark.parametrize(
    ("client", "limit"),
    [(client, limit) for client in CLIENTS for limit in client.time_limits],
    ids=lambda part: part.id if isinstance(part, Client) else part.key,
)
def test_limit_of_the_guards_entry_cuts_no_server_that_is_added_later(
    client: Client, limit: TimeLimit, factor: float
) -> None:
    """The later server has the client's default, which may be longer than the limit of the first one."""
    own = factor * limit.default
    first = with_server(Sample(client.id, "", client.locations[0].key), "a", {"url": "https://a", limit.key: own})
    plan = planned(first)
    later = with_server(replace(first, text=plan.client_text), "b", {"url": "https://b"})
    again = planned(later, config=plan.config_text)
    for text, expected in ((plan.client_text, own), (again.client_text, own if own > limit.default else None)):
        guard = servers(first, text)["guard"]
        assert isinstance(guard, dict)
        assert guard.get(limit.key) == expected
    assert undone(later, again, again.client_text) == later.text


def test_limits_of_codex_are_kept_for_calls_and_for_the_start() -> None:
    text = '[mcp_servers.slow]\ncommand = "slow"\nstartup_timeout_sec = 60\ntool_timeout_sec = 900.5\n'
    plan = planned(Sample("codex", text, ("mcp_servers",)))
    guard = tomllib.loads(plan.client_text)["mcp_servers"]["guard"]
    assert (guard["startup_timeout_sec"], guard["tool_timeout_sec"]) == (60, 900.5)
    assert tomllib.loads(plan.config_text)["upstreams"]["slow"]["timeout_seconds"] == 900.5


def test_limit_of_calls_is_written_if_it_is_over_that_of_the_guard() -> None:
    assert UpstreamConfig.model_fields["timeout_seconds"].default == CALL_SECONDS


# Unlikely documents, made of everything that is allowed in one.

space = st.sampled_from(["", " ", "\n", "\r\n", "\n  ", "\n\t", " // c, }\n", "/* c: { */", "\n// x\n    "])
words = st.sampled_from(["git", "a b", "ünï", "", 'q"q', "x\\y", "guard", "zz"])


@st.composite
def objects(draw: st.DrawFn, members: st.SearchStrategy[list[tuple[str, str]]]) -> str:
    """An object whose member values are already text, laid out at random."""
    parts = []
    pairs = draw(members)
    for number, (key, value) in enumerate(pairs):
        last = number == len(pairs) - 1
        comma = draw(st.sampled_from([",", ""])) if last else ","
        key_text = json.dumps(key, ensure_ascii=draw(st.booleans()))
        parts.append(f"{draw(space)}{key_text}{draw(space)}:{draw(space)}{value}{draw(space)}{comma}")
    return "{" + "".join(parts) + draw(space) + "}"


server = objects(
    st.lists(st.tuples(st.sampled_from(["env", "x"]), st.sampled_from(["{}", "null"])), max_size=2).map(
        lambda more: [("command", '"run"'), ("args", '["a", "b"]'), *more]
    )
)
some_servers = objects(st.lists(st.tuples(words, server), min_size=1, max_size=5))


@st.composite
def documents(draw: st.DrawFn) -> str:
    around = st.tuples(
        st.sampled_from(["k", "mcpServer", "mcpServers "]), st.sampled_from(["1", '"s"', "[1, 2,]", "{}"])
    )
    before, after = draw(st.lists(around, max_size=2)), draw(st.lists(around, max_size=2))
    body = draw(objects(st.just([*before, ("mcpServers", draw(some_servers)), *after])))
    return draw(st.sampled_from(["", "\ufeff"])) + draw(space) + body + draw(space)


@given(documents(), st.data())
def test_any_document_is_restored(text: str, data: st.DataObject) -> None:
    sample = Sample("claude-code", text)
    names = list(servers(sample, text))
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    if set(chosen) <= {""}:
        return  # no character of the name remains
    plan = planned(sample, WrapRequest(CONFIG, ("/opt/mcp-guard",), "you", names=tuple(chosen)))
    assert undone(sample, plan, plan.client_text) == text


def added_outside(text: str) -> str:
    return text.replace("{", '{"mine": "yes",', 1)


def added_beside(text: str, key: tuple[str, ...] = ("mcpServers",)) -> str:
    node = servers_at(jsonc.parse(text), key)
    assert node is not None
    return text[: node.start + 1] + '/**/"new": {"command": "new"},' + text[node.start + 1 :]


def written_anew(text: str) -> str:
    value = jsonc.parse(text).value
    return json.dumps(value, indent=1)


@given(documents(), st.sampled_from([added_outside, added_beside, written_anew]))
def test_any_edit_by_others_is_kept(text: str, edit: Callable[[str], str]) -> None:
    sample = Sample("claude-code", text)
    if set(servers(sample, text)) <= {""}:
        return
    plan = planned(sample)
    edited = edit(plan.client_text)
    back = undone(sample, plan, edited)
    assert jsonc.parse(back).value == jsonc.parse(edit(text)).value
