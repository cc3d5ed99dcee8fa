"""The configuration reference has every key of every model with its default, and no other key."""

import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mcp_guard.config import (
    file,
    hooks,
    ledger,
    network,
    notifiers,
    oidc,
    risk,
    routes,
    serve,
    telemetry,
    tools,
    types,
    upstreams,
    web,
)
from tests.docs.page import ROOT, fences
from tests.test_config import models

NO_KEY_OF_THEIR_OWN = {file.Config, notifiers.DesktopConfig, risk.RiskConfig, serve.JwksConfig}
"""Sections of sections, or what one row says."""
IN_ORDER: tuple[type[BaseModel], ...] = (
    file.GuardConfig, file.LimitsConfig, file.AgentConfig, upstreams.UpstreamConfig,
    upstreams.OAuthConfig, upstreams.IdentityProviderConfig,
    network.UpstreamNetworkConfig, tools.ToolConfig, tools.ResourceConfig, tools.FactsConfig,
    tools.ResourceTypeConfig, tools.UriConfig, tools.RateConfig, tools.SequenceConfig, file.ApproverConfig,
    file.PersonConfig, file.IdentityConfig, routes.RouteConfig, routes.DrillConfig, notifiers.WebhookConfig,
    notifiers.SlackConfig, notifiers.TeamsConfig, notifiers.PushConfig, notifiers.EmailConfig, notifiers.CommandConfig,
    file.InboxConfig, web.WebConfig, web.WebRolesConfig, oidc.OidcConfig, oidc.OidcRolesConfig,
    risk.SignalConfig, risk.DriftConfig,
    serve.ServeConfig, serve.ConnectConfig, hooks.HooksConfig, serve.IssuerConfig,
    ledger.LedgerConfig, ledger.SignerCommandConfig, ledger.WitnessBase, ledger.FileWitnessConfig,
    ledger.GitWitnessConfig, ledger.WebhookWitnessConfig, ledger.TimestampWitnessConfig,
    ledger.CosignatureWitnessConfig, network.NetworkConfig, telemetry.TelemetryConfig, types.SecretConfig,
)  # fmt: skip
"""The models whose keys are the tables of the page."""
PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text()


def shown(value: Any) -> str:
    """A default value as the page prints it."""
    match value:
        case None | () | "":
            return "–"
        case dict() | BaseModel() if not value or value == type(value)():
            return "–"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return f"`[{', '.join(shown(each).strip('`') for each in value)}]`"
        case Enum() | str() | Path():
            return f'`"{value}"`'
        case _:
            return f"`{value}`"


def keys(model: type[BaseModel]) -> dict[str, str]:
    """The keys in its own table, without those documented once for all kinds."""
    for_all = ledger.WitnessBase.model_fields if model is not ledger.WitnessBase else {}
    inherited = for_all if issubclass(model, ledger.WitnessBase) else {}
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    own = {name: field for name, field in fields.items() if name != "kind" and name not in inherited}
    return {name: "required" if field.is_required() else shown(field.default) for name, field in own.items()}


def test_every_configuration_model_is_checked() -> None:
    assert set(models(file.Config)) - NO_KEY_OF_THEIR_OWN <= set(IN_ORDER)


def test_each_table_has_the_keys_and_defaults_of_its_model() -> None:
    tables = PAGE.split("| Key | Default | Meaning |\n|---|---|---|\n")[1:]
    for model, table in zip(IN_ORDER, tables, strict=True):
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .*\|$", table, re.MULTILINE)
        assert dict(rows) == keys(model), model.__name__


ELSEWHERE = ("missing", "value_error")
"""Errors of a part of a configuration that the whole would not have: what it needs or refers to is not shown."""


def test_every_configuration_fragment_in_the_documents_is_valid() -> None:
    parts = [
        (document, tomllib.loads(text))
        for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for language, text in fences(document)
        if language == "toml"
    ]
    assert len(parts) > 20
    for document, part in parts:
        assert "case" in part or wrong(part) == [], document


def wrong(part: dict[str, Any]) -> list[Any]:
    try:
        file.Config.model_validate(part)
    except ValidationError as error:
        return [item for item in error.errors() if item["type"] not in ELSEWHERE]
    return []
