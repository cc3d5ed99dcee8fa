"""What the documents show is so: their configurations load, their policies fit, their lists are complete."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from mcp_guard.app import listed_tools, policy_world
from mcp_guard.cli import COMMANDS, EXIT_CODES
from mcp_guard.config import load
from mcp_guard.core.receipt import KINDS
from mcp_guard.policy.engine import load_policies

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def block(text: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial/first-guard.md"])
def test_the_configuration_and_policies_it_shows_work(tmp_path: Path, document: str) -> None:
    text = (ROOT / document).read_text()
    server = str(Path(sys.executable).with_name("mcp-server-git"))
    config = block(text, "toml").replace('"mcp-server-git"', f'"{server}"')
    config = config.replace("/home/you/project", str(ROOT)).replace('"project"', f'"{ROOT}"')
    (tmp_path / "mcp-guard.toml").write_text(config)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "git.cedar").write_text(block(text, "cedar"))
    settings = load(tmp_path / "mcp-guard.toml")
    tools, absent = asyncio.run(listed_tools(settings))
    engine = load_policies(settings.policies, policy_world(settings, tools, absent))
    assert engine.dormant == ()


def test_the_command_line_reference_is_complete() -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    assert set(COMMANDS) <= set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes == {0, 1, 2, 130, *EXIT_CODES.values()}


def test_the_receipt_reference_names_every_kind() -> None:
    text = (DOCS / "reference" / "receipts.md").read_text()
    for kind in KINDS:
        family, _, name = kind.partition(".")
        assert f"`{kind}`" in text or (f"`{family}." in text and f"`.{name}`" in text), kind


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document}: {target}"


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (DOCS / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_code_refers_to_decisions_that_exist() -> None:
    known = {path.name[:4] for path in (DOCS / "decisions").glob("*.md")}
    for path in (ROOT / "mcp_guard").rglob("*.py"):
        for number in re.findall(r"decisions/(\d{4})", path.read_text()):
            assert number in known, path
