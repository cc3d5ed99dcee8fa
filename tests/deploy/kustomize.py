"""Renders the part of kustomize that `deploy/kubernetes` uses, without its program and without a network.

A key that is not known here fails, so that nothing in a kustomization is silently left out. `test_manifests.py`
compares the result with that of `kubectl kustomize`, where there is one.
"""

from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
HEADER = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
KNOWN = {*HEADER, "namespace", "resources", "configMapGenerator", "labels", "images", "patches"}
CLUSTER_WIDE = {"Namespace"}


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization; generated names have no hash."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization.items() >= HEADER.items()
    assert set(kustomization) <= KNOWN, folder
    manifests: list[Manifest] = []
    for name in kustomization["resources"]:
        manifests += render(folder / name) if (folder / name).is_dir() else load(folder / name)
    manifests += [_config_map(folder, entry) for entry in kustomization.get("configMapGenerator", [])]
    for patch in kustomization.get("patches", []):
        [change] = load(folder / patch["path"])
        [target] = [manifest for manifest in manifests if identity(manifest) == identity(change)]
        _merge(target, change)
    for manifest in manifests:
        if manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = kustomization["namespace"]
        for entry in kustomization.get("labels", []):
            assert set(entry) == {"pairs"}  # not in selectors
            manifest["metadata"].setdefault("labels", {}).update(entry["pairs"])
        _rename_images(manifest, {entry["name"]: entry for entry in kustomization.get("images", [])})
    return manifests


def load(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


def identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def containers(manifest: Manifest) -> list[Manifest]:
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def _config_map(folder: Path, entry: Manifest) -> Manifest:
    assert set(entry) == {"name", "files"}
    data = {Path(name).name: (folder / name).read_text() for name in entry["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": data}


def _merge(target: Manifest, change: Manifest) -> None:
    """A strategic merge patch without lists that are merged: those of containers and ports must not be in a patch."""
    for key, value in change.items():
        assert key not in ("containers", "initContainers", "ports", "volumes")
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _rename_images(manifest: Manifest, images: dict[str, Manifest]) -> None:
    for container in containers(manifest):
        if (entry := images.get(container["image"])) is not None:
            container["image"] = f"{entry.get('newName', entry['name'])}:{entry['newTag']}"
