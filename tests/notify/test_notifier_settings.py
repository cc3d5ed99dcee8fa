"""What the configuration of notifiers refuses, and how it says so."""

from pathlib import Path

import pytest

from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError

APP = """token = { env = "TOKEN" }
channel = "C012AB3CD"
"""
VOTES = """signing_secret = { env = "SIGNING" }
team = "T012AB3CD"
"""
OIDC = '[web.oidc]\nissuer = "https://idp.example.com"\nclient_id = "guard"\n'
WEB = '[web]\nurl = "https://guard.example.com"\n'


def config(notifier: str, *, route: str = "", approver: str = "", more: str = "") -> str:
    return f"""
[guard]
policies = "policies"
[approvers.alice]
name = "Alice"
{approver}
[routes.people]
approvers = ["alice"]
notify = ["one"]
{route}
[notifiers.one]
{notifier}
{more}
"""


SLACK_USER, ACCEPT = 'slack = "U012AB3CD"', 'accept = ["slack"]'


def test_routes_that_accept_slack_know_its_users_and_follow_its_messages(tmp_path: Path) -> None:
    text = config(f'kind = "slack"\n{APP}{VOTES}', route=ACCEPT, approver=SLACK_USER, more=WEB)
    settings = check(text, tmp_path / "mcp-guard.toml")
    assert settings.slack_users == {"U012AB3CD": "alice"}
    assert settings.routes["people"].accept == ("slack",)
    assert settings.routes["people"].follow == ("one",)
    assert {secret.key for secret in settings.secrets} >= {"notifiers.one.token", "notifiers.one.signing_secret"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (config('kind = "slack"'), "give either `url`"),
        (config(f'kind = "slack"\nurl = {{ env = "U" }}\n{APP}'), "give either `url`"),
        (config('kind = "slack"\nchannel = "C0"'), "an app needs both"),
        (config(f'kind = "slack"\n{APP}team = "T0"'), "buttons that decide need an app"),
        (config(f'kind = "slack"\n{APP}', route=ACCEPT, approver=SLACK_USER, more=WEB), "notify` needs a notifier"),
        (config(f'kind = "slack"\n{APP}{VOTES}', route=ACCEPT, more=WEB), "none of its approvers has a Slack user"),
        (config(f'kind = "slack"\n{APP}{VOTES}', route=ACCEPT, approver=SLACK_USER), "add [web]"),
        (
            config(
                f'kind = "slack"\n{APP}{VOTES}', route=f"{ACCEPT}\nmfa = true", approver=SLACK_USER, more=WEB + OIDC
            ),
            "which Slack does not tell",
        ),
        (
            config(
                f'kind = "slack"\n{APP}',
                approver=SLACK_USER,
                more=f'[approvers.bob]\nname = "Bob"\n{SLACK_USER}',
            ),
            "is already that of approvers.alice",
        ),
        (config('kind = "push"'), "push needs the pages"),
        (config('kind = "push"\nservices = ["https://push.example"]', more=WEB), "must"),
    ],
)
def test_notifiers_that_cannot_work_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(text, tmp_path / "mcp-guard.toml")
    assert problem in str(refused.value)
