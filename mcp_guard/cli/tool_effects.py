"""`mcp-guard tools effects`, and the same at the end of `wrap`: confirm what the servers' hints say of their tools."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mcp_guard.cli import prompts
from mcp_guard.cli.client_files import config_option
from mcp_guard.cli.output import print_hint, print_json, print_lines, print_table, to_type
from mcp_guard.cli.upstreams import list_tools
from mcp_guard.clients.effects import EffectPlan, ToolEffect, plan_effects, read_effects
from mcp_guard.clients.files import FileSnapshot, read_file, write_file
from mcp_guard.clients.records import WrapRecords
from mcp_guard.config import load
from mcp_guard.config.file import check
from mcp_guard.core.tool_pins import Pin, find_quarantined
from mcp_guard.ledger.place import ledger_place
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import find_engine, open_read_only
from mcp_guard.storage.place import Place
from mcp_guard.verifier.report import count

UNTRUSTED = "A hint is a claim of the server. A call of a read may run without approval, so read the names first."


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of the listed tools, and the configuration with those that the hints propose."""

    settings: Settings
    file: FileSnapshot
    rows: Sequence[ToolEffect]
    absent: Sequence[str]
    plan: EffectPlan
    quarantined: Sequence[str] = ()
    """The tools that their servers call read-only, and whose definition nobody has accepted: nothing is proposed."""

    @property
    def proposed(self) -> list[ToolEffect]:
        return [row for row in self.rows if row.proposed is not None and row.tool not in self.plan.by_hand]


def main(options: argparse.Namespace) -> int:
    """Exit codes: 0; 1 if nothing was written although something is proposed, or a server listed no tools."""
    effects = look(load(options.config), options.json)
    is_written = False
    if not options.json:
        print_table(("tool", "effect", "because of", "proposed"), map(cells, effects.rows))
    if effects.proposed and (options.yes or (not options.json and sys.stdin.isatty() and confirm(effects))):
        write(effects)
        is_written = True
    if options.json:
        print_json(as_json(effects, is_written), indent=2)
    else:
        print_lines(report(effects, is_written))
    if effects.proposed and not is_written:
        print_hint(f"to confirm them: mcp-guard tools effects --yes{config_option(effects.settings.path)}")
    return 1 if effects.absent or (effects.proposed and not is_written) else 0


def cells(row: ToolEffect) -> tuple[object, ...]:
    return row.tool, str(row.effect), row.because, str(row.proposed or "")


def look(settings: Settings, quiet: bool) -> Effects:
    """Start the upstreams and read their hints. Raises: ConfigError, LedgerError."""
    file = read_file(settings.path)
    tools, absent = list_tools(settings, quiet)
    kept_out = find_quarantined(tools, read_pins(ledger_place(settings)), settings.pin_rules)
    hinted = read_effects(tools)
    quarantined = [row.tool for row in hinted if row.proposed is not None and row.tool in kept_out]
    rows = [replace(row, proposed=None) if row.tool in quarantined else row for row in hinted]
    return Effects(settings, file, rows, sorted(absent), plan_effects(file.text, rows), quarantined)


def read_pins(ledger: Place) -> list[Pin]:
    """The recorded definitions; none before the first run. Raises: LedgerError."""
    if not find_engine(ledger).exists():
        return []
    with open_read_only(ledger) as store:
        return store.pins()


def confirm(effects: Effects) -> bool:
    print_lines(["", UNTRUSTED])
    tools = count(len(effects.proposed), "tool")
    return prompts.confirm(f'write effect = "read" for {tools} into {effects.file.path}?')


def write(effects: Effects) -> None:
    """Write the configuration, and add the sections to the records of `wrap`, so that `unwrap` removes them.

    Raises: ConfigError.
    """
    check(effects.plan.text, effects.settings.path)
    write_file(effects.file, effects.plan.text)
    records = WrapRecords(effects.settings.state_dir / "clients")
    for server, block in effects.plan.blocks:
        wraps = [record for record in records.list() if server in record.upstreams]
        for record in wraps[-1:]:
            records.replace(replace(record, blocks=(*record.blocks, block)))


def report(effects: Effects, is_written: bool) -> list[str]:
    if is_written:
        lines = [f'wrote effect = "read" for {count(len(effects.proposed), "tool")} into {effects.file.path}']
    elif effects.proposed:
        lines = [
            f'proposed: effect = "read" for {count(len(effects.proposed), "tool")}; nothing was written',
            UNTRUSTED,
        ]
    elif effects.rows:
        lines = ["no hint proposes an effect that is not configured"]
    else:
        wrap = to_type("no upstream is configured; run mcp-guard wrap")
        lines = ["no tools are listed"] + ([] if effects.absent else [wrap])
    lines += left_out_lines(effects)
    lines += [f'add effect = "read" by hand to [tools."{name}"]' for name in effects.plan.by_hand]
    lines += [f"no tools from `{name}`: why is printed above" for name in effects.absent]
    return lines


def left_out_lines(effects: Effects) -> list[str]:
    """Which tools that their servers call read-only are not proposed, and why."""
    lines = []
    if effects.quarantined:
        names = ", ".join(f"`{name}`" for name in effects.quarantined)
        lines.append(
            f"not proposed, because nobody has accepted the definition: {names}; review: "
            + to_type("mcp-guard tools list --now")
        )
    if reaching := [row.tool for row in effects.rows if row.reaches_out]:
        names = ", ".join(f"`{name}`" for name in reaching)
        why = "their arguments go where the agent chooses and may carry data there"
        suggest = to_type("mcp-guard policy suggest")
        lines.append(f"not proposed, because {why}: {names}; propose rules for them: {suggest}")
    return lines


def as_json(effects: Effects, is_written: bool) -> dict[str, object]:
    return {
        "tools": [asdict(row) for row in effects.rows],
        "by_hand": effects.plan.by_hand,
        "quarantined": list(effects.quarantined),
        "absent": effects.absent,
        "written": is_written,
    }


def propose_after_wrap(config: Path, is_accepted: bool, quiet: bool) -> None:
    """Start the wrapped servers, show which tools they call read-only, and ask, unless `is_accepted`.

    Raises: ConfigError, LedgerError.
    """
    effects = look(load(config), quiet)
    if quiet:  # is_accepted, then
        write(effects)
    elif effects.proposed:
        print_lines(["", "The servers call these tools read-only:"])
        print_lines(f"  {row.tool}" for row in effects.proposed)
        if is_accepted or confirm(effects):
            write(effects)
            print_lines(report(effects, True))
            return
        print_lines(["no effect was written; each of these tools counts as a write", *left_out_lines(effects)])
    else:
        print_lines(["", *report(effects, False)])
