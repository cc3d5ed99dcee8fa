"""The subcommands of `mcp-guard policy` that read past calls, on the shared transcript ledger."""

import json
from pathlib import Path
from typing import Any

import cedarpy
import pytest

from tests.cli.conftest import POLICIES, Past
from tests.cli.test_transcripts import transcript
from tests.live.running_guard import cli, scripted, write_config

OPEN = '@id("all") permit (principal, action, resource);'


def candidate(folder: Path, text: str) -> str:
    (folder / "candidate.cedar").write_text(text)
    return str(folder)


def test_replay_of_the_active_policies_shows_no_difference(past: Past, tmp_path: Path) -> None:
    printed = transcript(past, "policy", "replay", "--candidate", candidate(tmp_path, POLICIES))
    assert printed.splitlines()[0] == "was \\ would be  allow  deny  require_approval"
    assert printed.endswith("not re-evaluated: 1, refused before policies were evaluated\nnever more permissive: yes")
    assert "seq" not in printed


def test_replay_lists_differences_and_fails_if_more_is_allowed(past: Past, tmp_path: Path) -> None:
    where = candidate(tmp_path, OPEN)
    printed = transcript(past, "policy", "replay", "--candidate", where, code=1)
    assert "14  TIME  tester  up__echo  deny  allow  all  MORE PERMISSIVE" in printed.splitlines()
    assert printed.endswith("never more permissive: no")


def test_replay_of_stricter_policies_succeeds(past: Past, tmp_path: Path) -> None:
    nothing = '@id("none") forbid (principal, action, resource);'
    report = as_json(past, "policy", "replay", "--candidate", candidate(tmp_path, nothing), "--last", "2")
    assert report["never_more_permissive"] is True
    assert [difference["more_permissive"] for difference in report["differences"]] == [False]
    assert sum(item["count"] for item in report["matrix"]) == 1
    assert report["unlike_recorded"] == []


def test_replay_refuses_a_candidate_that_does_not_match_the_tools(past: Past, tmp_path: Path) -> None:
    wrong = '@id("w") permit (principal, action == Action::"up__echo", resource) when { context.input.txt == "x" };'
    printed = transcript(past, "policy", "replay", "--candidate", candidate(tmp_path, wrong), code=4)
    assert "candidate.cedar: w: " in printed


def test_nothing_to_compare_is_no_answer(past: Past, tmp_path: Path) -> None:
    printed = transcript(past, "policy", "shadow", code=4)
    assert printed.startswith("mcp-guard: nothing to compare: ")
    assert "decided without shadow policies" in printed
    assert 'hint: configure them with `shadow = "DIR"` in [guard]' in printed
    where = candidate(tmp_path, POLICIES)
    printed = transcript(past, "policy", "replay", "--candidate", where, "--since", "2099-01-01", code=4)
    assert printed.startswith("mcp-guard: nothing to compare: no recorded decisions\n")


def test_explain_describes_a_denial(past: Past) -> None:
    assert (
        transcript(past, "policy", "explain", "14")
        == """\
receipt 14: tester asked for up__echo at TIME
denied, because of `quiet`:

test.cedar: quiet (forbid): nobody may shout
  scope matches: principal, action == Action::"up__echo", resource
    when context.input has text: true  (context.input.text = "hi!")
    when context.input.text like "*!": true  (context.input.text = "hi!")

smallest change of the request: context.input.text "hi" instead of "hi!" → allow
  or context.input.text "something else" instead of "hi!" → require_approval (people)
changes of the policies:
  without `quiet` → allow"""
    )


def test_explain_describes_a_held_call(past: Past) -> None:
    printed = transcript(past, "policy", "explain", "9")
    assert printed.startswith("receipt 8: tester asked for up__echo at TIME\nheld for people, because of a gate;")
    assert '    unless context.input.text like "hi*": false  (context.input.text = "gated")' in printed
    assert 'smallest change of the request: context.input.text "hi" instead of "gated" → allow' in printed
    report = as_json(past, "policy", "explain", "9")
    assert report["outcome"] == "require_approval"
    assert {"change": "without `gate`", "outcome": "allow", "routes": []} in report["policy_changes"]


def test_explain_describes_a_denial_by_an_approver(past: Past) -> None:
    lines = transcript(past, "policy", "explain", "18").splitlines()
    assert lines[1] == "recorded: deny: approval APPROVAL is denied by Alice: not twice"
    assert lines[2].startswith("held for people")


def test_explain_says_when_no_policy_was_evaluated(past: Past) -> None:
    printed = transcript(past, "policy", "explain", "19", code=5)
    assert printed.startswith("mcp-guard: no policy was evaluated for receipt 19: unknown tool\nhint: ")
    assert "no decision in receipt or call" in transcript(past, "policy", "explain", "0", code=5)


def as_json(past: Past, *words: str, code: int = 0) -> Any:
    done = cli(*words, "--json", "--config", str(past.config), check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_lint(past: Past) -> None:
    assert (
        transcript(past, "policy", "lint", code=1)
        == """\
warning: test.cedar:2:1: allow-all: permits every tool to every agent
    hint: restrict its scope: principal in Group::"…", action in […]
3 policies, findings: 1, notes: 0; checked against the tools that were listed last"""
    )
    assert as_json(past, "policy", "lint", code=1)["findings"][0]["policy"] == "allow-all"


def test_schema_from_the_ledger_equals_the_live_schema(past: Past) -> None:
    kept = transcript(past, "policy", "schema")
    assert 'action "up__echo" in ["server:up", "write"] appliesTo {' in kept.splitlines()
    assert transcript(past, "policy", "schema", "--live") == kept
    assert as_json(past, "policy", "schema")[""]["entityTypes"].keys() >= {"Agent", "AgentInstance", "Group", "Tool"}
    assert "approvals: Set<String>," in transcript(past, "policy", "schema", "--plain")


def test_export(past: Past, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    assert transcript(past, "policy", "export", "--out", str(out)).startswith("3 policies in ")
    text, schema = (out / "policies.cedar").read_text(), (out / "schema.cedarschema").read_text()
    assert cedarpy.validate_policies(text, schema).validation_passed
    assert '.contains("people")' in text
    assert transcript(past, "policy", "export") == text.rstrip()


def test_fmt_checks_formats_and_keeps_comments(past: Past, tmp_path: Path) -> None:
    path = tmp_path / "a.cedar"
    path.write_text('// why\n@id("a") permit(principal,action,resource)when{context.risk.score<5 // low\n};')
    assert "+permit (principal, action, resource)" in transcript(past, "policy", "fmt", "--check", str(path), code=1)
    assert transcript(past, "policy", "fmt", str(path)) == f"formatted {path}"
    assert path.read_text().startswith("// why\n@id")
    assert "// low" in path.read_text()
    assert transcript(past, "policy", "fmt", "--check", str(tmp_path)) == ""
    path.write_text("permit (")
    assert transcript(past, "policy", "fmt", str(path), code=4).startswith(f"mcp-guard: {path}:1:9: unexpected end")


def test_coverage(past: Past, tmp_path: Path) -> None:
    (tmp_path / "a.cases.toml").write_text(
        '[[case]]\ntool = "up__echo"\narguments = { text = "hi" }\noutcome = "allow"\npolicies = ["allow-all"]\n'
    )
    printed = transcript(past, "policy", "coverage", "--cases", str(tmp_path), code=1).splitlines()
    assert printed[0] == "policy  file  cases  decisions  about it  "
    assert printed[1].startswith("allow-all  test.cedar  1  ")
    assert printed[2].startswith("gate  test.cedar  0  ")
    assert printed[2].endswith("NO CASE")
    assert printed[-1] == "1 of 3 policies have a case"


def test_new_creates_a_policy_that_passes_its_cases(past: Past, tmp_path: Path) -> None:
    out = tmp_path / "update.cedar"
    (tmp_path / "first.cedar").write_text(OPEN)  # permits it to every agent, so that one outside the group is held, too
    words = ("policy", "new", "up__update_deal", "--out", str(out))
    assert transcript(past, *words).splitlines()[0] == f"wrote {out}"
    assert 'principal in Group::"testers"' in out.read_text()
    assert "already exists" in transcript(past, *words, code=4)
    config = past.config.read_text().replace('policies = "policies"', f'policies = "{tmp_path}"')
    (tmp_path / "guard.toml").write_text(config)
    done = cli("policy", "test", "--coverage", "--table", "--config", str(tmp_path / "guard.toml"), check=False)
    assert done.stdout.splitlines()[-1] == "3 of 3 cases as expected", done.stdout
    assert done.returncode == 0, "a permit whose calls are held has a case, too"
    assert transcript(past, "policy", "fmt", "--check", str(out)) == ""
    assert "did you mean" not in transcript(past, "policy", "new", "up__nonesuch", code=4)


def test_a_policy_that_no_case_reaches_fails_the_coverage(past: Past, tmp_path: Path) -> None:
    cases = '[[case]]\ntool = "up__echo"\narguments = { text = "gated" }\noutcome = "require_approval"\n'
    (tmp_path / "a.cases.toml").write_text(cases)
    printed = transcript(past, "policy", "test", "--coverage", "--cases", str(tmp_path), code=1).splitlines()
    assert printed == ["no case reaches `quiet`", "1 of 1 cases as expected"], "allow-all is behind the gate"


def test_a_misspelt_annotation_is_reported_beside_cases_that_pass(past: Past, tmp_path: Path) -> None:
    """It is no gate, and a case need not notice."""
    (tmp_path / "a.cedar").write_text(OPEN + '@id("g") @aprove("people") forbid (principal, action, resource);')
    (tmp_path / "a.cases.toml").write_text('[[case]]\ntool = "up__echo"\noutcome = "deny"\n')
    config = past.config.read_text().replace('policies = "policies"', f'policies = "{tmp_path}"')
    (tmp_path / "guard.toml").write_text(config)
    done = cli("policy", "test", "--config", str(tmp_path / "guard.toml"), check=False)
    assert done.stdout == "1 of 1 cases as expected\n"
    assert "g: the guard does not read the annotation `@aprove`, so it has no effect" in done.stderr
    assert "hint: did you mean `@require_approval`?" in done.stderr


def test_new_refuses_a_group_that_no_agent_is_in(past: Past) -> None:
    words = ("policy", "new", "up__update_deal", "--group")
    assert transcript(past, *words, "tester", code=4).endswith(
        "no agent is in group `tester`\nhint: did you mean `testers`?"
    )
    assert "hint: groups: testers; an agent's `groups` add one" in transcript(past, *words, "sales", code=4)


def test_unknown_verb_is_a_usage_error(past: Past) -> None:
    assert cli("policy", "lnt", check=False).returncode == 2
    assert "explain" in cli("policy", "--help").stdout


def test_suggest_explains_an_empty_result(past: Past) -> None:
    assert (
        transcript(past, "policy", "suggest", code=1)
        == """\
no suggestion for up__echo, called by tester: Alice denied such a call (receipt 17)
no suggestions"""
    )


def test_lint_of_a_set_that_never_loaded_checks_it_against_the_listed_tools(tmp_path: Path) -> None:
    misspelt = '@id("a") permit (principal, action == Action::"up__echo", resource) when { context.input.txet == "" };'
    config = write_config(tmp_path, scripted("up", tmp_path), misspelt)
    at = ("--config", str(config))
    assert (
        "NOT checked, as the ledger knows no tools yet: mcp-guard policy validate" in cli("policy", "lint", *at).stdout
    )
    (tmp_path / "policies" / "test.cedar").write_text("permit (")
    cli("call", *at, check=False)
    assert "policy.loaded" not in cli("log", *at).stdout
    (tmp_path / "policies" / "test.cedar").write_text(misspelt)
    done = cli("policy", "lint", *at, check=False)
    assert (done.returncode, "error: test.cedar:1:" in done.stdout, "txet" in done.stdout) == (1, True, True), done


PROVE = ("policy", "prove")
NO_HI = '!(context.input.text like "hi*")'


def test_prove_that_calls_need_a_route(past: Past) -> None:
    assert (
        transcript(past, *PROVE, "--needs", "people", "up__echo", "--when", NO_HI)
        == f"""\
proved: no call of `up__echo` without approval by `people` when `{NO_HI}`
for every request of {tools(past)}; checked against the tools that were listed last"""
    )


def test_a_counterexample_is_printed_as_a_request(past: Past) -> None:
    printed = transcript(past, *PROVE, "--never", "up__echo", code=1).splitlines()
    assert printed[:2] == ["disproved: no call of `up__echo`", "up__echo, confirmed by Cedar:"]
    assert '  action    Action::"up__echo"' in printed
    assert (
        "  decided: require_approval (people), because of gate" in printed
        or "  decided: allow, because of allow-all" in printed
    )


def test_a_loosened_candidate_is_more_permissive(past: Past, tmp_path: Path) -> None:
    (tmp_path / "looser.cedar").write_text(POLICIES.replace("hi*", "h*"))
    words = (*PROVE, "--candidate", str(tmp_path), "--never-more-permissive-than", str(past.config.parent / "policies"))
    done = cli(*words, "--json", "--config", str(past.config), check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]) == (1, "disproved")
    found = {tool["tool"]: tool["counterexample"] for tool in report["tools"] if tool["verdict"] == "disproved"}
    assert found["up__echo"]["before"]["outcome"] == "require_approval"
    assert found["up__echo"]["decided"]["outcome"] == "allow"
    assert found["up__echo"]["request"]["context"]["input"]["text"].startswith("h")


def test_a_set_without_idle_policies(past: Past) -> None:
    assert transcript(past, *PROVE) == f"3 of 3 policies apply to some request of {tools(past)}"


def tools(past: Past) -> str:
    schema = json.loads(cli("policy", "schema", "--json", "--config", str(past.config)).stdout)
    return f"{sum('appliesTo' in action for action in schema['']['actions'].values())} tools"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--never up__ecko", 4, "no listed tool is `up__ecko` or in a group of that name"),
        ("--needs peple up__echo", 3, "route `peple` is not in [routes] of the configuration"),
        ("--never up__echo --when context.input.txt==''", 4, "unexpected `'`; texts are written in"),
        ('--never up__echo --when context.input.txt=="x"', 4, "`context.input.txt` does not exist"),
        ("--when true", 4, "--when says which calls --needs or --never is about"),
        ("--never a --needs b c", 2, "not allowed with argument"),
    ],
)  # fmt: skip
def test_wrong_input_says_what_to_do(past: Past, words: str, code: int, message: str) -> None:
    done = cli(*PROVE, *words.split(), "--config", str(past.config), check=False)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_an_upstream_that_is_no_process_is_not_to_be_started_by_hand(tmp_path: Path) -> None:
    config = write_config(tmp_path, '[upstreams.far]\nurl = "http://127.0.0.1:9/mcp"\n')
    done = cli("policy", "validate", "--config", str(config), check=False)
    assert done.returncode == 6
    assert done.stderr.endswith("hint: why is printed above; check that an MCP server answers at `url`\n")
