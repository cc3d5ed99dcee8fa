"""What the configuration of notifiers refuses, and how it says so."""

from pathlib import Path

import pytest

from mcp_guard.config.file import check
from mcp_guard.configured_secrets import configured_secrets
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


SECOND = f'[notifiers.two]\nkind = "slack"\n{APP}{VOTES}'.replace("T012AB3CD", "T0SECOND")
SLACK_USER, ACCEPT = 'slack = "U012AB3CD"', 'accept = ["slack"]'


def test_routes_that_accept_slack_know_its_users_and_follow_its_messages(tmp_path: Path) -> None:
    text = config(f'kind = "slack"\n{APP}{VOTES}', route=ACCEPT, approver=SLACK_USER, more=WEB)
    settings = check(text, tmp_path / "mcp-guard.toml")
    assert settings.slack_users == {("T012AB3CD", "U012AB3CD"): "alice"}
    assert settings.routes["people"].accept == ("slack",)
    assert settings.routes["people"].follow == ("one",)
    secrets = {secret.key for secret in configured_secrets(settings)}
    assert secrets >= {"notifiers.one.token", "notifiers.one.signing_secret"}


def test_slack_user_is_one_of_a_workspace(tmp_path: Path) -> None:
    users = 'slack = "T012AB3CD/U012AB3CD"\n[approvers.bob]\nname = "Bob"\nslack = "T0SECOND/U012AB3CD"'
    text = config(f'kind = "slack"\n{APP}{VOTES}', route=ACCEPT, approver=users, more=SECOND + WEB)
    settings = check(text, tmp_path / "mcp-guard.toml")
    assert settings.slack_users == {("T012AB3CD", "U012AB3CD"): "alice", ("T0SECOND", "U012AB3CD"): "bob"}


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
        (
            config(f'kind = "slack"\n{APP}{VOTES}', approver=SLACK_USER, more=SECOND),
            'say of which of the workspaces T012AB3CD, T0SECOND the user is: slack = "T012AB3CD/U012AB3CD"',
        ),
        (
            config(f'kind = "slack"\n{APP}{VOTES}', approver='slack = "T0OTHER/U012AB3CD"'),
            "no notifier has team `T0OTHER`",
        ),
        (
            config(
                f'kind = "slack"\n{APP}{VOTES}',
                approver='slack = "T012AB3CD/U012AB3CD"',
                more=f'[approvers.bob]\nname = "Bob"\n{SLACK_USER}',
            ),
            "is already that of approvers.alice",
        ),
        (
            config(
                f'kind = "slack"\n{APP}{VOTES}',
                route=ACCEPT,
                approver='slack = "T0SECOND/U012AB3CD"',
                more=SECOND + WEB,
            ),
            "none of its approvers has a Slack user",
        ),
        (config('kind = "push"'), "push needs the pages"),
        (config('kind = "push"\nservices = ["https://push.example"]', more=WEB), "must"),
    ],
)
def test_notifiers_that_cannot_work_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(text, tmp_path / "mcp-guard.toml")
    assert problem in str(refused.value)
