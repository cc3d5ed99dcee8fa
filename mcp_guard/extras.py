"""The packages that only some configurations need: the extra that brings them, and what in a configuration needs them.

`EXTRAS` is the complete list. To add one, add its row, the extra in pyproject.toml and a line in docs/howto/install.md.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.configured_secrets import configured_secrets
from mcp_guard.settings import SecretReference, Settings

LOCK = "requirements-all.lock"
"""The file of a release that pins what all extras bring."""


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of pyproject.toml, modules of the packages that it brings, and the settings that need them, in words."""

    name: str
    modules: tuple[str, ...]
    needed_by: Callable[[Settings], Iterator[str]]


@dataclass(frozen=True, slots=True)
class MissingExtra:
    """An extra that a configuration needs and that is not installed."""

    what: str
    hint: str


def _keyring(settings: Settings) -> Iterator[str]:
    if any(signer.kind == "keyring" for signer in settings.signers):
        yield '`ledger.signer = "keyring"`'
    for name, server in settings.upstreams.items():
        if server.oauth and server.oauth.in_keyring:
            yield f'`upstreams.{name}.oauth.keep = "keyring"`'
    references = [secret.reference for secret in configured_secrets(settings)]
    for entry in dict.fromkeys(reference.name for reference in references if reference.source == "keyring"):
        yield f'the secret `{{ keyring = "{entry}" }}`'


def _postgres(settings: Settings) -> Iterator[str]:
    if isinstance(settings.database, SecretReference):
        yield "`ledger.database`"


def _metrics(settings: Settings) -> Iterator[str]:
    if settings.telemetry and settings.telemetry.metrics:
        yield "`telemetry.metrics`"


def _traces(settings: Settings) -> Iterator[str]:
    if settings.telemetry and settings.telemetry.otlp_endpoint:
        yield "`telemetry.otlp_endpoint`"


def _oidc(settings: Settings) -> Iterator[str]:
    if settings.web and settings.web.provider:
        yield "`[web.oidc]`"


def _timestamps(settings: Settings) -> Iterator[str]:
    for name, witness in settings.witnesses.items():
        if witness.kind == "rfc3161":
            yield f'`witnesses.{name}.kind = "rfc3161"`'


EXTRAS = (
    Extra("keyring", ("keyring",), _keyring),
    Extra("oidc", ("authlib.oidc.core", "joserfc.jwt"), _oidc),
    Extra("postgres", ("psycopg",), _postgres),
    Extra("proofs", ("cvc5",), lambda _: iter(())),  # only `policy prove` needs it
    Extra("telemetry", ("prometheus_client",), _metrics),
    Extra("telemetry", ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.common"), _traces),
    Extra("timestamps", ("rfc3161_client",), _timestamps),
)


def needed_extras(settings: Settings) -> Iterator[tuple[Extra, str]]:
    """Each extra that a part of the configuration needs, with that part in words."""
    for extra in EXTRAS:
        for what in extra.needed_by(settings):
            yield extra, what


def missing_extras(settings: Settings) -> list[MissingExtra]:
    """What the configuration needs and cannot be imported. Imports the rest: for commands that look for problems."""
    missing = []
    for extra, what in needed_extras(settings):
        for module in extra.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                missing.append(lacks(what, extra.name, error))
                break
    return missing


def lacks(what: str, extra: str, error: ImportError) -> MissingExtra:
    """That this needs a package of this extra, which could not be imported."""
    module = f": {error.name}" if error.name else f" in full: {error}"
    pip = Path(sys.prefix) / "bin" / "pip"
    return MissingExtra(
        f"{what} requires a package that is not installed{module}",
        f"install the extra `{extra}`, with the release's {LOCK}: {pip} install --require-hashes -r {LOCK}",
    )
