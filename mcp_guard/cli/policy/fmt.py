"""`mcp-guard policy fmt`: format the policy files, keeping comments."""

import argparse
import difflib
from pathlib import Path

from mcp_guard.cli.options import add_json, make_parser, whole_number
from mcp_guard.cli.output import print_code, print_json, print_text
from mcp_guard.config import load
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.visible_text import join
from mcp_guard.policy.authoring.formatting import WIDTH, format_policies
from mcp_guard.policy.source import read_files


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done, or nothing to do; 1 with --check if a file would change."""
    options = build_parser().parse_args(arguments)
    changed = {}
    for place in options.paths or [load(options.config).policies]:
        for name, text in read_files(place).items():
            path = place / name if place.is_dir() else place
            if (formatted := format_text(path, text, options.width)) != text:
                changed[path] = (text, formatted)
    for path, (_, formatted) in () if options.check else changed.items():
        path.write_text(formatted)
    if options.json:
        print_json({"changed": [str(path) for path in changed]})
        return 1 if options.check and changed else 0
    for path, (text, formatted) in changed.items():
        if options.check:
            name, lines = str(path), (text.splitlines(keepends=True), formatted.splitlines(keepends=True))
            print_code("".join(difflib.unified_diff(*lines, name, f"{name}, formatted")))
        else:
            print_text(f"formatted {path}")
    return 1 if options.check and changed else 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("policy fmt", "Format the policy files in place. Comments are kept.")
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="files or folders (default: the configured policies)"
    )
    parser.add_argument(
        "--check", action="store_true", help="show the changes without writing them; exit code 1 if there are any"
    )
    width = f"line width (default {WIDTH})"
    parser.add_argument("--width", type=whole_number(20), default=WIDTH, metavar="N", help=width)
    add_json(parser)
    return parser


def format_text(path: Path, text: str, width: int) -> str:
    """Raises: PolicyError for a file that Cedar cannot read, or that formatting would change in meaning."""
    try:
        formatted = format_policies(text, width)
    except ValueError:
        from mcp_guard.policy.positions import find_syntax_problems

        lines = (f"{path}:{problem.position}: {problem.text}" for problem in find_syntax_problems(text))
        raise PolicyError(join("\n", lines), "correct this first; nothing in the file was changed") from None
    if formatted is None:
        raise PolicyError(f"{path}: formatting would change its meaning, so it was not changed", "please report this")
    return formatted
