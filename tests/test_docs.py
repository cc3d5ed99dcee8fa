"""The documentation is correct: its lists are complete, its links resolve, and the files and symbols it names exist."""

import re
from functools import cache
from itertools import chain, count
from pathlib import Path

from mcp_guard.cli import COMMANDS, EXIT_CODES
from mcp_guard.cli.policy.prove import CODES
from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.receipt import KINDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_the_command_line_reference_is_complete() -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    assert set(COMMANDS) <= set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes == {0, 1, 2, 130, *EXIT_CODES.values(), *CODES.values()}


def test_the_receipt_reference_names_every_kind() -> None:
    text = (DOCS / "reference" / "receipts.md").read_text()
    for kind in KINDS:
        family, _, name = kind.partition(".")
        assert f"`{kind}`" in text or (f"`{family}." in text and f"`.{name}`" in text), kind


def test_the_page_on_approvals_names_every_state() -> None:
    page = (DOCS / "howto/approvals.md").read_text()
    assert [state for state in ApprovalState if f"| `{state}` |" not in page] == []


def test_links_between_documents_resolve() -> None:
    linking = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    assert ROOT / "CHANGELOG.md" in linking
    for document in linking:
        for file, anchor in re.findall(r"\]\((?![^)]*://)([^)#]*)#?([^)]*)\)", without_code(document)):
            target = document.parent / file if file else document
            assert target.exists(), f"{document}: {file}"
            assert not anchor or anchor in anchors(target), f"{document}: {file}#{anchor}"


@cache
def anchors(document: Path) -> set[str]:
    """What GitHub makes of its headings; a heading that is there twice gets a number."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", without_code(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w -]", "", text).replace(" ", "-")
        found.add(next(free for free in chain([name], (f"{name}-{n}" for n in count(1))) if free not in found))
    return found


def without_code(document: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (DOCS / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_code_refers_to_decisions_that_exist() -> None:
    known = {path.name[:4] for path in (DOCS / "decisions").glob("*.md")}
    for path in (ROOT / "mcp_guard").rglob("*.py"):
        for number in re.findall(r"decisions/(\d{4})", path.read_text()):
            assert number in known, path


ARCHITECTURE = (DOCS / "explanation" / "architecture.md").read_text()


def test_files_named_in_the_architecture_exist() -> None:
    named = re.findall(r"`((?:mcp_guard|tests|docs|config\.)[\w./-]*)`", ARCHITECTURE)
    assert len(named) > 80
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_files_named_in_the_architecture_contain_the_symbols_named() -> None:
    answers = ARCHITECTURE.partition("## Where would I change")[2]
    pairs = re.findall(r"`([\w./]+\.py)` \((`\w+`(?:, `\w+`)*)\)", answers)
    assert len(pairs) > 20
    for file, symbols in pairs:
        for symbol in re.findall(r"\w+", symbols):
            assert re.search(rf"^(class |def )?{symbol}\b", (ROOT / file).read_text(), re.MULTILINE), (file, symbol)


def test_the_architecture_names_every_package() -> None:
    packages = [path.name for path in (ROOT / "mcp_guard").iterdir() if (path / "__init__.py").exists()]
    assert [package for package in packages if f"`mcp_guard/{package}/`" not in ARCHITECTURE] == []


def test_the_threat_model_names_every_adversary_test() -> None:
    table = (DOCS / "explanation" / "threat-model.md").read_text().partition("## Attacks")[2].partition("\n## ")[0]
    files = {path.name for path in (ROOT / "tests" / "adversary").glob("test_*.py")}
    assert set(re.findall(r"tests/adversary/(\w+\.py)", table)) == files
