"""What the documents show is so: their configurations load, their policies fit, their lists are complete."""

import re
from pathlib import Path

from mcp_guard.cli import COMMANDS, EXIT_CODES
from mcp_guard.core.receipt import KINDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


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


ARCHITECTURE = (DOCS / "explanation" / "architecture.md").read_text()


def test_the_architecture_speaks_of_files_that_are_there() -> None:
    named = re.findall(r"`((?:mcp_guard|tests|docs|config\.)[\w./-]*)`", ARCHITECTURE)
    assert len(named) > 80
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_is_to_be_changed_is_in_the_file_that_the_architecture_names() -> None:
    answers = ARCHITECTURE.partition("## Where would I change")[2]
    pairs = re.findall(r"`([\w./]+\.py)` \((`\w+`(?:, `\w+`)*)\)", answers)
    assert len(pairs) > 20
    for file, symbols in pairs:
        for symbol in re.findall(r"\w+", symbols):
            assert re.search(rf"^(class |def )?{symbol}\b", (ROOT / file).read_text(), re.MULTILINE), (file, symbol)


def test_every_room_of_the_house_is_in_the_architecture() -> None:
    rooms = [path.name for path in (ROOT / "mcp_guard").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`mcp_guard/{room}/`" not in ARCHITECTURE] == []
