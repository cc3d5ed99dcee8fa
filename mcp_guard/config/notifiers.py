"""The sections `[notifiers.NAME]`: how people are told of requests."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mcp_guard.config.errors import nearest_or
from mcp_guard.config.types import ConfigModel, SecretConfig, Url


class DesktopConfig(ConfigModel):
    kind: Literal["desktop"]


class WebhookConfig(ConfigModel):
    kind: Literal["webhook"]
    url: Url
    secret: SecretConfig


class SlackConfig(ConfigModel):
    """An incoming webhook (`url`), or an app (`token` and `channel`), whose buttons decide with a `signing_secret`."""

    kind: Literal["slack"]
    url: SecretConfig | None = None
    token: SecretConfig | None = None
    channel: Annotated[str, Field(pattern=r"^[CDG][A-Z0-9]+$")] | None = None
    signing_secret: SecretConfig | None = None
    team: Annotated[str, Field(pattern=r"^T[A-Z0-9]+$")] | None = None
    api: Url = "https://slack.com/api"

    @model_validator(mode="after")
    def is_webhook_or_app(self) -> "SlackConfig":
        is_app = self.token is not None or self.channel is not None
        if (self.url is not None) == is_app:
            raise ValueError("give either `url`, for an incoming webhook, or `token` and `channel`, for an app")
        if is_app and (self.token is None or self.channel is None):
            raise ValueError("an app needs both `token` and `channel`")
        if (self.signing_secret is not None or self.team is not None) and not (is_app and self.takes_votes):
            raise ValueError("buttons that decide need an app with `signing_secret` and `team`")
        return self

    @property
    def takes_votes(self) -> bool:
        return self.signing_secret is not None and self.team is not None


class TeamsConfig(ConfigModel):
    kind: Literal["teams"]
    url: SecretConfig


class PushConfig(ConfigModel):
    """`services` are the hosts of further push services that browsers may name, `contact` is for their operators."""

    kind: Literal["push"]
    services: tuple[Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9.-]+(:\d{1,5})?$")], ...] = ()
    contact: Annotated[str, Field(pattern=r"^(mailto:.+@.+|https://.+)$")] | None = None


class EmailConfig(ConfigModel):
    kind: Literal["email"]
    host: str
    port: Annotated[int, Field(gt=0, lt=65536)] = 587
    sender: str
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    starttls: bool = True
    user: str | None = None
    password: SecretConfig | None = None


class CommandConfig(ConfigModel):
    kind: Literal["command"]
    command: Annotated[tuple[str, ...], Field(min_length=1)]


AnyNotifier = DesktopConfig | WebhookConfig | SlackConfig | TeamsConfig | PushConfig | EmailConfig | CommandConfig
NotifierConfig = Annotated[AnyNotifier, Field(discriminator="kind")]


def reports_end(notifier: AnyNotifier) -> bool:
    """Whether it tells of the end of a request, too."""
    return isinstance(notifier, TeamsConfig | PushConfig) or (
        isinstance(notifier, SlackConfig) and notifier.token is not None
    )


def slack_teams(notifiers: Iterable[AnyNotifier]) -> tuple[str, ...]:
    """The workspaces in which messages may have buttons that decide."""
    apps = [notifier for notifier in notifiers if isinstance(notifier, SlackConfig) and notifier.takes_votes]
    return tuple(dict.fromkeys(app.team for app in apps if app.team))


def slack_users(written: Mapping[str, str | None], notifiers: Iterable[AnyNotifier]) -> dict[tuple[str, str], str]:
    """The approvers by workspace and user; `written` is `slack` of each. Raises: ValueError."""
    teams = slack_teams(notifiers)
    users: dict[tuple[str, str], str] = {}
    for id, text in written.items():
        if text is None:
            continue
        key = f"approvers.{id}.slack"
        if (other := users.setdefault(_slack_user(key, text, teams), id)) != id:
            raise ValueError(f"{key}: `{text}` is already that of approvers.{other}")
    return users


def _slack_user(key: str, text: str, teams: tuple[str, ...]) -> tuple[str, str]:
    """An id is unique within its workspace, so it stands alone only if there is no other one."""
    team, _, user = text.rpartition("/")
    if team and teams and team not in teams:
        hint = nearest_or(team, teams, 'add `team` to a notifier of kind "slack"')
        raise ValueError(f"{key}: no notifier has team `{team}`; {hint}")
    if not team and len(teams) > 1:
        what = f"say of which of the workspaces {', '.join(teams)} the user is"
        raise ValueError(f'{key}: {what}: slack = "{teams[0]}/{user}"')
    return team or "".join(teams), user


def followers(names: tuple[str, ...], notifiers: Mapping[str, AnyNotifier]) -> tuple[str, ...]:
    return tuple(name for name in names if name in notifiers and reports_end(notifiers[name]))


def options_of(notifier: AnyNotifier) -> dict[str, object]:
    """The notifier's options by key, with references to secrets."""
    return {
        name: value.reference() if isinstance(value, SecretConfig) else value
        for name, value in notifier
        if name != "kind"
    }
