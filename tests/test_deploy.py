"""The manifests of platform/deploy: what KubeRay's and Compose's own schemas say of them, that what they
name is there, and that nothing in them is open or secret."""

import gzip
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from assay import secrets_file
from assay.cli.main import assay
from assay.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "platform" / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
SECRETS = {"assay-secrets", "assay-ray", "assay-postgres", "assay-valkey"}
"""Those that the note tells to make, by name."""
BUILT_BY = shutil.which("kubectl")


@cache
def schemas(name: str) -> Any:
    return json.loads(gzip.decompress((ROOT / "tests" / "schemas" / name).read_bytes()))


def closed(schema: Any) -> Any:
    """The schema of a custom resource, by which a key that it does not know is a mistake: the API server
    would leave it out without a word."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    said = {key: closed(value) for key, value in schema.items()}
    if said.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    is_open = said.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in said
    if isinstance(said.get("properties"), dict) and said.get("type") == "object" and not is_open:
        said["additionalProperties"] = False
    return said


@cache
def validator(kind: str) -> jsonschema.Draft7Validator:
    schema = closed(schemas("kuberay-1.7.json.gz")[kind])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server knows that one itself
    return jsonschema.Draft7Validator(schema)


def check(resource: dict[str, Any]) -> None:
    """Raises `jsonschema.ValidationError` for what KubeRay would not take."""
    validator(resource["kind"]).validate(resource)


def documents(file: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


def base() -> list[dict[str, Any]]:
    listed = documents(BASE / "kustomization.yaml")[0]["resources"]
    return [one for name in listed for one in documents(BASE / name)]


def of_kind(resources: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in resources if one["kind"] == kind]


def pods(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specs of every pod that comes of a resource."""
    if "containers" in resource:
        yield resource
    for value in resource.values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from pods(inner)


EXAMPLES = sorted((DEPLOY / "kubernetes" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", [BASE / "raycluster.yaml", *EXAMPLES], ids=lambda file: file.stem)
def test_kuberay_takes_every_resource_of_its_own_and_no_slip(file: Path) -> None:
    (resource,) = documents(file)
    check(resource)
    text = file.read_text()
    for right, slip in (
        ("rayStartParams", "rayStartParam"),
        ("securityContext", "securityContexts"),
    ):
        if f"{right}:" in text:
            with pytest.raises(jsonschema.ValidationError, match=slip):
                check(yaml.safe_load(text.replace(f"{right}:", f"{slip}:")))


@pytest.mark.skipif(BUILT_BY is None, reason="kubectl is not installed, which builds overlays")
@pytest.mark.parametrize(("overlay", "groups", "most"), [("small", 1, 1), ("large", 2, 16)])
def test_overlays_are_built_and_taken(overlay: str, groups: int, most: int) -> None:
    folder = DEPLOY / "kubernetes" / "overlays" / overlay
    built = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    resources = [one for one in yaml.safe_load_all(built.stdout) if one]
    assert len(resources) == len(base())
    (cluster,) = of_kind(resources, "RayCluster")
    check(cluster)
    workers = cluster["spec"]["workerGroupSpecs"]
    assert (len(workers), workers[0]["maxReplicas"]) == (groups, most)
    for pod in pods(cluster):
        for container in pod["containers"]:
            assert container["image"] == "registry.example.com/assay:0.1.0"
    assert all(one["metadata"].get("namespace", "assay") == "assay" for one in resources)


def test_what_a_manifest_names_is_there() -> None:
    resources = base()
    claims = {one["metadata"]["name"] for one in of_kind(resources, "PersistentVolumeClaim")}
    maps = {one["metadata"]["name"] for one in of_kind(resources, "ConfigMap")}
    for pod in [pod for resource in resources for pod in pods(resource)]:
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            own = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert own <= volumes | {"ledger", "data"}  # a StatefulSet's own claims
    text = json.dumps(resources)
    assert set(re.findall(r'"claimName": "([^"]+)"', text)) <= claims
    assert set(re.findall(r'"configMapRef": {"name": "([^"]+)"', text)) <= maps
    named = set(re.findall(r'"secretName": "([^"]+)"|"secretKeyRef": {"name": "([^"]+)"', text))
    assert {first or second for first, second in named} == SECRETS
    note = (DEPLOY / "README.md").read_text()
    assert all(f"secret generic {name}" in note for name in SECRETS)


def test_services_and_policies_lead_to_ports_that_are_open() -> None:
    resources = base()
    (cluster,) = of_kind(resources, "RayCluster")
    ports = {
        port["name"]: port["containerPort"]
        for pod in pods(cluster)
        for container in pod["containers"]
        for port in container.get("ports", [])
    }
    by_name = {one["metadata"]["name"]: one["spec"] for one in of_kind(resources, "Service")}
    assert by_name["assay-gateway"]["ports"][0]["targetPort"] in ports
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(resources, "NetworkPolicy")}
    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (gateway,) = policies["gateway-to-all"]["ingress"]
    assert (
        [port["port"] for port in gateway["ports"]]
        == [ports["gateway"]]
        == [Settings().gateway_port]
    )
    # The dashboard, which can run anything, is for the operator and for jobs alone.
    (dashboard,) = policies["dashboard-to-the-operator"]["ingress"]
    assert [port["port"] for port in dashboard["ports"]] == [ports["dashboard"]]
    labels = [one["podSelector"]["matchLabels"] for one in dashboard["from"]]
    (job,) = documents(DEPLOY / "kubernetes" / "examples" / "rayjob.yaml")
    assert job["spec"]["submitterPodTemplate"]["metadata"]["labels"] in labels


def test_no_container_may_become_root_and_no_secret_stands_in_a_manifest() -> None:
    examples = [one for file in EXAMPLES for one in documents(file)]
    contexts = []
    for resource in [*base(), *examples]:
        for pod in pods(resource):
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            contexts += [container["securityContext"] for container in pod["containers"]]
    (cluster,) = of_kind(base(), "RayCluster")
    contexts.append(cluster["spec"]["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert not of_kind(base(), "Secret")
    modes = re.findall(r'"defaultMode": (\d+)', json.dumps(base()))
    assert set(modes) == {str(0o440)}  # what `assay doctor` takes


def test_settings_and_commands_are_those_that_there_are() -> None:
    known = {f"ASSAY_{field.name.upper()}" for field in fields(Settings)}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    (settings,) = of_kind(base(), "ConfigMap")
    said = {*settings["data"], *compose["services"]["gateway"]["environment"]}
    assert {name for name in said if name.startswith("ASSAY_")} <= known
    assert Settings().is_readable_by_specs("DATA_DIR")
    (cluster,) = of_kind(base(), "RayCluster")
    commands = [c["command"] for pod in pods(cluster) for c in pod["containers"] if "command" in c]
    commands.append(compose["services"]["gateway"]["command"].split())
    for program, name, *options in commands:
        offered = {option for one in assay.commands[name].params for option in one.opts}
        assert (program, set(options) <= offered) == ("assay", True)


def test_ray_is_the_version_of_the_locks() -> None:
    (line,) = re.findall(
        r"^ray==(\S+)", (ROOT / "platform" / "locks" / "platform-gpu.txt").read_text(), re.MULTILINE
    )
    resources = [*base(), *(one for file in EXAMPLES for one in documents(file))]
    assert set(re.findall(r'"rayVersion": "([^"]+)"', json.dumps(resources))) == {line}


@pytest.mark.ray
def test_serve_takes_the_application_of_the_service() -> None:
    from ray.serve.schema import ServeDeploySchema

    (service,) = documents(DEPLOY / "kubernetes" / "examples" / "rayservice.yaml")
    said = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(said).applications
    (config,) = application.args["llm_configs"]
    assert config["server_cls"] == "assay_replica.LLMServerVerified"
    wanted = config["callback_config"]["callback_kwargs"]["artifact"]
    assert config["model_loading_config"]["model_source"].endswith(wanted)


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_takes_its_files(file: str) -> None:
    said = yaml.safe_load((DEPLOY / file).read_text())
    compose = jsonschema.Draft7Validator(schemas("compose.json.gz"))
    compose.validate(said)
    service = next(iter(said["services"].values()))
    service["imagee"] = service.pop("image", "x")
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        compose.validate(said)


def test_compose_names_what_it_has_and_opens_the_gateway_to_this_machine_alone() -> None:
    said = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    published = [port for one in said["services"].values() for port in one.get("ports", [])]
    assert published == [f"127.0.0.1:{Settings().gateway_port}:{Settings().gateway_port}"]
    for service in said["services"].values():
        assert set(service.get("secrets", [])) <= said["secrets"].keys()
        assert set(service.get("depends_on", {})) <= said["services"].keys()
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in said["volumes"] or source.startswith("$")


def test_secrets_are_made_once_and_closed(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    shutil.copy(DEPLOY / "make-secrets.sh", script)
    subprocess.run([str(script)], check=True)
    folder = tmp_path / "secrets"
    made = {file.name: file.read_text() for file in folder.iterdir()}
    said = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert {Path(one["file"]).name for one in said["secrets"].values()} == made.keys()
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    if os.getuid() == 0:  # it gave them to the containers' user
        os.chown(folder / "assay", 0, 0)
    keys = secrets_file.read(folder / "assay")
    (identity,) = json.loads(made["objects"])["identities"]
    assert identity["credentials"] == [
        {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}
    ]
    assert made["pgpass"] == f"postgres:5432:assay:assay:{made['postgres_password']}\n"
    subprocess.run([str(script)], check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
    assert "secrets/" in (ROOT / ".gitignore").read_text()


def test_the_image_copies_what_there_is() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    assert "USER 1000:1000" in text
    (variants,) = re.findall(r"^ARG VARIANT=(\w+)$", text, re.MULTILINE)
    assert (ROOT / "platform" / "locks" / f"platform-{variants}.txt").exists()
