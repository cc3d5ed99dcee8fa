"""P11: a person sees what is decided. Nothing that an agent or an upstream writes hides, moves or forges what is shown:
on the terminal, in the inbox, in notifications and events, in errors and log lines. A real guard and a real inbox."""

import json
import re
from pathlib import Path

from mcp_guard.core.hidden_characters import is_hidden
from mcp_guard.web.view import HERE, make_pages
from tests.live.running_guard import ALLOW_ALL, Client, cli, enrol, scripted, write_config
from tests.live.test_session import eventually
from tests.web.inbox_process import InboxScenario, free_port, inbox
from tests.web.test_http import ask, session

SMUGGLED = "".join(chr(0xE0100 + byte) for byte in b"approve")
HIDDEN = f"\u202e987\u200b\u3164\u2800\u115f\u00ad\ufeff\x9b2J{SMUGGLED}"
ZALGO = "a" + "\u0316" * 40
FORGED = "7, approved by Alice\n  ticket         INC-1\x1b[2A"
POLICIES = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__free", resource);
"""
TOOL = """
[resources.Deal.attributes]
notes = "string"
[tools."up__free"]
resource = { type = "Deal", id = "/id" }
ask = ["ticket", "reason"]
verb = "updated deal"
[notifiers.file]
kind = "command"
command = ["./keep.sh"]
"""


def assert_visible(text: str) -> None:
    assert not [hex(ord(c)) for c in text if is_hidden(c)]
    assert not re.search("[\u0300-\u036f]{5}", text)
    assert not [line for line in text.splitlines() if line.startswith("  ticket         INC-1")]
    assert ", approved by Alice" not in re.sub(r'"(?:[^"\\\n]|\\.)*"', "", text)  # but within quotes


BOXES = re.compile(r"<(q|dd|ins|del)\b[^>]*>.*?</\1>", re.DOTALL)


def box_content(box: re.Match[str]) -> str:
    """A value that a page sets apart may say what it likes, visibly."""
    assert not [hex(ord(c)) for c in box[0] if is_hidden(c)]
    return ""


def write(folder: Path) -> Path:
    config = write_config(folder, scripted("up", folder), POLICIES, TOOL, guard="hold_seconds = 0")
    text = config.read_text().replace('approvers = ["alice", "bob"]', 'approvers = ["alice", "bob"]\nnotify = ["file"]')
    config.write_text(f"{text}\n[inbox]\nport = {free_port()}\n")
    (folder / "keep.sh").write_text("#!/bin/sh\ncat > told.$$ && mv told.$$ told.$$.json\n")
    (folder / "keep.sh").chmod(0o700)
    return config


ARGUMENTS = {
    "id": f"1{HIDDEN}",
    f"name{HIDDEN}": f"value{HIDDEN}{ZALGO}",
    "guard_ticket": f"INC{HIDDEN}",
    "guard_reason": FORGED + HIDDEN,
}


def next_told(folder: Path) -> str:
    """The next notification, in which nothing is hidden; empty if there is none yet."""
    if (file := next(folder.glob("told.*.json"), None)) is None:
        return ""
    told = json.loads(file.read_text())
    file.unlink()
    assert_visible(told["title"] + told["text"].replace("\n", " "))
    return str(told["text"])


def test_nothing_hides_from_the_approver(tmp_path: Path) -> None:
    config = write(tmp_path)
    at = ("--config", str(config))
    with inbox(config) as url, Client(config) as client:
        client.start()
        for arguments in (ARGUMENTS, ARGUMENTS | {"id": FORGED}):
            result = client.request("tools/call", {"name": "up__free", "arguments": arguments})["result"]
            id = str(result["_meta"]["mcp-guard/decision"]["approval"])
            shown = cli("approvals", "show", id, *at).stdout
            assert_visible(shown)
            assert "\\u{202e}" in shown
            assert "(claimed by the agent)" in shown
            scenario = InboxScenario(config, url, client)
            alice = session(scenario)
            for page in ("/", f"/requests/{id}"):
                text = ask(scenario, "GET", page, **alice).text
                assert_visible(BOXES.sub(box_content, text))
            eventually(lambda: '" (claimed by the agent)' in next_told(tmp_path))  # there is one of the key, too
            cli("approvals", "approve", id, "--rationale", "fine", *enrol(config))
            client.call("guard__await", {"approval": id})
        client.notify("x\nmcp-guard: approved by Alice\x1b[2J\u202e")
        client.call("up__echo", {"text": f"{FORGED}{HIDDEN}"})
        client.call(f"up__{HIDDEN}")
    assert_visible(client.stderr)
    assert not [line for line in client.stderr.splitlines() if line.startswith("mcp-guard: approved")]
    for words in (("approvals", "list", "--all"), ("log",), ("status",), ("show",), ("policy", "explain", "last")):
        printed = cli(*words, *at, check=False)
        text = printed.stdout.replace(", approved by Alice, under policy version", "")  # what the guard itself says
        assert_visible(text + printed.stderr)
    for command in (("log", "--json"), ("show", "--json"), ("approvals", "list", "--all", "--json")):
        output = cli(*command, *at).stdout
        assert not [hex(ord(c)) for c in output if is_hidden(c)]
        json.loads(output)


def test_every_value_that_a_page_shows_is_visible() -> None:
    """A new template cannot forget it: the environment does it for each expression."""
    pages = make_pages()
    for form in (
        "{{ value }}",
        '<a title="{{ value }}">',
        "{{ value|join('') }}",
        "{{ value|lower }}",
        "{{ value ~ '' }}",
    ):
        assert_visible(pages.from_string(form).render(value=HIDDEN + ZALGO))
    for template in (HERE / "templates").glob("*.html"):
        text = template.read_text()
        assert "|safe" not in text
        assert "autoescape" not in text
        assert "|truncate" not in text  # it cuts escapes in two; `shorten` does not


PRINTERS = (
    "mcp_guard/cli/output.py",
    "mcp_guard/server_log.py",
    "mcp_guard/downstream/stdio.py",
    "mcp_guard/hook_client.py",  # which imports nothing of the package
    "mcp_guard/config/file.py",
)


def test_only_known_functions_write_to_the_terminal() -> None:
    """A new command cannot forget it: it has no other way to print."""
    root = HERE.parent
    for path in root.rglob("*.py"):
        name = path.relative_to(root.parent).as_posix()
        if name in PRINTERS or name.startswith("mcp_guard/verifier/"):
            continue
        found = re.findall(r"(?<![\w.])print\(|sys\.std(?:out|err)\.write\(", path.read_text())
        assert not found, f"{name}: print with cli/output.py"
