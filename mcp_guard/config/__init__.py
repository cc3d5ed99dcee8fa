"""The configuration: one TOML file, read once into `Settings`. Nothing else reads it.

`file` has its models and checks it with pydantic, which takes more memory and start-up time than the rest of the guard
together. It is imported only here, and only for a configuration that is not in the cache; see docs/decisions/0008.
"""

from pathlib import Path

from mcp_guard.config.cache import find_settings, store_settings
from mcp_guard.config.ownership import check_named_files, read_own
from mcp_guard.core.errors import ConfigError, reason_of
from mcp_guard.settings import Settings

CHECK_PATH = "check the path and its permissions"


def load(path: Path, *, fill_cache: bool = False) -> Settings:
    """Read and check the configuration. With `fill_cache`, the next one to read it need not check it again.

    Raises: ConfigError.
    """
    try:
        text = read_own(path)
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration at `{path}`",
            "if you have a guard, set MCP_GUARD_CONFIG to its configuration, or name it with --config FILE; "
            "if not, create one with `mcp-guard init`",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        hint = f"name the file in it: --config {path / 'mcp-guard.toml'}" if path.is_dir() else CHECK_PATH
        raise ConfigError(f"cannot read `{path}`: {reason_of(error)}", hint) from None
    if (settings := find_settings(path, text)) is not None:
        check_named_files(settings, path)
        return settings
    from mcp_guard.config import file

    settings = file.check(text, path)
    check_named_files(settings, path)
    if file.uses_old_verb(text):
        file.report_old_verb(path)
    elif fill_cache:
        store_settings(path, text, settings)
    return settings
