"""`deploy/kubernetes`: valid by the API's own schemas, and its parts fit together. Nothing is applied anywhere."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cedarpy
import kubernetes_validate
import pytest
import yaml

from mcp_guard.config import load as load_config
from mcp_guard.settings import SecretReference
from tests.deploy.kustomize import Manifest, containers, identity, render
from tests.docs.page import ROOT

BASE = ROOT / "deploy" / "kubernetes" / "base"
EXAMPLE = ROOT / "deploy" / "kubernetes" / "overlays" / "example"
VERSIONS = ("1.33", "1.37")
"""Of Kubernetes: the oldest and the newest that the manifests are for."""
MANIFESTS = {identity(manifest): manifest for manifest in render(EXAMPLE)}
WORKLOADS = [manifest for (kind, _), manifest in MANIFESTS.items() if kind in ("StatefulSet", "Deployment")]
MADE_BY_HAND = set(re.findall(r"create secret \w+ (\S+)", (EXAMPLE / "kustomization.yaml").read_text()))


def pod(workload: Manifest) -> Manifest:
    return dict(workload["spec"]["template"]["spec"])


def labels(workload: Manifest) -> dict[str, str]:
    return dict(workload["spec"]["template"]["metadata"]["labels"])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_in_this_version_of_the_api(version: str) -> None:
    assert len(MANIFESTS) == 13
    for manifest in MANIFESTS.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_key_would_be_found() -> None:
    wrong = {**MANIFESTS["PodDisruptionBudget", "mcp-guard"], "spec": {"maxUnavailible": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kubectl_renders_the_same() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; the other tests need none")
    done = subprocess.run([kubectl, "kustomize", str(EXAMPLE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = re.sub(r"(name: mcp-guard-(?:nginx|config|policies))-[0-9a-z]{10}\b", r"\1", done.stdout)
    assert {identity(manifest): manifest for manifest in yaml.safe_load_all(text)} == MANIFESTS


def selectors(manifest: Manifest) -> list[dict[str, str]]:
    """The labels by which a manifest selects pods of its own namespace."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Service":
            return [spec["selector"]]
        case "PodDisruptionBudget":
            return [spec["selector"]["matchLabels"]]
        case "NetworkPolicy":
            peers = [peer for rule in spec["ingress"] for peer in rule.get("from", [])]
            peers += [peer for rule in spec["egress"] for peer in rule.get("to", [])]
            own = [peer for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer]
            return [peer["podSelector"]["matchLabels"] for peer in ({"podSelector": spec["podSelector"]}, *own)]
    return []


def test_services_budgets_and_policies_select_pods_that_there_are() -> None:
    selected = [selector for manifest in MANIFESTS.values() for selector in selectors(manifest)]
    assert len(selected) == 8
    for selector in selected:
        assert any(labels(workload).items() >= selector.items() for workload in WORKLOADS), selector
    for workload in WORKLOADS:
        assert labels(workload).items() >= workload["spec"]["selector"]["matchLabels"].items()


def test_named_ports_are_those_of_the_containers() -> None:
    for workload in WORKLOADS:
        named = {port["name"]: port["containerPort"] for item in containers(workload) for port in item.get("ports", [])}
        for container in containers(workload):
            for probe in (value for key, value in container.items() if key.endswith("Probe")):
                assert probe["httpGet"]["port"] in named
        for (kind, _), manifest in MANIFESTS.items():
            if kind == "Service" and labels(workload).items() >= manifest["spec"]["selector"].items():
                assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= set(named)


def test_gateways_are_probed_at_the_endpoints_for_it() -> None:
    [guard] = pod(MANIFESTS["StatefulSet", "mcp-guard"])["containers"]
    paths = {key: guard[key]["httpGet"]["path"] for key in guard if key.endswith("Probe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_no_container_has_privileges_or_a_writable_root() -> None:
    """The profile `restricted` of the pod security standards, and more."""
    for workload in WORKLOADS:
        shared = pod(workload)["securityContext"]
        assert shared["runAsNonRoot"] is True
        assert shared["runAsUser"] > 0
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod(workload)["automountServiceAccountToken"] is False
        for container in containers(workload):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"].keys() == {"requests", "limits"}
        assert not any("hostPath" in volume for volume in pod(workload)["volumes"])
    namespace = MANIFESTS["Namespace", "mcp-guard"]["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"


def test_image_runs_as_the_user_of_the_containerfile() -> None:
    [user] = re.findall(r"^USER (\d+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert pod(MANIFESTS["StatefulSet", "mcp-guard"])["securityContext"]["runAsUser"] == int(user)


def test_every_secret_and_config_map_that_is_used_is_made() -> None:
    used: set[str] = set()
    for workload in WORKLOADS:
        text = yaml.safe_dump(workload)
        secrets = set(re.findall(r"secretName: (\S+)", text))
        secrets |= {
            variable["valueFrom"]["secretKeyRef"]["name"]
            for container in containers(workload)
            for variable in container.get("env", [])
            if "secretKeyRef" in variable["valueFrom"]
        }
        used |= secrets
        for volume in pod(workload)["volumes"]:
            assert "configMap" not in volume or ("ConfigMap", volume["configMap"]["name"]) in MANIFESTS
        mounted = {mount["name"] for container in containers(workload) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod(workload)["volumes"]}
    assert used == MADE_BY_HAND
    assert not any(kind == "Secret" for kind, _ in MANIFESTS)


@pytest.mark.parametrize("namespace", ["mcp-guard", "team-a"])
def test_nginx_knows_each_replica_by_its_name_in_any_namespace(namespace: str, tmp_path: Path) -> None:
    [proxy] = pod(MANIFESTS["Deployment", "mcp-guard-nginx"])["containers"]
    [variable] = proxy["env"]
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    *shell, script = proxy["command"]
    write, then = script.split(" && ")
    assert then == 'exec nginx -c /tmp/nginx.conf -g "daemon off;"'
    write = write.replace("/tmp/", f"{tmp_path}/").replace("/etc/mcp-guard-nginx/", f"{BASE}/")
    subprocess.run([*shell, write], env={variable["name"]: namespace}, check=True, timeout=60)

    gateways = MANIFESTS["StatefulSet", "mcp-guard"]
    ports = MANIFESTS["Service", gateways["spec"]["serviceName"]]["spec"]["ports"]
    domain = f"{gateways['spec']['serviceName']}.{namespace}.svc.cluster.local"
    replicas = range(gateways["spec"]["replicas"])
    names = [f"mcp-guard-{number}.{domain}:{port['port']}" for port in ports for number in replicas]
    assert re.findall(r"^ *server (\S+) resolve;$", (tmp_path / "nginx.conf").read_text(), re.MULTILINE) == names


@pytest.mark.parametrize("folder", [EXAMPLE, ROOT / "deploy" / "compose" / "config"])
def test_example_configuration_and_policies_are_read(folder: Path, tmp_path: Path) -> None:
    text = (folder / "mcp-guard.toml").read_text()
    policies = folder / "policies"
    text = re.sub(r'^(state_dir|policies) = .*"$', "", text, flags=re.MULTILINE)
    config = tmp_path / "mcp-guard.toml"
    config.write_text(text.replace("[guard]", f'[guard]\npolicies = "{policies}"'))
    settings = load_config(config)
    assert settings.serve is not None
    assert settings.database == SecretReference("env", "DATABASE_URL")
    assert settings.shared_secret == SecretReference("env", "SHARED_SECRET")
    routes: list[Any] = re.findall(r'@require_approval\("(.*?)"\)', (policies / "example.cedar").read_text())
    assert set(routes) == set(settings.routes)
    assert cedarpy.policies_to_json_str((policies / "example.cedar").read_text())
