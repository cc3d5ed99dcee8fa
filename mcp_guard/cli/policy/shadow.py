"""`mcp-guard policy shadow`: what the shadow policies said, beside what was decided."""

import json

from mcp_guard.cli.ledger_file import open_for_reading, parser
from mcp_guard.cli.policy.kept import add_span, decisions, versions
from mcp_guard.cli.policy.replay import as_json, show
from mcp_guard.ledger.verify.progress import Progress
from mcp_guard.policy.replay import shadowed


def main(arguments: list[str]) -> int:
    """Exit codes: 0 never more permissive, 1 more permissive."""
    made = parser("policy shadow", "Compare what the shadow policies ([guard] shadow) said with what was decided.")
    add_span(made)
    options = made.parse_args(arguments)
    store = open_for_reading(options)
    with Progress("decisions", options.json) as progress:
        done = shadowed(decisions(store, options.since, options.last, progress.tell), versions(store))
    if options.json:
        print(json.dumps(as_json(done), indent=2, ensure_ascii=False))
    else:
        show(done)
    return 0 if done.never_more_permissive else 1
