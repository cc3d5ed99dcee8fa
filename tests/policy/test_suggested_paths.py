"""What is suggested from paths: whoever may write files must not get other tools to run commands by that."""

import json
from pathlib import Path

import pytest

from mcp_guard.core.model import Effect, Json, Mode, Outcome, ToolRule
from mcp_guard.policy.authoring.formatting import format_policies
from mcp_guard.upstream.catalog import make_tool
from tests.policy.fixtures import make_call
from tests.policy.test_suggest import HOLD, call, loaded, recorded_guard, suggested
from tests.promises.harness import Harness, make_instance

READS = '@id("reads") permit (principal in Group::"workers", action in Action::"read", resource);\n'
PERMIT = '@id("work") permit (principal in Group::"workers", action in Action::"write", resource);\n'
WRITE = "files__write_file"
LISTINGS = Path(__file__).parents[2] / "examples" / "packs" / "listings"
BARE_REPOSITORY = (
    ("files__create_directory", {"path": "/w/notes/x"}),
    ("files__create_directory", {"path": "/w/notes/x/objects"}),
    ("files__create_directory", {"path": "/w/notes/x/refs"}),
    ("files__write_file", {"path": "/w/notes/x/HEAD", "content": "ref: refs/heads/main\n"}),
    ("files__write_file", {"path": "/w/notes/x/config", "content": "[core]\n\tbare = false\n\tfsmonitor = run-me\n"}),
)
"""A repository without a dot in any name: git runs `run-me` when it is asked for the status of `/w/notes/x`."""


def with_servers(folder: Path) -> Harness:
    """A guard that observes a file server and a git server; what their servers call read-only is confirmed as such."""
    harness = recorded_guard(folder, READS + PERMIT + HOLD, Mode.OBSERVE)
    for server, listing in (("files", "filesystem"), ("git", "git")):
        for definition in json.loads((LISTINGS / f"{listing}.json").read_text()):
            hinted = definition["annotations"].get("readOnlyHint") is True
            rule = ToolRule(effect=Effect.READ if hinted else None)
            tool = make_tool(server, definition, {f"{server}__{definition['name']}": rule})
            harness.upstream.catalog[tool.listed_as] = tool
    harness.load(READS + PERMIT + HOLD)
    return harness


async def test_suggested_rules_let_nobody_build_a_repository_whose_configuration_git_obeys(tmp_path: Path) -> None:
    harness = with_servers(tmp_path)
    for name in ("a", "b", "c"):
        await call(harness, {"path": f"/w/notes/{name}"}, "files__create_directory")
        await call(harness, {"path": f"/w/notes/{name}/todo.txt", "content": f"buy {name}"}, "files__write_file")
    free = ("files__write_file.content", "files__create_directory.path")
    made = suggested(harness, READS + PERMIT + HOLD, free=free, destructive=(WRITE,))
    assert {suggestion.group[1] for suggestion in made.suggestions.suggested} == {
        "files__create_directory", "files__write_file"
    }  # fmt: skip
    engine = loaded(harness, made, tmp_path / "out")

    def outcome(tool: str, arguments: Json) -> Outcome:
        call = make_call(harness.upstream.catalog[tool], arguments, instance=make_instance())
        return engine.decide(call, {}).outcome

    assert [outcome(*attack) for attack in BARE_REPOSITORY][3:] == [Outcome.REQUIRE_APPROVAL] * 2
    for name in (".git/config", "x.git/config", "Makefile", "x/hooks/post-checkout", "config.txt/", "..txt", "a.sh"):
        assert outcome("files__write_file", {"path": f"/w/notes/{name}", "content": ""}) is Outcome.REQUIRE_APPROVAL
    assert outcome("files__write_file", {"path": "/w/notes/d/e.txt", "content": ""}) is Outcome.ALLOW
    assert all(suggestion.opens_paths for suggestion in made.suggestions.suggested)
    harness.close()


async def test_folders_are_a_question_and_not_a_rule(tmp_path: Path) -> None:
    """A folder that an agent made may be a repository, for all that its name says."""
    harness = with_servers(tmp_path)
    for name in ("a", "b", "c"):
        await call(harness, {"path": f"/w/notes/{name}"}, "files__create_directory")
        await call(harness, {"repo_path": f"/w/{name}.git", "files": ["."]}, "git__git_add")
    made = suggested(harness, PERMIT + HOLD)
    assert made.suggestions.suggested == []
    about = {question.group[1]: question.text for question in made.suggestions.questions}
    assert about.keys() == {"files__create_directory", "git__git_add"}
    assert about["files__create_directory"] == (
        "may `path` be any path? it had 3 different values without an ending such as `.txt`, and programs obey some"
        " files and folders without one (`HEAD` and `config` of git, `Makefile`)"
    )
    harness.close()


async def test_a_tool_that_its_server_calls_read_only_is_asked_where_it_may_send(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"url": {"type": "string"}}}
    hints = {"readOnlyHint": True, "openWorldHint": True}
    harness = recorded_guard(tmp_path, READS + PERMIT + HOLD, Mode.OBSERVE)
    fetch = make_tool("web", {"name": "fetch", "inputSchema": schema, "annotations": hints}, {})
    harness.upstream.catalog["web__fetch"] = fetch
    harness.load(READS + PERMIT + HOLD)
    for host in ("docs.example", "docs.example", "wiki.example"):
        await call(harness, {"url": f"https://{host}/page/{len(harness.receipts())}"}, "web__fetch")
    made = suggested(harness, READS + PERMIT + HOLD)
    assert made.suggestions.suggested == []
    [question] = made.suggestions.questions
    assert question.text == (
        "may `url` be any destination? it had 3 different values, at `docs.example`, `wiki.example`, and an address may"
        " carry data there"
    )
    harness.close()


@pytest.mark.parametrize("policies", [READS, READS + PERMIT + HOLD])
async def test_what_is_suggested_is_formatted(tmp_path: Path, policies: str) -> None:
    """A permit of its own, and an exception in a file that is; `policy fmt --check` has nothing to say of either."""
    harness = with_servers(tmp_path)
    for name in ("a.md", "b.txt", "Makefile"):
        await call(harness, {"path": f"/w/notes/{name}", "content": ""}, "files__write_file")
    before = format_policies(policies) or ""
    [question] = suggested(harness, before, free=("content",)).suggestions.questions
    assert question.text.startswith("may it run without approval? it is destructive")
    assert question.if_so == f"mcp-guard policy suggest --destructive {WRITE}"
    [question] = suggested(harness, before, destructive=(WRITE,)).suggestions.questions
    assert question.if_so == f"mcp-guard policy suggest --destructive {WRITE} --free {WRITE}.content"
    made = suggested(harness, before, free=("content",), destructive=(WRITE,))
    [suggestion] = made.suggestions.suggested
    assert bool(suggestion.gates) is (HOLD in policies)
    assert made.texts["policies.cedar"].startswith(before.removesuffix(";\n"))
    assert {name: format_policies(text) for name, text in made.texts.items()} == made.texts
    harness.close()


async def test_an_ending_opens_only_the_folder_that_it_was_seen_in(tmp_path: Path) -> None:
    harness = with_servers(tmp_path)
    for name in ("src/a.py", "src/b.py", "src/c.py", "docs/n.md"):
        await call(harness, {"path": f"/w/proj/{name}", "content": name}, "files__write_file")
    made = suggested(harness, PERMIT + HOLD, free=("content",), destructive=(WRITE,))
    engine = loaded(harness, made, tmp_path / "out")
    tool = harness.upstream.catalog["files__write_file"]

    def outcome(name: str) -> Outcome:
        arguments = {"path": f"/w/proj/{name}", "content": ""}
        return engine.decide(make_call(tool, arguments, instance=make_instance()), {}).outcome

    assert [outcome(name) for name in ("src/d.py", "src/deep/e.py", "docs/m.md")] == [Outcome.ALLOW] * 3
    for name in ("setup.py", "docs/conf.py", "README.md", "src/a.md"):
        assert outcome(name) is Outcome.REQUIRE_APPROVAL, name
    harness.close()


@pytest.mark.parametrize(
    ("paths", "own", "why"),
    [
        (("/srv/u/a.toml", "/srv/u/b/c.toml", "/srv/u/d.toml"), "/srv/u/g/mcp-guard.toml", "which has a file of"),
        (("/srv/u/g/mcp-guard.toml",) * 3, "/srv/u/g/mcp-guard.toml", "a file of this guard"),
        (("/srv/u/g/state/x.txt", "/srv/u/g/state/y.txt", "/srv/u/z.txt"), "/srv/u/g/state", "a file of this"),
    ],
)
async def test_no_rule_opens_files_of_the_guard_itself(
    tmp_path: Path, paths: tuple[str, ...], own: str, why: str
) -> None:
    harness = with_servers(tmp_path)
    for path in paths:
        await call(harness, {"path": path, "content": path}, "files__write_file")
    assert suggested(harness, PERMIT + HOLD, free=("content",), destructive=(WRITE,)).suggestions.suggested
    made = suggested(harness, PERMIT + HOLD, free=("content",), destructive=(WRITE,), own={own})
    assert made.suggestions.suggested == []
    assert [why in reason for reason in made.suggestions.skipped.values()] == [True]
    harness.close()
