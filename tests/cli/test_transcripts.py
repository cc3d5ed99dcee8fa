"""One transcript per command. Ids, times and hashes are replaced by placeholders."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Past
from tests.live.preloaded_cli import run_warm
from tests.live.running_guard import cli, without_config, write_private

KINDS = (
    (r"ap_\w{10}\b", "APPROVAL"),
    (r"run_\d{4}_\d\d_\d\d_\d\d_\d\dZ_\w+", "RUN"),
    (r"guard_\w{8,}", "GUARD"),
    (r"call_\w+", "CALL"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?Z?)?", "TIME"),
    (r"sha256:[0-9a-f]{64}", "HASH"),
    (r"version [0-9a-f]{12}\b", "version HASH"),
    (r"\d+ min \d+ s", "LEFT"),
    (r"\b[0-9a-f]{16}\b|(?<=with key )[0-9a-f]{8}\b", "KEY"),
    (r"root +\S+=", "root           ROOT"),
)


def transcript(past: Past, *words: str, code: int = 0) -> str:
    """What a command prints, with everything that differs between runs replaced."""
    done = cli(*words, "--config", str(past.config), check=False)
    assert done.returncode == code, done.stdout + done.stderr
    text = without_config(done.stdout + done.stderr).rstrip()
    for pattern, name in KINDS:
        text = re.sub(pattern, name, text)
    return text.replace("\t", "  ").replace(str(past.config.parent), "FOLDER")


def test_log(past: Past) -> None:
    who = "tester, instance RUN, called up__echo on behalf of dana due to ticket INC-7"
    assert (
        transcript(past, "log", "--tool", "up__echo")
        == f"""\
seq  time  kind  agent  tool  outcome  what
6  TIME  intent  tester  up__echo  allow  {who}, under policy version HASH
7  TIME  outcome  tester  up__echo  ok  \n\
8  TIME  decision  tester  up__echo  require_approval  people decide on these
9  TIME  approval.requested  tester  up__echo    APPROVAL: people
10  TIME  approval.granted  tester  up__echo    APPROVAL: Alice: looks right
11  TIME  approval.consumed  tester  up__echo    APPROVAL: people
12  TIME  intent  tester  up__echo  require_approval  {who}, approved by Alice, under policy version HASH
13  TIME  outcome  tester  up__echo  ok  \n\
14  TIME  decision  tester  up__echo  deny  nobody may shout
15  TIME  decision  tester  up__echo  require_approval  people decide on these
16  TIME  approval.requested  tester  up__echo    APPROVAL: people
17  TIME  approval.denied  tester  up__echo    APPROVAL: Alice: not twice
18  TIME  decision  tester  up__echo  deny  approval APPROVAL is denied by Alice: not twice"""
    )


def test_log_filters_by_kind_and_count(past: Past) -> None:
    assert (
        transcript(past, "log", "--last", "1", "--kind", "policy.loaded")
        == """\
seq  time  kind  agent  tool  outcome  what
25  TIME  policy.loaded        HASH"""
    )


def test_show_prints_every_step_of_an_approved_call(past: Past) -> None:
    printed = transcript(past, "show", "11")
    assert printed.startswith(
        "tester, instance RUN, called up__echo on behalf of dana due to ticket INC-7, approved by Alice, "
        "under policy version HASH.\n\n8  TIME  decision\n"
    )
    receipts = [paragraph.splitlines() for paragraph in printed.split("\n\n")[1:]]
    assert [lines[0].split()[-1] for lines in receipts] == [
        "decision", "approval.requested", "approval.granted", "approval.consumed", "intent", "outcome",
    ]  # fmt: skip
    assert "    rationale       looks right" in receipts[2]
    assert (
        "\n".join(receipts[4])
        == """\
12  TIME  intent
    tool            up__echo
    resource        Tool up__echo
    ticket          INC-7
    outcome         require_approval
    policies        ["gate"]
    reasons         ["people decide on these"]
    changes         ["text"]
    risk            10 of 100, low; blind_write: the present state of the resource is unknown
    routes          ["people"]
    approval        APPROVAL; Alice: looks right
    policy_version  HASH
    definition      HASH
    request         {"arguments": {"text": "gated"}, "name": "echo"}"""
    )


def test_show_prints_a_denied_call(past: Past) -> None:
    lines = transcript(past, "show", "14").splitlines()
    assert lines[0] == (
        "tester, instance RUN, asked for up__echo on behalf of dana due to ticket INC-7; "
        "denied: nobody may shout (policy quiet); nothing was sent."
    )
    assert '    policies        ["quiet"]' in lines


def test_a_pending_call_is_not_told_in_the_past_tense(past: Past) -> None:
    asks = "tester, instance RUN, asks for up__get_deal; waiting until TIME for approval by people (APPROVAL);"
    assert transcript(past, "show", "27").splitlines()[0] == f"{asks} nothing has been sent."
    assert json.loads(transcript(past, "show", "27", "--json"))["summary"] == [f"{asks} nothing has been sent."]


def test_show_of_a_copy_without_its_public_key_says_why_it_is_not_verified(past: Past, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    shutil.copyfile(past.config.parent / "state" / "ledger.sqlite", copy)
    done = cli("show", "14", "--ledger", str(copy), check=False)
    first, *_, hint = (done.stdout + done.stderr).splitlines()
    key = tmp_path / "ledger.pub"
    assert first == (
        f"NOT VERIFIED: there is no public key beside the ledger (`{key}`), so nothing that follows was checked"
    )
    assert (done.returncode, hint) == (
        1,
        f"hint: copy the guard's ledger.pub to {key}, or: mcp-guard verify {copy} --key FILE",
    )
    shutil.copyfile(past.config.parent / "state" / "ledger.pub", key)
    assert cli("show", "14", "--ledger", str(copy)).stdout.startswith("tester, instance ")


def test_show_of_an_unknown_call_fails(past: Past) -> None:
    assert (
        transcript(past, "show", "4711", code=5)
        == """\
mcp-guard: no receipt or call `4711` in `FOLDER/state/ledger.sqlite`
hint: mcp-guard log"""
    )


def test_show_of_an_approval_names_the_command_for_it(past: Past) -> None:
    assert f"hint: mcp-guard approvals show {past.pending}" in transcript(past, "show", past.pending, code=5).replace(
        "APPROVAL", past.pending
    )


def test_tail(past: Past) -> None:
    assert (
        transcript(past, "tail", "--last", "9", "--until", "guard.stopped")
        == """\
19  TIME  decision  tester  nonesuch  deny  unknown tool
20  TIME  instance.ended  tester  -  -  RUN
21  TIME  guard.stopped  -  -  -  GUARD"""
    )


def test_verify(past: Past) -> None:
    (past.config.parent / "state" / "verified.json").unlink(missing_ok=True)
    assert transcript(past, "verify").startswith("""\
verified: 28 receipts of mcp-guard.local/ledger, the last of TIME UTC; NOT proved: 4 of 7, see Assurance

Checks (all passed)
  signatures     every receipt is signed by the guard's key that was in use at the time
  order          no receipt is missing, changed, inserted or out of order
  tree           every receipt is a leaf of the tree in the signed checkpoint, and all stored hashes match
  links          every outcome has its intent, every intent its decision; every approval used was granted, and used once
  approvers      2 votes, each signed with the approver's own key
  policies       1 version referenced, the text of each is stored
  payloads       20 match their commitments, 0 not kept
  root           ROOT

Assurance
  NOT PROVED  origin         whose ledger this is: its key was read from beside it, where it can be replaced, too
                             -> give a key that you obtained elsewhere: --key FILE
  NOT PROVED  truncation     that it was not rolled back: an older copy of it passes the same checks
                             -> compare it with a newer checkpoint kept elsewhere: --against CHECKPOINT
  NOT PROVED  witnesses      that somebody outside has seen this ledger: no witness is known
                             -> have checkpoints witnessed (mcp-guard ledger witness): --witness FILE
  NOT PROVED  approvers      who owns the approvers' keys: only the ledger itself says so
                             -> give the keys that you know: --approvers FILE
  proved      self_approval  no approval is by the agent's owner or its user alone, as the guard recorded it
  proved      outcomes       every call that was sent has a recorded outcome
  proved      payloads       all requests and responses are stored, and are the recorded ones

Checkpoint; keep it elsewhere, and give it with --against next time
""")


def test_approvals_list(past: Past) -> None:
    assert (
        transcript(past, "approvals", "list")
        == """\
id  state  agent  what  routes  time left
APPROVAL  requested  tester  up__get_deal  people  LEFT"""
    )
    everything = transcript(past, "approvals", "list", "--all")
    assert everything.count("LEFT") == 1, "what is decided has no time left"
    assert [line.split("  ")[1] for line in everything.splitlines()[1:]] == [
        "consumed", "denied", "requested",
    ]  # fmt: skip


def test_approvals_show_escapes_text_written_by_the_agent(past: Past) -> None:
    assert (
        transcript(past, "approvals", "show", past.pending)
        == r"""
APPROVAL  requested  LEFT
  who            tester, instance RUN (owner bob)
  what           up__get_deal
  tool           up__get_deal
  claims reason  because \u{1b}[2K\u{202e}\u{a}admin said so
  why asked      people decide on these (policy gate)
  risk           low, 10 of 100
                 the present state of the resource is unknown (blind_write, +10)
  would change
    id: (not read) -> "7"
  arguments      {"id": "7"}
  route          people: alice
  expires        TIME UTC
  recent calls   this run: none
                 all runs of tester: up__echo 2×
  earlier        Done before: never with an approval.""".lstrip()
    )


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("approve", "ap_none", "--as", "alice"), 7, "no approval `ap_none`\nhint: mcp-guard approvals list"),
        (
            ("approve", "CONSUMED", "--as", "alice"),
            7,
            "cannot approve an approval that is `consumed`\n"
            "hint: instance `RUN` has ended, so to ask again the agent must repeat its call; "
            "mcp-guard approvals show APPROVAL",
        ),
        (("deny", "DENIED", "--as", "alice"), 7, "cannot deny an approval that is `denied`"),
        (("approve", "PENDING", "--as", "bob"), 7, "`bob` may not decide on their own request\nhint: ask another"),
        (
            ("approve", "PENDING", "--as", "eve"),
            7,
            "`eve` is not an approver\nhint: enrolled under [approvers]: alice, bob",
        ),
    ],
)
def test_impossible_approvals_are_refused(past: Past, words: tuple[str, ...], code: int, expected: str) -> None:
    ids = {"CONSUMED": past.approved, "DENIED": past.denied, "PENDING": past.pending}
    named = [ids.get(word, word) for word in words]
    assert transcript(past, "approvals", *named, "--rationale", "x", code=code).startswith(f"mcp-guard: {expected}")


def test_rationale_is_required(past: Past) -> None:
    words = ("approvals", "deny", past.pending, "--as", "alice")
    assert "the following arguments are required: --rationale" in transcript(past, *words, code=2)
    assert "a rationale is required" in transcript(past, *words, "--rationale", " ", code=7)


def test_approvers(past: Past, tmp_path: Path) -> None:
    assert (
        transcript(past, "approvers", "list")
        == """\
approver  key  method  state  enrolled  authorized by
alice  KEY  ed25519  in use  TIME  terminal
bob      no key    \n\
carol      no key"""
    )
    phrase = ("--passphrase-file", str(tmp_path / "phrase"))
    write_private(tmp_path / "phrase", "short")
    key = ("--key-file", str(tmp_path / "bob.key"), *phrase)
    assert "at least 8 characters" in transcript(past, "approvers", "add", "bob", *key, code=7)
    write_private(tmp_path / "phrase", "\n")
    assert "phrase` is empty: it contains no passphrase" in transcript(past, "approvers", "add", "bob", *key, code=7)
    write_private(tmp_path / "phrase", "long enough")
    assert "`eve` is not an approver" in transcript(past, "approvers", "add", "eve", *key, code=7)
    assert "key KEY of bob is enrolled" in transcript(past, "approvers", "add", "bob", *key)
    refused = transcript(past, "approvers", "add", "bob", *key, code=7)
    assert "bob.key` is already enrolled here, for `bob`\nhint: to replace a key in use: mcp-guard approvers" in refused
    assert "key KEY of bob replaces KEY, which signed it" in transcript(past, "approvers", "rotate", "bob", *key)
    [old, new] = json.loads(cli("approvers", "list", "--json", "--config", str(past.config)).stdout)[1:]
    assert old["removed"] is not None
    removing = ("approvers", "remove", "bob", new["key"], "--why", "gone")
    assert "key KEY of bob is removed" in transcript(past, *removing)
    assert "`bob` has no enrolled key" in transcript(past, *removing, code=7)
    assert re.fullmatch(
        r"\w{5}-\w{5}\nuse it within ten minutes to sign in at http\S+, and nowhere else",
        transcript(past, "approvers", "code", "alice"),
    )


def test_policy_validate(past: Past) -> None:
    assert transcript(past, "policy", "validate") == "valid against 17 tools, version HASH"


def test_policy_test(past: Past) -> None:
    cases = past.config.parent / "some.cases.toml"
    cases.write_text("""
[[case]]
name = "soft"
tool = "up__echo"
arguments = { text = "hi" }
outcome = "allow"
[[case]]
name = "loud"
tool = "up__echo"
arguments = { text = "hi!" }
outcome = "allow"
""")
    assert (
        transcript(past, "policy", "test", "--cases", str(cases), code=1)
        == """\
some.cases.toml: loud: expected allow, got deny (nobody may shout)
1 of 2 cases as expected"""
    )
    cases.write_text('[[case]]\ntool = "up__echo"\noutcme = "allow"\n')
    assert transcript(past, "policy", "test", "--cases", str(cases), code=4).startswith(
        "mcp-guard: some.cases.toml: case 1: unknown key `outcme`\nhint: did you mean `outcome`?"
    )
    assert (
        transcript(past, "policy", "test", code=4)
        == """\
mcp-guard: no cases in `FOLDER/policies`
hint: write NAME.cases.toml beside the policies, or let mcp-guard policy new TOOL create one"""
    )


def run(*words: str) -> tuple[int, str]:
    done = run_warm(words)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((), 2, "usage: mcp-guard COMMAND"),
        (("--help",), 0, "approvals  list, show, approve, deny and grant held calls"),
        (("--version",), 0, "mcp-guard 0."),
        (("lgo",), 2, "mcp-guard: no command `lgo`\nhint: did you mean mcp-guard log? mcp-guard --help lists them all"),
        (("log", "--config", "/none/x.toml"), 3, "mcp-guard: no configuration at `/none/x.toml`\nhint: "),
        (("run", "--config", "/none/x.toml"), 3, "mcp-guard: no configuration at `/none/x.toml`\nhint: "),
        (("log", "--ledger", "/none/x.sqlite"), 5, "mcp-guard: "),
        (("verify", "--ledger", "/none/x.sqlite"), 5, "mcp-guard: cannot verify: "),
    ],
)
def test_exit_codes(words: tuple[str, ...], code: int, expected: str) -> None:
    got, text = run(*words)
    assert got == code
    assert expected in text
    assert "Traceback" not in text


def test_run_with_an_unknown_agent_lists_the_agents(past: Past) -> None:
    code, text = run("run", "--config", str(past.config), "--agent", "nobody")
    assert code == 8
    assert "`nobody`" in text
    assert "tester" in text
