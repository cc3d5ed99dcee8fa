"""`mcp-guard policy export` and `policy schema`: plain Cedar and its schema, for Cedar's tools, editors and people."""

import argparse
from pathlib import Path

from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_code, print_json, print_text
from mcp_guard.cli.policy.inputs import known_schema
from mcp_guard.config import load
from mcp_guard.core.errors import PolicyError
from mcp_guard.policy.authoring.export import plain_schema, plain_text
from mcp_guard.policy.authoring.schema_text import canonical_json, human
from mcp_guard.policy.source import read_policies

POLICIES, SCHEMA = "policies.cedar", "schema.cedarschema"


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    policies = read_policies(settings.policies, tuple(settings.routes)).policies
    schema, source = known_schema(settings, options.live, options.json)
    text, typed = plain_text(policies), human(plain_schema(schema)) if schema else None
    if options.json:
        print_json({"policies": text, "schema": typed, "routes": list(settings.routes)})
        return 0
    if options.out is None:
        print_code(text)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / POLICIES).write_text(text)
    if typed is not None:
        (options.out / SCHEMA).write_text(typed)
    print_text(f"{len(policies)} policies in `{options.out}`; {source}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "policy export",
        'Export plain Cedar for analysis, with gates as `unless { context.approvals.contains("route") }`.',
    )
    parser.add_argument(
        "--live", action="store_true", help="start the upstreams instead of using the tools listed last"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"write {POLICIES} and {SCHEMA} there")
    add_json(parser)
    return parser


def schema(arguments: list[str]) -> int:
    options = build_schema_parser().parse_args(arguments)
    schema, _ = known_schema(load(options.config), options.live, options.json)
    if schema is None:
        raise PolicyError("no tools are known yet", "start the upstreams: mcp-guard policy schema --live")
    schema = plain_schema(schema) if options.plain else schema
    text = canonical_json(schema) if options.json else human(schema)
    if options.out:
        options.out.write_text(text)
    else:
        print_code(text)
    return 0


def build_schema_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "policy schema", "Print the Cedar schema of the tools, in Cedar syntax, or as JSON with --json."
    )
    parser.add_argument(
        "--live", action="store_true", help="start the upstreams instead of using the tools listed last"
    )
    parser.add_argument("--plain", action="store_true", help="the schema for exported policies, with context.approvals")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it to a file (such as policies/mcp.cedarschema)"
    )
    add_json(parser)
    return parser
