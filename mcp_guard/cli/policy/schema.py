"""`mcp-guard policy schema`: the schema that the policies are checked against, for people and editors."""

from pathlib import Path

from mcp_guard.cli.options import add_json, parser
from mcp_guard.cli.policy.kept import known_schema
from mcp_guard.config import load
from mcp_guard.core.errors import PolicyError
from mcp_guard.policy.export import plain_schema
from mcp_guard.policy.schema_text import canonical_json, human


def main(arguments: list[str]) -> int:
    made = parser(
        "policy schema", "Print the Cedar schema of the tools, in Cedar's syntax, or with --json in its JSON."
    )
    made.add_argument("--live", action="store_true", help="start the upstreams, instead of the tools last known")
    made.add_argument("--plain", action="store_true", help="for exported policies: with context.approvals")
    made.add_argument("--out", type=Path, metavar="FILE", help="write it to a file (such as policies/mcp.cedarschema)")
    add_json(made)
    options = made.parse_args(arguments)
    schema, _ = known_schema(load(options.config), options.live, options.json)
    if schema is None:
        raise PolicyError("no tools are known yet", "start the upstreams for it: mcp-guard policy schema --live")
    schema = plain_schema(schema) if options.plain else schema
    text = canonical_json(schema) if options.json else human(schema)
    if options.out:
        options.out.write_text(text)
    else:
        print(text, end="")
    return 0
