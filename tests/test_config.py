"""The configuration: the example explains every key, and every error names the file, the key and a fix."""

import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from mcp_guard.config import load
from mcp_guard.config.file import Config
from mcp_guard.config.ledger import WitnessConfig
from mcp_guard.core.drills import DrillRule, Drills
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.tlog import note
from mcp_guard.core.tool_pins import FirstUse, PinRule
from mcp_guard.settings import Settings, SignerSettings
from mcp_guard.witness import WITNESSES

PLAIN = {
    "state_dir", "hold_seconds", "unsafe_skip_fsync", "argument_bytes", "depth", "message_bytes", "kept_response_bytes",
    "plain_names", "credential_seconds", "timeout_seconds", "unsafe_self_approval", "starttls", "append",
}  # fmt: skip
EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
GOOD = """
[guard]
policies = "policies"
[agents.worker]
owner = "bob"
[upstreams.crm]
command = "crm"
"""
STEP = '[sequences.s]\ntools = ["crm__x"]\n'
REDACTED = 'same = "/a"\n[tools."crm__x"]\nredact = ["/a"]\n'
BY_ARGUMENT = """[rates.r]
window_seconds = 1
by = ["argument:/card"]
tools = ["crm__x"]
[tools.crm__x]
redact = ["/card"]
"""

DRILLED = """[approvers.alice]
name = "Alice"
[routes.people]
approvers = ["alice"]
drills = "1 in 20"
[[routes.people.drill]]
tool = "crm__x"
why = "a hundred times too much"
multiply = { n = 100 }
"""


def read(folder: Path, text: str) -> Settings:
    (folder / "mcp-guard.toml").write_text(text)
    return load(folder / "mcp-guard.toml")


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert caught.value.hint
    return str(caught.value)


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and every model in its fields."""
    results = [model]
    for field in model.model_fields.values():
        pending = [field.annotation]
        while pending:
            each = pending.pop()
            pending += get_args(each)
            if isinstance(each, type) and issubclass(each, BaseModel):
                results += models(each)
    return results


def test_example_configuration_loads() -> None:
    settings = load(EXAMPLE)
    assert settings.policies == EXAMPLE.parent / "policies" / "crm"
    assert settings.tool_rules["crm__update_deal"].facts is not None


def test_example_configuration_has_every_key() -> None:
    text = EXAMPLE.read_text()
    for model in models(Config):
        for name in (field.alias or name for name, field in model.model_fields.items()):
            assert f"{name} =" in text or f"[{name}" in text or f".{name}]" in text or f".{name}." in text, (
                f"{model.__name__}.{name}"
            )


def test_example_configuration_shows_the_real_defaults() -> None:
    """Each commented-out key is shown with its default."""
    shown = [line.removeprefix("# ") for line in EXAMPLE.read_text().splitlines() if line.startswith("# ")]
    keys = [line for line in shown if line.partition(" = ")[0].isidentifier() and " = " in line]
    defaults = {
        name: field.default
        for model in models(Config)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    checked = 0
    for line in keys:
        [(name, value)] = tomllib.loads(line).items()
        if name not in ("env", "cwd") and value is not None and name in PLAIN:
            assert str(defaults[name]) == str(value), name
            checked += 1
    assert checked == len(PLAIN)


def test_minimal_configuration_loads(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD)
    assert settings.state_dir == tmp_path / "state"
    assert settings.upstreams["crm"].argv == ("crm",)
    assert not settings.unsafe_skip_fsync


def test_drills_say_how_often_and_what_is_wrong(tmp_path: Path) -> None:
    rule = DrillRule("crm__x", "a hundred times too much", {}, {"n": 100}, ())
    assert read(tmp_path, GOOD + DRILLED).routes["people"].drills == Drills(20, (rule,))


def test_pinned_members_are_configurable_globally_and_per_upstream(tmp_path: Path) -> None:
    text = GOOD.replace("[guard]", '[guard]\nfirst_use = "ask"')
    assert read(tmp_path, GOOD).pin_rules["crm"] == PinRule(FirstUse.LISTING)
    assert read(tmp_path, text).pin_rules["crm"] == PinRule(FirstUse.ASK)
    own = '[upstreams.crm]\nfirst_use = "pin"\nunsafe_unpinned = ["_meta"]'
    assert read(tmp_path, text.replace("[upstreams.crm]", own)).pin_rules["crm"] == PinRule(FirstUse.PIN, ("_meta",))


def test_only_a_server_that_the_guard_starts_can_be_shared(tmp_path: Path) -> None:
    assert not read(tmp_path, GOOD).upstreams["crm"].share
    assert read(tmp_path, GOOD.replace("[upstreams.crm]", "[upstreams.crm]\nshare = true")).upstreams["crm"].share
    with pytest.raises(ConfigError, match="`share` cannot be combined with `url`"):
        read(tmp_path, f'{GOOD}\n[upstreams.far]\nurl = "https://far.example/mcp"\nshare = true')


def test_byte_order_mark_of_an_editor_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "mcp-guard.toml"
    path.write_text("\ufeff" + GOOD)
    assert list(load(path).upstreams) == ["crm"]
    path.write_text("\ufeff" + GOOD + "[nonsense]\n")
    with pytest.raises(ConfigError, match=r"toml:\d+: nonsense"):
        load(path)


def test_missing_file_is_named_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml")
    assert f"no configuration at `{tmp_path / 'none.toml'}`" in str(caught.value)
    assert "hint: if you have a guard, set MCP_GUARD_CONFIG to" in str(caught.value)
    assert "create one with `mcp-guard init`" in str(caught.value)


ROUTE = '[routes.people]\napprovers = ["alice"]\n'
PEOPLE = '[approvers.alice]\nname = "Alice"\n'
DEAL = '[tools."crm__x"]\nresource = { type = "Deal", id = "/id" }\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[guard\n", "not TOML"),
        ("", "guard: this key is required"),
        (GOOD.replace("[guard]", "[guard]\nhold = 3"), "guard.hold: unknown key"),
        (GOOD.replace("[guard]", '[guard]\nhold_seconds = "x"'), "guard.hold_seconds: must be a number"),
        (GOOD.replace("[guard]", "[guard]\nhold_seconds = -1"), "guard.hold_seconds"),
        (GOOD.replace("[guard]", "[guard]\nhold_second = 1"), "unknown key; did you mean `hold_seconds`?"),
        (GOOD + '[aproovers.x]\nname = "X"', "aproovers: unknown key; did you mean `approvers`?"),
        (GOOD.replace("command", "comand"), "upstreams.crm.comand: unknown key; did you mean `command`?"),
        (GOOD + '[tools."crm__x".facts]\ntol = "y"', "facts.tol: unknown key; did you mean `tool`?"),
        (GOOD + '[tools."crm__x"]\nask = "reason"', "tools.crm__x.ask: must be a list: […]"),
        (GOOD.replace("[guard]", '[guard]\nmode = "watch"'), "must be 'enforce' or 'observe', not `watch`"),
        (GOOD.replace("[guard]", '[guard]\nticket_pattern = "("'), "guard.ticket_pattern"),
        (GOOD.replace("[guard]", '[guard]\ntime_zone = "Berlin"'), "guard.time_zone: `Berlin` is not a time zone"),
        (GOOD.replace("[guard]", '[guard]\ntime_zone = "Berlin"'), "did you mean `Europe/Berlin`?"),
        (GOOD.replace("[guard]", '[guard]\ntime_zone = "Europe/Berln"'), "did you mean `Europe/Berlin`?"),
        (GOOD.replace("[guard]", '[guard]\ntime_zone = "../etc/passwd"'), "write an IANA name such as"),
        (GOOD.replace("[guard]", '[guard]\ntime_zone = "Europe"'), "guard.time_zone: `Europe` is not"),
        (GOOD + '[serve]\norigins = ["*"]', "serve.origins: name each one; `*` matches nothing"),
        (GOOD.replace("[guard]", '[guard]\norigin = "a b"'), "guard.origin: `a b` contains a space"),
        (
            GOOD.replace("[guard]", '[guard]\nfirst_use = "trust"'),
            "guard.first_use: must be 'first-listing'",
        ),
        (GOOD.replace("[upstreams.crm]", '[upstreams.crm]\nunsafe_unpinned = ["_meta", "title"]'), "`title` is always"),
        (
            GOOD.replace("[guard]", "[guard]\nplain_names = true") + '[upstreams.erp]\ncommand = "erp"',
            "guard.plain_names: plain names require exactly one upstream",
        ),
        (GOOD.replace("upstreams.crm", "upstreams.CRM"), "`CRM` cannot prefix tool names"),
        (GOOD.replace("upstreams.crm", "upstreams.a__b"), "`a__b` cannot prefix tool names"),
        (GOOD.replace('owner = "bob"', ""), "agents.worker.owner: this key is required"),
        (GOOD.replace('owner = "bob"', 'owner = ""'), "agents.worker.owner: must have 1 or more characters"),
        (GOOD + '[tools."erp__x"]\neffect = "read"', "tools.erp__x: upstream `erp` is not configured"),
        (GOOD + '[tools."crm__x"]\neffect = "reads"', "tools.crm__x.effect"),
        (GOOD + DEAL, "tools.crm__x.resource.type: type `Deal` is not configured"),
        (GOOD + '[resources.Agent.attributes]\nx = "string"', "resources.Agent: this type is reserved for the guard"),
        (GOOD + '[resources.Deal.attributes]\nx = "text"', "resources.Deal.attributes.x"),
        (GOOD + ROUTE, "routes.people.approvers: approver `alice` is not configured"),
        (GOOD + "[routes.people]\napprovers = []", "routes.people.approvers"),
        (GOOD + DRILLED.replace('drills = "1 in 20"', 'drills = "5%"'), "routes.people.drills: `5%` is no rate"),
        (GOOD + DRILLED.replace('drills = "1 in 20"', ""), "routes.people.drills: no rate says how often"),
        (GOOD + DRILLED.partition("[[")[0], "nothing says what is wrong in a drill; add [[routes.people.drill]]"),
        (GOOD + DRILLED.replace("crm__x", "erp__x"), "routes.people.drill.tool: upstream `erp` is not configured"),
        (GOOD + DRILLED.replace("multiply = { n = 100 }", ""), "nothing makes the request wrong"),
        (GOOD + DRILLED + 'borrow = ["n"]', "an argument is changed twice"),
        (
            GOOD.replace("[guard]", '[guard]\npolicy_approval = "people"') + DRILLED,
            "routes.people.drills: the route approves policies",
        ),
        (GOOD + PEOPLE + ROUTE + "quorum = 2", "routes.people.quorum: quorum 2 exceeds the route's 1 approver"),
        (GOOD + PEOPLE + ROUTE + 'escalate_to = "people"', "routes.people.escalate_to: `people` is not another route"),
        (GOOD + PEOPLE + ROUTE + 'notify = ["desk"]', "routes.people.notify: notifier `desk` is not configured"),
        (GOOD + '[notifiers.x]\nkind = "pigeon"', "notifiers.x"),
        (GOOD + '[notifiers.x]\nkind = "slack"\nurl = "https://hooks"', "notifiers.x.slack.url"),
        (GOOD + '[notifiers.x]\nkind = "slack"\nurl = {}', "give one source of the secret"),
        (GOOD.replace("upstreams.crm", "upstreams.guard"), "`guard` is the prefix of the guard's own tools"),
        (GOOD + "[rates.x-y]\nwindow_seconds = 1", "rates.x-y"),
        (GOOD + "[limits]\ndepth = 1000", "limits.depth"),
        (GOOD + '[ledger]\nsigner = "post-it"', "ledger.signer"),
        (GOOD + '[ledger]\ndatabase = "postgresql://guard:pw@db/x"', "from a variable: { env = "),
        (GOOD + '[ledger]\nsigner = { command = ["sign"], public = "x" }', "not a verifier key"),
        (GOOD + '[ledger]\nsigner = { command = [], public = "x" }', "ledger.signer"),
        (GOOD + '[witnesses."../x"]\nkind = "file"\npath = "x"', "witnesses.../x"),
        (GOOD + '[witnesses.x]\nkind = "pigeon"', "witnesses.x"),
        (GOOD + '[witnesses.x]\nkind = "git"\nremote = "--upload-pack=x"', "witnesses.x.git.remote"),
        (GOOD + '[witnesses.x]\nkind = "file"\npath = "x"\nevery_seconds = 0', "witnesses.x.file.every_seconds"),
        (
            GOOD + '[witnesses.x]\nkind = "cosignature"\nurl = "https://w"\nkey = "w+1+AQ=="',
            "not a verifier key of kind 4",
        ),
    ],
)
def test_an_error_names_the_key(tmp_path: Path, text: str, expected: str) -> None:
    message = refused(tmp_path, text)
    assert expected in message
    assert str(tmp_path / "mcp-guard.toml") in message


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("[guard]\npolicies = p\n", "2:12", "not TOML: Invalid value"),
        (GOOD + "[agents.worker]\n", "8:15", "not TOML: Cannot declare ('agents', 'worker') twice"),
        (GOOD.replace("[guard]", '[guard]\nmode = "watch"'), "3", "guard.mode: must be"),
        (GOOD + '\n[routes.people]\n# two of them\napprovers = [\n  "alice",\n]\n', "11", "routes.people.approvers: "),
        (GOOD + "[approvers.alice]\n", "8", "approvers.alice.name: this key is required"),
        (GOOD + PEOPLE.replace("Alice", "A") + ROUTE.replace("alice", "alcie"), "11", "did you mean `alice`?"),
        (GOOD + PEOPLE + ROUTE + 'notify = ["desk"]', "12", "routes.people.notify: notifier `desk`"),
        (GOOD + '[tools."crm__x"]\nverb = """\na\nb"""\neffect = "reads"', "12", "tools.crm__x.effect: must be"),
        (GOOD + '[tools."cmr__x"]\neffect = "read"', "8", "upstream `cmr` is not configured; did you mean `crm`?"),
        (GOOD + '[tools."update"]\neffect = "read"', "8", "write `SERVER__TOOL`, such as `crm__update`"),
        (GOOD + '[rates.r]\nwindow_seconds = 1\ntools = ["cmr__x"]', "10", "rates.r.tools: upstream `cmr` is not"),
        (GOOD + '[notifiers.x]\nkind = "slack"\nurl = "https://hooks"', "10", "notifiers.x.slack.url: "),
        (
            GOOD + PEOPLE + "[[approvers.alice.identities]]\nissuer = 'i'\nsubject = 's'\n"
            "[[approvers.alice.identities]]\nissuer = 'i'",
            "13",
            "approvers.alice.identities.1.subject: this key is required",
        ),
        (
            GOOD.replace('"crm"', '"crm"\nenv = { A = 3 }'),
            "8",
            'env.A: must be text: "…", or a reference to the secret: ',
        ),
        (GOOD.replace('"crm"', '"crm"\nenv = { A = { en = "x" } }'), "8", "env.A.en: unknown key; did you mean `env`?"),
        (GOOD + '[rates.r]\nwindow_seconds = 1\nby = "agnt"', "10", "rates.r.by: must be 'instance', 'agent', "),
        (GOOD + BY_ARGUMENT, "10", "rates.r.by: names an argument that tools.crm__x.redact keeps out of the ledger"),
        (
            GOOD + BY_ARGUMENT.split("tools", maxsplit=1)[0],
            "8",
            'rates.r: `by = ["argument:…"]` requires the tools that have it: ',
        ),
        (GOOD + STEP.replace("crm__x", "cmr__x"), "9", "sequences.s.tools: upstream `cmr` is not configured; did you"),
        (GOOD + STEP.replace('["crm__x"]', "[]"), "9", "sequences.s.tools: "),
        (GOOD + STEP + 'counts = "refused"', "10", "sequences.s.counts: must be 'succeeded', 'started' or 'denied'"),
        (GOOD + STEP + 'by = "agent"', "8", 'sequences.s: without "instance" in `by`, say how old the earlier call'),
        (GOOD + STEP + 'earlier = "/id"', "8", "sequences.s: `earlier` is where the earlier call has what is compared"),
        (GOOD + STEP + REDACTED, "8", "sequences.s: names an argument that tools.crm__x.redact keeps out of"),
        (GOOD + STEP + "[rates.s]\nwindow_seconds = 1", "8", "sequences.s: there is a rate of this name"),
        (GOOD + '[network]\nproxy = "x"', "9", "network.proxy: must be an address that begins with https:// or "),
        (GOOD.replace('"crm"', '"crm"\nurl = "https://crm"'), "6", "both `command` and `url` are given"),
        (
            GOOD.replace('command = "crm"', 'args = ["x"]'),
            "6",
            "set either `command`, which starts the server, or `url`",
        ),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, text: str, line: str, expected: str) -> None:
    message = refused(tmp_path, text).splitlines()[0]
    assert message.startswith(f"{tmp_path / 'mcp-guard.toml'}:{line}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = " + "[" * 3000, "not TOML"),
        (f"a = {'9' * 5000}", "not TOML"),
        ('[guard]\npolicies = "p\\u0000"\n[upstreams.up]\ncommand = "x"', "the character U"),
        ('[guard]\npolicies = "p"\nticket_pattern = "a{99999999999}"\n[upstreams.up]\ncommand = "x"', "regular expr"),
    ],
)
def test_unrepresentable_value_is_refused_with_a_hint(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=expected) as refused:
        load(tmp_path / "c.toml")
    assert refused.value.hint


def test_signers_are_the_current_and_the_next(tmp_path: Path) -> None:
    line = note.verifier("mcp-guard.local/ledger", bytes(32))
    command = f'{{ command = ["sign", "slot 9c"], public = "{line}" }}'
    settings = read(tmp_path, GOOD + f'[ledger]\nsigner = "keyring"\nnext_signer = {command}\n')
    first, second = settings.signers
    assert first.kind == "keyring"
    assert second == SignerSettings("command", ("sign", "slot 9c"), line, 5, tmp_path)
    assert [signer.kind for signer in read(tmp_path, GOOD).signers] == ["file"]


def test_every_kind_of_witness_can_be_configured(tmp_path: Path) -> None:
    assert {
        get_args(model.model_fields["kind"].annotation)[0] for model in get_args(get_args(WitnessConfig)[0])
    } == set(WITNESSES)
    hook = '[witnesses.x]\nkind = "webhook"\nurl = "https://w"\nsecret = { env = "S" }\nevery_receipts = 9\n'
    witness = read(tmp_path, GOOD + hook).witnesses["x"]
    assert (witness.kind, witness.base_dir, witness.every_receipts) == ("webhook", tmp_path, 9)
    assert set(witness.options) == {"url", "secret"}


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    message = refused(tmp_path, "[guard]\nx = 1\ny = 2\n")
    assert len(message.splitlines()) == 4  # x, y, policies, and the hint


OLD_VERB = '[tools."crm__update_deal"]\ndeed = "updated deal"\n[tools."crm__add_note"]\ndeed = "added a note"\n'


def test_the_old_key_of_verb_still_works_and_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = read(tmp_path, GOOD + OLD_VERB).tool_rules
    assert rules["crm__update_deal"].verb == "updated deal"
    load(tmp_path / "mcp-guard.toml")
    assert capsys.readouterr().err == (
        f"mcp-guard: {tmp_path / 'mcp-guard.toml'}: `deed` is deprecated\nhint: rename `deed` to `verb` in [tools]\n"
    )


def test_verb_is_read_without_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = read(tmp_path, GOOD + OLD_VERB.replace("deed", "verb")).tool_rules
    assert rules["crm__add_note"].verb == "added a note"
    assert capsys.readouterr().err == ""


def test_verb_and_its_old_key_together_are_refused(tmp_path: Path) -> None:
    text = GOOD + '[tools."crm__update_deal"]\nverb = "updated deal"\ndeed = "updated deal"\n'
    assert "`deed` is the old name of `verb`: remove `deed` and keep `verb`" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('sensitive = ["amount"]', "sensitive"),
        ('redact = ["/amount"]', "redacted"),
        ('redact = ["/amount/iban"]', "redacted"),
        ('redact = ["/*/iban"]', "redacted"),
    ],
)
def test_notifications_cannot_carry_a_confidential_field(tmp_path: Path, keys: str, why: str) -> None:
    tool = f'\n[tools."crm__pay"]\nnotify_fields = ["amount"]\n{keys}\n'
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD + tool)
    assert f"`notify_fields` must not contain `amount`: it is {why}, and notifications leave the guard" in str(
        caught.value
    )
    assert read(tmp_path, GOOD + tool.replace(keys, "")).tool_rules["crm__pay"].notify_fields == ("amount",)
