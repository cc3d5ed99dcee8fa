"""The configuration: one TOML file, read once into `Settings`. Nothing else reads it.

`file` has its models and checks it with pydantic, which takes more memory and start-up time than the rest of the guard
together. It is imported only for a configuration that is not in the cache, and by a guard that starts not even then;
see docs/decisions/0091.
"""

from collections.abc import Callable
from pathlib import Path

from mcp_guard.config.apart import check_apart
from mcp_guard.config.cache import Checked, find_settings, store_settings
from mcp_guard.config.ownership import check_named_files, read_own
from mcp_guard.core.errors import ConfigError, reason_of
from mcp_guard.settings import Settings

CHECK_PATH = "check the path and its permissions"


def load(path: Path) -> Settings:
    """Read and check the configuration. Raises: ConfigError."""
    text = _read(path)
    settings = find_settings(path, text) or _check(text, path).settings
    check_named_files(settings, path)
    return settings


def load_to_run(path: Path, meanwhile: Callable[[], object] = lambda: None) -> Settings:
    """As `load`, for a guard that starts: the next one need not check the configuration again. If this one must,
    another process does, and `meanwhile` is called.

    Raises: ConfigError.
    """
    text = _read(path)
    if (settings := find_settings(path, text)) is not None:
        check_named_files(settings, path)
        return settings
    checked = check_apart(text, path, meanwhile) or _check(text, path)
    check_named_files(checked.settings, path)
    if checked.may_be_kept:
        store_settings(path, text, checked.settings)
    return checked.settings


def _read(path: Path) -> str:
    try:
        return read_own(path).removeprefix("\ufeff")
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration at `{path}`",
            "if you have a guard, set MCP_GUARD_CONFIG to its configuration, or name it with --config FILE; "
            "if not, create one with `mcp-guard init`",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        hint = f"name the file in it: --config {path / 'mcp-guard.toml'}" if path.is_dir() else CHECK_PATH
        raise ConfigError(f"cannot read `{path}`: {reason_of(error)}", hint) from None


def _check(text: str, path: Path) -> Checked:
    from mcp_guard.config import file

    return file.check_and_report(text, path)
