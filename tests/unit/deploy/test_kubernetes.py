"""The Kubernetes manifests: valid, consistent, and with as few rights as possible."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from contract import VERSION
from contract.addresses import is_public
from contract.broker.connection import queue_of
from contract.settings import PREFIX, SECRETS, Settings
from tests.kustomization import Object, compose, load, pod_of

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
# The Kubernetes versions to check against. Older ones have no eviction policy in a
# PodDisruptionBudget.
OLDEST, NEWEST = "1.30", "1.37"
OF_KEDA = "keda.sh/v1alpha1"
COMPONENT = "app.kubernetes.io/component"
COMPONENTS = ("migrate", "dispatcher", "worker", "api", "flower")


@pytest.fixture(scope="module")
def base() -> list[Object]:
    return compose(FOLDER / "base")


@pytest.fixture(scope="module")
def example() -> list[Object]:
    """The variant that users start from: the base with KEDA."""
    return compose(FOLDER / "example")


@pytest.fixture(scope="module")
def without_gpu(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The example with its `../cpu` line enabled."""
    copy = tmp_path_factory.mktemp("kubernetes") / "copy"
    shutil.copytree(FOLDER, copy)
    path = copy / "example" / "kustomization.yaml"
    path.write_text(path.read_text().replace("# - ../cpu", "  - ../cpu"))
    return compose(copy / "example")


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def pods(objects: list[Object]) -> dict[str, Object]:
    """Returns the pods' templates by component."""
    found = [pod for pod in map(pod_of, objects) if pod]
    return {pod["metadata"]["labels"][COMPONENT]: pod for pod in found}


def container(pod: Object) -> Object:
    (one,) = pod["spec"]["containers"]
    return dict(one)


def settings_of(objects: list[Object], component: str) -> dict[str, str]:
    """Returns the variables of a component that have a value in the manifests."""
    one = container(pods(objects)[component])
    shared = named(objects, "ConfigMap", "settings")["data"] if "envFrom" in one else {}
    return shared | {each["name"]: each["value"] for each in one["env"] if "value" in each}


def secrets_of(pod: Object) -> dict[str, Object]:
    references = {each["name"]: each.get("valueFrom") for each in container(pod)["env"]}
    return {name: told["secretKeyRef"] for name, told in references.items() if told}


def selects(selector: Object, pod: Object) -> bool:
    labels = pod["metadata"]["labels"]
    exactly = selector.get("matchLabels", {}).items() <= labels.items()
    rules = selector.get("matchExpressions", ())
    assert all(rule["operator"] == "In" for rule in rules)
    return exactly and all(labels.get(rule["key"]) in rule["values"] for rule in rules)


def ports_of(pod: Object) -> dict[str, int]:
    return {one["name"]: one["containerPort"] for one in container(pod).get("ports", ())}


# Valid


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("variant", ["base", "example", "without_gpu"])
def test_every_object_is_valid(variant, version, request) -> None:
    """Checks against the schemas that Kubernetes publishes; an unknown field is an error."""
    for one in request.getfixturevalue(variant):
        if one["apiVersion"] != OF_KEDA:
            assert kubernetes_validate.validate(one, version, strict=True) == version


def of_keda(one: Object) -> None:
    schema = json.loads((FOLDER / "keda" / "scaledobject.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    definition = schema["$defs"][one["kind"][0].lower() + one["kind"][1:]]
    jsonschema.validate(one, definition | {"$defs": schema["$defs"]})
    jsonschema.validate(one, schema)


def test_the_keda_objects_are_valid(example) -> None:
    found = [one for one in example if one["apiVersion"] == OF_KEDA]
    assert {one["kind"] for one in found} == {"ScaledObject", "TriggerAuthentication"}
    for one in found:
        of_keda(one)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("spec", "minReplicas"), 0),
        (("spec", "triggers", 0, "metadata", "targetQueryValue"), 100),
        (("spec", "triggers", 0, "metadata", "queryValue"), "1"),
        (("spec", "scaleTargetRef", "name"), "no name"),
    ],
)
def test_the_keda_schema_finds_mistakes(at, value) -> None:
    scaled = load(FOLDER / "keda" / "scaledobject.yaml")[0]
    node: Any = scaled
    for part in at[:-1]:
        node = node[part]
    node[at[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        of_keda(scaled)


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl, which contains Kustomize, is missing"
)
@pytest.mark.parametrize("variant", ["base", "example"])
def test_kustomize_builds_the_same_objects(variant, request) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", FOLDER / variant], capture_output=True, text=True, check=True
    )
    plain = re.sub(r"\bsettings-[a-z0-9]{10}\b", "settings", made.stdout)
    theirs = YAML(typ="safe", pure=True).load_all(plain)

    def by_name(objects: Any) -> dict[tuple[str, str], Object]:
        return {(one["kind"], one["metadata"]["name"]): one for one in objects}

    assert by_name(request.getfixturevalue(variant)) == by_name(theirs)


# Consistent


def test_every_file_is_used() -> None:
    listed = set[str]()
    for path in FOLDER.glob("*/kustomization.yaml"):
        (told,) = load(path)
        generated = [one.get("envs", ()) for one in told.get("configMapGenerator", ())]
        listed |= {path.name, *told.get("resources", ()), *chain(*generated)}
    there = {path.name for path in FOLDER.glob("*/*")} - {"scaledobject.schema.json"}
    assert there == {name for name in listed if not name.startswith("..")}


def test_no_two_objects_share_a_name(example) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in example]
    assert len(names) == len(set(names))


def test_the_whole_system_is_there(base) -> None:
    assert set(pods(base)) == set(COMPONENTS)
    assert named(base, "Deployment", "dispatcher")["spec"]["replicas"] == 2
    budgets = {one["metadata"]["name"] for one in of_kind(base, "PodDisruptionBudget")}
    assert budgets == {"dispatcher", "api", "worker"}


def test_every_selector_selects_its_pods_and_no_others(base) -> None:
    by_component = pods(base)
    for one in base:
        selector = one["spec"].get("selector") if "spec" in one else None
        if selector:
            whole = {"matchLabels": selector} if one["kind"] == "Service" else selector
            found = [name for name, pod in by_component.items() if selects(whole, pod)]
            assert found == [one["metadata"]["name"]]


def test_every_named_port_exists(base) -> None:
    by_component = pods(base)
    for one in of_kind(base, "Service"):
        ports = ports_of(by_component[one["metadata"]["name"]])
        assert {each["targetPort"] for each in one["spec"]["ports"]} <= set(ports)
    for pod in by_component.values():
        for kind in ("readinessProbe", "livenessProbe"):
            asked = container(pod).get(kind, {}).get("httpGet")
            assert asked is None or asked["port"] in ports_of(pod)
    for policy in of_kind(base, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            names = {each["port"] for each in rule["ports"]}
            chosen = [p for p in by_component.values() if selects(policy["spec"]["podSelector"], p)]
            assert chosen
            assert all(names <= set(ports_of(pod)) for pod in chosen)


def test_ports_agree_with_the_settings(base) -> None:
    settings = named(base, "ConfigMap", "settings")["data"]
    for component, pod in pods(base).items():
        for name, port in ports_of(pod).items():
            kind = "METRICS" if name == "metrics" else component.upper()
            assert settings[f"{PREFIX}{kind}_PORT"] == str(port)
            assert settings[f"{PREFIX}{kind}_ADDRESS"] == "0.0.0.0"


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_setting_exists_and_has_a_valid_value(without_gpu, component) -> None:
    told = settings_of(without_gpu, component)
    ours = {name: value for name, value in told.items() if name.startswith(PREFIX)}
    fields = {name.removeprefix(PREFIX).lower(): value for name, value in ours.items()}
    names = {name.removeprefix(PREFIX).lower() for name in secrets_of(pods(without_gpu)[component])}
    assert set(fields) | names <= set(Settings.model_fields)
    Settings(_env_file=None, **fields)
    # Other variables belong to the container runtime.
    assert set(told) - set(ours) <= {"NVIDIA_VISIBLE_DEVICES"}


def test_all_secrets_come_from_the_one_that_the_docs_create(example) -> None:
    assert of_kind(example, "Secret") == []
    references = [one for pod in pods(example).values() for one in secrets_of(pod).values()]
    references += named(example, "TriggerAuthentication", "database")["spec"]["secretTargetRef"]
    document = (ROOT / "docs" / "kubernetes.md").read_text()
    made = set(re.findall(r"--from-literal=([a-z-]+)=", document))
    assert {one["key"] for one in references} == made
    assert {one["name"] for one in references} == {"resnext-queue"}
    assert "create secret generic resnext-queue" in document
    given = {name for pod in pods(example).values() for name in secrets_of(pod)}
    assert {name.removeprefix(PREFIX).lower() for name in given} <= SECRETS


def test_each_process_gets_only_the_secrets_that_it_needs(base) -> None:
    got = {name: set(secrets_of(pod)) for name, pod in pods(base).items()}
    broker, database = f"{PREFIX}BROKER_URL", f"{PREFIX}DATABASE_URL"
    assert got == {
        "migrate": {database},
        "dispatcher": {broker, database},
        "worker": {broker, database},
        "api": {database},
        "flower": {broker, f"{PREFIX}FLOWER_LOGIN"},
    }


def test_a_worker_has_more_time_to_stop_than_it_needs(base) -> None:
    told = settings_of(base, "worker")
    grace_s = pods(base)["worker"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= float(told[f"{PREFIX}STOP_WITHIN_S"]) + 10


def test_images_come_from_the_dockerfile_in_this_version(base) -> None:
    stages = set(re.findall(r" AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for pod in pods(base).values():
        name, _, tag = container(pod)["image"].partition(":")
        assert name.removeprefix("resnext-queue-") in stages
        assert tag == VERSION


def test_a_new_version_has_a_new_migration_job(base) -> None:
    """A Job cannot be changed once it exists."""
    (job,) = of_kind(base, "Job")
    assert job["metadata"]["name"] == f"migrate-{VERSION.replace('.', '-')}"
    assert "envFrom" not in container(pod_of(job)), "the ConfigMap's name changes with its content"


def test_every_folder_that_is_written_has_a_volume(base) -> None:
    for component, pod in pods(base).items():
        sets = named(base, "StatefulSet", "worker")["spec"]["volumeClaimTemplates"]
        templates = {one["metadata"]["name"] for one in sets} if component == "worker" else set()
        volumes = {one["name"] for one in pod["spec"]["volumes"]} | templates
        mounts = {one["mountPath"]: one["name"] for one in container(pod)["volumeMounts"]}
        assert set(mounts.values()) == volumes
        kept = {"worker": {"/cache"}, "flower": {"/data"}}  # RESNEXT_CACHE, RESNEXT_HOME
        assert set(mounts) == {"/tmp"} | kept.get(component, set())
        for volume in pod["spec"]["volumes"]:
            assert volume.get("emptyDir", {"sizeLimit": ""}).keys() == {"sizeLimit"}


# Few rights


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_pod_has_as_few_rights_as_possible(example, component) -> None:
    pod = pods(example)[component]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    uid = re.search(r"--uid (\d+) resnextq", (ROOT / "Dockerfile").read_text())[1]
    assert pod["securityContext"]["runAsUser"] == int(uid)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod)
    assert container(pods(example)[component])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container(pods(example)[component])["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert "memory" in resources["limits"]


def test_a_worker_has_one_gpu_or_none(example, without_gpu) -> None:
    gpu = "nvidia.com/gpu"
    resources = [container(pods(one)["worker"])["resources"] for one in (example, without_gpu)]
    assert [one["limits"].get(gpu) for one in resources] == ["1", None]
    told = settings_of(without_gpu, "worker")
    assert (told[f"{PREFIX}DEVICE"], told["NVIDIA_VISIBLE_DEVICES"]) == ("cpu", "void")
    assert "tolerations" not in pods(without_gpu)["worker"]["spec"]


def rules(base: list[Object], component: str, way: str) -> Iterator[Object]:
    for policy in of_kind(base, "NetworkPolicy"):
        if selects(policy["spec"]["podSelector"], pods(base)[component]):
            yield from policy["spec"].get(way, ())


def test_only_listed_connections_are_permitted(base) -> None:
    everything = named(base, "NetworkPolicy", "nothing-else")["spec"]
    assert everything["policyTypes"] == ["Ingress", "Egress"]
    assert all(selects(everything["podSelector"], pod) for pod in pods(base).values())
    assert list(rules(base, "migrate", "ingress")) == []
    out = {
        component: {
            port["port"]
            for rule in rules(base, component, "egress")
            for port in rule.get("ports", ())
        }
        for component in pods(base)
    }
    assert out == {
        "migrate": {53, 5432},
        "dispatcher": {53, 5432, 6379},
        "worker": {53, 5432, 6379},
        "api": {53, 5432},
        "flower": {53, 6379},
    }


def reachable(base: list[Object], component: str, address: str) -> bool:
    """Whether a component may connect to this address, at any port."""
    blocks = [
        to["ipBlock"] for rule in rules(base, component, "egress") for to in rule.get("to", ())
    ]
    return any(
        ip_address(address) in ip_network(block["cidr"])
        and not any(ip_address(address) in ip_network(one) for one in block.get("except", ()))
        for block in blocks
    )


@pytest.mark.parametrize(
    "address",
    [
        "10.96.0.1", "172.20.0.10", "192.168.1.1", "100.100.100.200", "169.254.169.254",
        "192.0.0.192", "127.0.0.1", "fd00:ec2::254", "fe80::1", "::1",
    ],
)  # fmt: skip
def test_workers_reach_no_private_address(base, address) -> None:
    """This includes addresses of clusters, and those from which clouds hand out credentials."""
    assert not is_public(ip_address(address))
    assert not any(reachable(base, component, address) for component in pods(base))


def test_the_networks_closed_to_workers_are_private_in_the_workers_own_list(base) -> None:
    for block in named(base, "NetworkPolicy", "web")["spec"]["egress"][0]["to"]:
        for network in map(ip_network, block["ipBlock"].get("except", ())):
            assert not any(map(is_public, (network[0], network[1], network[-1])))
    for address in ("93.184.216.34", "2606:2800:220:1::"):
        assert reachable(base, "worker", address)
        assert reachable(base, "dispatcher", address)
        assert not reachable(base, "api", address)


# Scaling


def test_keda_asks_for_the_queue_that_the_workers_serve(example) -> None:
    told = settings_of(example, "worker")
    queue = queue_of(*(told[f"{PREFIX}{name}"] for name in ("MODEL", "WEIGHTS", "PRECISION")))
    (trigger,) = named(example, "ScaledObject", "worker")["spec"]["triggers"]
    assert f"queue = '{queue}'" in trigger["metadata"]["query"]


def test_keda_scales_the_workers_from_none_to_many(example) -> None:
    spec = named(example, "ScaledObject", "worker")["spec"]
    target = spec["scaleTargetRef"]
    workers = named(example, target["kind"], target["name"])
    assert target["apiVersion"] == workers["apiVersion"]
    assert "replicas" not in workers["spec"], "another `kubectl apply` would undo the scaling"
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 16)
    assert spec["triggers"][0]["metadata"]["activationTargetQueryValue"] == "0"
    reference = spec["triggers"][0]["authenticationRef"]["name"]
    assert named(example, "TriggerAuthentication", reference)
