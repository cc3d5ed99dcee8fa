"""Which version of a package an environment of its own has."""

import json
from importlib import metadata
from pathlib import Path


def npm_version(modules: Path, package: str) -> str:
    return str(json.loads((modules / package / "package.json").read_text())["version"])


def pypi_version(environment: Path, package: str) -> str:
    site = next((environment / "lib").glob("python*")) / "site-packages"
    return next(iter(metadata.distributions(name=package, path=[str(site)]))).version
