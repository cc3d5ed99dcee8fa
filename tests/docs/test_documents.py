"""The commands that the documents tell a reader to type work in order and print what the documents show."""

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import NoReturn

import cedarpy
import pytest

from mcp_guard.cli import COMMANDS
from mcp_guard.cli.dispatch import load_handler
from mcp_guard.cli.options import Parser
from tests.docs.page import BIN, ROOT, Block, blocks, fences, fits, run
from tests.docs.warm_commands import warm_bin
from tests.live.http_guard import free_port
from tests.live.running_guard import cli
from tests.proof_size import in_full

FOREVER = "serves or follows until it is ended; tests/live, tests/web and tests/events do so"
WRAPS = "asks, and changes files of a client; tests/live/test_wrapped.py does so"
NOT_RUN = {
    "README.md": {
        "make demo": "the fixture `example` makes the same demonstration, and this is a test",
        "make dist": "builds and installs; tests/packaging does so",
        "mcp-guard demo": "the fixture `example` does so, once for all",
        "mcp-guard wrap": WRAPS,
        "mcp-guard approvals watch": "takes a request of the reader's client; the session above has one",
    },
    "docs/howto/observe-first.md": {"pip install mcp-server-git": "installs; the servers are in the environment"},
    "docs/tutorial/first-guard.md": {"make dist": "builds and installs; tests/packaging does so"},
    "docs/tutorial/team.md": {"mcp-guard demo": "the fixture `example` does so, once for all"},
    "docs/howto/another-user.md": {"useradd --system": "needs a machine of its own"},
    "docs/howto/approvals.md": {
        'mcp-guard approvals deny "$ID"': "each takes a request of its own; tests/cli/test_approvals.py makes them",
        "mcp-guard inbox --open": FOREVER,
    },
    "docs/howto/approve-from-a-phone.md": {"mcp-guard web": FOREVER},
    "docs/howto/claude-desktop.md": {
        "mcp-guard init": WRAPS,
        "mcp-guard approvers add alice": "paths of the reader's own",
    },
    "docs/howto/coding-agents.md": {
        "mcp-guard wrap claude-code": "changes an agent's settings; tests/cli/test_client_hooks.py does so",
    },
    "docs/howto/slack.md": {
        "install -m 600 /dev/null slack-webhook": "needs Slack; tests/notify/test_delivery.py has a receiver",
        "mcp-guard approvals show": "the same",
    },
    "docs/howto/observe-with-prometheus-and-otel.md": {
        "~/mcp-guard/bin/pip": "installs; tests/packaging does so",
        "mcp-guard log --trace": "needs a call with a trace; tests/telemetry makes some",
        "mcp-guard serve": FOREVER,
    },
    "docs/howto/size-a-fleet.md": {"make bench-fleet": "measures for minutes; tests/deploy runs gateways"},
    "docs/howto/wrap.md": {"mcp-guard init": WRAPS, "mcp-guard unwrap": WRAPS},
    "docs/howto/pin-tools.md": {"mcp-guard tools accept crm__search_deals": "asks; tests/cli/test_tools.py answers"},
    "docs/howto/install.md": {
        "python3 -m venv ~/mcp-guard": "installs; tests/packaging does so",
        "~/mcp-guard/bin/pip": "the same",
        "make dist": "builds; tests/packaging does so",
    },
    "docs/howto/teams.md": {
        "install -m 600 /dev/null teams-workflow": "needs Teams; tests/notify/test_teams.py has a receiver",
    },
    "docs/howto/uninstall.md": {
        "mcp-guard unwrap": WRAPS,
        "mcp-guard upstreams logout": "needs a keyring, and an authorization server; tests/upstream has them",
        "systemctl disable": "needs a machine of its own",
    },
    "docs/howto/upgrade.md": {
        "python3 -m venv ~/mcp-guard-new": "installs; tests/packaging does so",
        "systemctl stop mcp-guard": "the same",
        "systemctl start mcp-guard": "needs a machine of its own",
    },
    "docs/howto/write-a-policy.md": {"cp ~/src": "needs a guard for files; tests/docs/test_write_a_policy.py has one"},
    "docs/howto/rotate-keys.md": {"mcp-guard keys replace --lost": "needs a lost key; tests/cli/test_keys.py has one"},
    "docs/howto/secrets.md": {
        "mcp-guard secrets set": "needs a keyring; tests/test_secrets.py has one",
        "mcp-guard upstreams login tracker": "needs an authorization server; tests/live/test_oauth.py has one",
    },
    "docs/howto/serve.md": {
        "mcp-guard serve": FOREVER,
        "curl -s": "needs a guard that serves; tests/live/test_health.py asks one",
        "docker build": "needs a container engine; tests/packaging/test_container.py holds what it does",
    },
    "docs/howto/serve-your-servers.md": {"python3 -m venv": "installs; the servers are in the environment"},
    "docs/howto/systemd.md": {
        "useradd --system": "needs a machine of its own; tests/docs/test_systemd.py checks the units",
        "mv mcp-guard.toml policies": "the same; tests/docs/test_systemd.py runs it with other folders",
        "systemctl daemon-reload": "the same",
        "sudo -u mcp-guard": "the same",
    },
    "docs/howto/run-a-fleet.md": {
        "systemctl daemon-reload": "needs a machine of its own; tests/deploy checks the unit and runs three gateways",
        "for port in 8766": "the same",
        "export DATABASE_URL": "needs a database; tests/cli/test_ledger_copy.py copies into one",
        "cd deploy/compose": "needs a container engine; tests/deploy/test_compose.py reads the file",
        "mcp-guard keys create secrets/ledger.key.new": "the same",
        "cp -R deploy/kubernetes": "needs a cluster; tests/deploy/test_manifests.py checks the manifests",
        "mcp-guard keys create ledger.key.new": "the same",
    },
    "docs/howto/siem.md": {
        "mcp-guard ledger events --format ocsf --follow --cursor /var/lib/collector/mcp-guard.cursor >>": FOREVER,
        "mcp-guard ledger events --format ocsf --follow --cursor /var/lib/collector/mcp-guard.cursor --after": FOREVER,
        "mcp-guard ledger events --format otel --follow": FOREVER,
        "install -m 600 /dev/null headers": "needs a receiver; tests/events has one",
    },
}
"""Blocks that are not run, by how they begin, and why. Their options are checked all the same."""
MINUTES = "make targets that take minutes"
NONE_RUN = {
    "docs/howto/release.md": "tests/docs/test_release.py runs it in a repository of its own",
    "docs/reference/cli.md": "tests/cli/test_completion.py sources the scripts",
    "docs/reference/compatibility.md": MINUTES,
    "docs/reference/evaluation.md": MINUTES,
    "docs/reference/export.md": "tests/independent runs it",
    "docs/reference/faults.md": MINUTES,
    "docs/reference/performance.md": MINUTES,
    "docs/reference/verify.md": "forms of one command; tests/ledger runs each",
}
"""Documents none of whose blocks are run, and why."""
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [ROOT / "docs" / "tutorial" / "first-guard.md", ROOT / "docs" / "tutorial" / "security.md"]
FROM_NOTHING = [*TUTORIALS, ROOT / "docs" / "howto" / "observe-first.md"]
ENFORCES = 's/^mode = "observe"/mode = "enforce"'
"""The edit by which a reader of observe-first.md enforces."""
SERVES_ITS_OWN = ROOT / "docs" / "howto" / "serve-your-servers.md"
IN_THE_EXAMPLE = [
    ROOT / "docs" / "reference" / "cedar-schema.md",
    *sorted(
        path
        for path in (ROOT / "docs" / "howto").glob("*.md")
        if blocks(path) and str(path.relative_to(ROOT)) not in NONE_RUN and path not in (*FROM_NOTHING, SERVES_ITS_OWN)
    ),
]


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def check(document: Path, folder: Path, home: Path, instead: Mapping[str, str] = {}) -> None:
    """`instead` replaces words of the document, such as a port that may be taken."""
    excused = NOT_RUN.get(name(document), {})
    result = blocks(document)
    for start in excused:
        assert sum(block.name.startswith(start) for block in result) == 1, f"{document}: not there, or twice: {start}"
    wanted = [block for block in result if not block.name.startswith(tuple(excused))]
    for word, other in instead.items():
        wanted = [Block(*(text and text.replace(word, other) for text in astuple(block))) for block in wanted]
    printed = run(wanted, folder, home) if wanted else []
    assert len(printed) == len(wanted)
    for block, said in zip(wanted, printed, strict=True):
        shown = block.prints
        assert shown is None or fits(shown, said), f"{document}: {block.name}\nshown:\n{shown}\nprinted:\n{said}"


def test_every_policy_in_the_documents_is_cedar() -> None:
    shown = [text for document in DOCUMENTS for language, text in fences(document) if language == "cedar"]
    assert len(shown) > 3
    for text in shown:
        assert json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the demo creates, with which these documents start."""
    folder = tmp_path_factory.mktemp("example") / "crm"
    shown = cli("demo", "--keep", str(folder)).stdout
    for expected in (
        "deal 789: stage Negotiation, amount 48,500",
        "deal 789: stage Closed Won, amount 50,000",
        "updated deal 789 on behalf of dana due to ticket INC-4451, approved by Alice, under policy version",
        "billing_contact_email and discount_rate may not be edited",
        "verified: 29 receipts",
        "NOT VERIFIED: receipt 16",
        "completed as expected",
    ):
        assert expected in shown
    return folder


def test_show_after_the_demo_tells_of_the_call_that_was_denied_not_of_the_facts_read(example: Path) -> None:
    lines = cli("show", "--config", str(example / "mcp-guard.toml")).stdout.splitlines()
    assert re.fullmatch(
        r"deal-update-agent, instance run_\S+, asked for crm__update_deal on Deal 789 on behalf of dana due to ticket "
        r"INC-4451; denied: billing_contact_email and discount_rate may not be edited by agents "
        r"\(policy no-edits-of-protected-fields\); nothing was sent\.",
        lines[0],
    )
    steps = [re.sub(r"\d\S*Z", "TIME", line) for line in lines if re.match(r" *\d+  ", line)]
    assert steps == ["26  TIME  decision", "    24  TIME  intent (look-up)", "    25  TIME  outcome (look-up)"]


def test_commands_of_the_readme_run_as_printed(example: Path, tmp_path: Path) -> None:
    shutil.copytree(example, tmp_path / "crm")
    check(ROOT / "README.md", tmp_path / "crm", tmp_path)


def test_the_policies_that_the_readme_shows_are_those_of_the_example() -> None:
    [shown] = [text for language, text in fences(ROOT / "README.md") if language == "cedar"]
    kept = "".join(path.read_text() for path in (ROOT / "policies" / "crm").glob("*.cedar"))
    for policy in shown.strip().split("\n\n"):
        assert policy in kept


@pytest.mark.parametrize("documents", [TUTORIALS, FROM_NOTHING[2:]], ids=["tutorials", "observe-first.md"])
def test_commands_that_start_from_nothing_run_as_printed(documents: list[Path], tmp_path: Path) -> None:
    """Two tutorials, one after the other as a reader does them, and the way from `init` to an enforced guard with real
    servers.

    The last one's client is answered before anybody can decide, as it is where a person types the passphrase.
    """
    for document in documents:
        folder = tmp_path / f"folder-of-{document.stem}"
        folder.mkdir()
        check(document, folder, tmp_path, {ENFORCES: f"{ENFORCES}\\nhold_seconds = 0"})


@in_full
def test_commands_of_the_tutorial_for_a_team_run_as_printed(example: Path, tmp_path: Path) -> None:
    shutil.copytree(example, tmp_path / "team")
    check(ROOT / "docs" / "tutorial" / "team.md", tmp_path, tmp_path, {"8766": str(free_port())})


@in_full
def test_commands_from_an_empty_machine_to_a_served_guard_run_as_printed(tmp_path: Path) -> None:
    check(SERVES_ITS_OWN, tmp_path, tmp_path, {"8766": str(free_port()), "$HOME/servers/bin/": ""})


@pytest.mark.parametrize("document", IN_THE_EXAMPLE, ids=name)
def test_commands_that_start_from_the_example_run_as_printed(document: Path, example: Path, tmp_path: Path) -> None:
    shutil.copytree(example, tmp_path / "crm")
    (tmp_path / "crm" / "mcp-guard").symlink_to(ROOT)  # "take the folder from its source"
    for environment in ("mcp-guard", "mcp-guard-new"):  # where install.md and upgrade.md install
        (tmp_path / environment).mkdir()
        (tmp_path / environment / "bin").symlink_to(warm_bin(BIN))
    check(document, tmp_path / "crm", tmp_path)


def test_who_pastes_the_upgrade_asks_the_new_program_and_stops_at_its_problem(example: Path, tmp_path: Path) -> None:
    """In a new environment a package may be missing; the old one, which has it, must not be asked in its place."""
    shutil.copytree(example, tmp_path / "crm")
    (tmp_path / "mcp-guard").symlink_to(BIN.parent)
    new = tmp_path / "mcp-guard-new" / "bin" / "mcp-guard"
    new.parent.mkdir(parents=True)
    new.write_text("#!/bin/sh\n[ $1 = doctor ] || exit 0\necho asked the new one\nexit 2\n")
    new.chmod(0o755)
    page = ROOT / "docs" / "howto" / "upgrade.md"
    with pytest.raises(AssertionError, match="asked the new one"):
        check(page, tmp_path, tmp_path)


def test_every_document_is_tested() -> None:
    team = ROOT / "docs" / "tutorial" / "team.md"
    run_here = {ROOT / "README.md", team, SERVES_ITS_OWN, *FROM_NOTHING, *IN_THE_EXAMPLE}
    typed = {document for document in DOCUMENTS if blocks(document)}
    assert typed - run_here == {ROOT / name for name in NONE_RUN}


class Understood(Exception):
    """The command line was parsed."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_command_in_a_code_block_parses(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Parser.parse_args

    def parse_only(parser: Parser, words: list[str]) -> NoReturn:
        parse(parser, words)
        raise Understood

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    typed = "\n".join(text for language, text in fences(document) if language == "sh")
    for line in re.findall(r"^(?:\w+=\$\()?(mcp-guard .*)$", typed, re.MULTILINE):
        words = shlex.split(re.split(r" (?:[|>&#]|\|\|)|\)$", line)[0])
        if not words[1].startswith("-"):
            with pytest.raises(Understood):
                load_handler(COMMANDS, words[1])(words[2:])


def test_every_command_mentioned_in_text_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """With its subcommand, where it has one."""
    text = "".join(document.read_text() for document in DOCUMENTS if "decisions" not in document.parts)
    named = set(re.findall(r"`mcp-guard ([a-z]+)(?: ([a-z]+(?:-[a-z]+)*)\b)?", text))
    assert len(named) > 30
    for command, verb in named:
        with pytest.raises(SystemExit) as ended:
            load_handler(COMMANDS, command)([*([verb] if verb else []), "--help"])
        assert ended.value.code == 0, (command, verb, capsys.readouterr().err)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_code_block_has_a_language(document: Path) -> None:
    """So that no commands are mistaken for text that is not run."""
    assert {language for language, _ in fences(document)} <= {
        "sh",
        "text",
        "toml",
        "cedar",
        "json",
        "ini",
        "nginx",
        "caddy",
        "yaml",
        "sql",
    }


@pytest.mark.parametrize(
    ("shown", "printed", "fit"),
    [
        ("a  b\n…", "a b\n", True),
        ("id …\n…\nend", "id 7\nx\ny\nend\n", True),
        ("id …", "id 7\nmore\n", False),
        ("verified: 3", "verified: 4", False),
        ("a.c", "abc", False),
    ],
)
def test_output_matcher_accepts_placeholders(shown: str, printed: str, fit: bool) -> None:
    assert fits(shown, printed) is fit
