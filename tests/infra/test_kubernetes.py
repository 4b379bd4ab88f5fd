"""Every object of Kubernetes against the schema of its kind, and the manifests that hold them."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from infra_pulumi import render, versions
from infra_pulumi.capture import Captured, sample_images, stack_values
from infra_pulumi.layers.database.access import AUTHORITY_DIR
from infra_pulumi.layers.functions.event_sources import DELIVERY, DELIVERY_RETRIES
from infra_pulumi.layers.observability import HERE
from infra_pulumi.parts import CONSUMER_GROUP, FUNCTIONS, TOPIC
from saldo.serve.settings import read_settings
from tests.infra import definitions
from tests.infra.conftest import by_kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.infra.conftest import RecordProperty

# Kinds whose definition is not at hand: the load balancer controller's, and ESO's generator.
WITHOUT_DEFINITION = {
    ("elbv2.k8s.aws/v1beta1", "TargetGroupBinding"),
    ("generators.external-secrets.io/v1alpha1", "Password"),
}
_CORE = re.compile(r"v1|(apps|batch|policy)/v1|[a-z.]+\.k8s\.io/v1")


def is_core(item: dict[str, Any]) -> bool:
    return _CORE.fullmatch(item["apiVersion"]) is not None


def whole(captured: Captured) -> list[dict[str, Any]]:
    return render.objects(captured.resources)


def strictly(item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, versions.KUBERNETES, strict=True)


def test_objects_of_kubernetes_itself_are_valid(
    captured: Captured, record_property: RecordProperty
) -> None:
    items = [item for item in whole(captured) if is_core(item)]
    record_property("objects seen", len(items))

    assert len(items) >= 15
    for item in items:
        strictly(item)


def test_the_strict_check_finds_an_unknown_field(captured: Captured) -> None:
    job = copy.deepcopy(next(item for item in whole(captured) if item["kind"] == "Job"))
    job["spec"]["template"]["spec"]["containers"][0]["enviroment"] = []

    with pytest.raises(kubernetes_validate.ValidationError, match="enviroment"):
        strictly(job)


def test_custom_objects_meet_their_closed_definitions(
    captured: Captured, schemas: dict[tuple[str, str], Any], record_property: RecordProperty
) -> None:
    items = [item for item in whole(captured) if not is_core(item)]
    record_property("objects seen", len(items))
    found, unknown = [], set()
    for item in items:
        key = (item["apiVersion"], item["kind"])
        if key not in schemas:
            unknown.add(key)
            continue
        name = f"{item['kind']} {item['metadata']['name']}"
        found += [f"{name}: {problem}" for problem in definitions.problems(schemas[key], item)]

    assert len(items) - len(unknown) >= 15
    assert not found
    assert unknown <= WITHOUT_DEFINITION


@pytest.mark.parametrize(
    ("kind", "path", "value", "problem"),
    [
        ("KafkaSource", "spec/delivery/retries", 3, "'retries' was unexpected"),
        ("KafkaSource", "spec/consumers", "two", "is not of type 'integer'"),
        ("PingSource", "spec/sink/uri/ref", "x", "is not of type 'string'"),
        ("KnativeServing", "spec/ingress/kourier/enable", True, "'enable' was unexpected"),
        ("ExternalSecret", "spec/target/creationPolicy", "Own", "is not one of"),
        ("Certificate", "spec/dnsName", "x", "'dnsName' was unexpected"),
    ],
)
def test_a_field_missing_in_a_definition_is_found(  # noqa: PLR0913 - a case's parts
    kind: str,
    path: str,
    value: object,
    problem: str,
    captures: dict[str, Captured],
    schemas: dict[tuple[str, str], Any],
) -> None:
    item = copy.deepcopy(next(i for i in whole(captures["cluster"]) if i["kind"] == kind))
    *tables, last = path.split("/")
    table = item
    for key in tables:
        table = table.setdefault(key, {})
    table[last] = value
    schema = schemas[(item["apiVersion"], kind)]

    assert any(problem in line for line in definitions.problems(schema, item))


def test_every_reference_to_a_secret_or_file_has_a_target(captured: Captured) -> None:
    made = {i["metadata"]["name"] for i in by_kind(captured, "ConfigMap")}
    # cert-manager's, External Secrets' and Strimzi's, and what Kubernetes has by itself.
    made |= {
        i["spec"]["target"]["name"]: i["spec"]["target"]["template"]["data"]
        for i in by_kind(captured, "ExternalSecret")
    }.keys()
    made |= {i["spec"]["secretName"] for i in by_kind(captured, "Certificate")}
    made |= {"saldo-cluster-ca-cert", "kube-root-ca.crt"}
    keys = {
        (i["spec"]["target"]["name"], key)
        for i in by_kind(captured, "ExternalSecret")
        for key in i["spec"]["target"]["template"]["data"]
    } | {("saldo-cluster-ca-cert", "ca.crt")}
    named, keyed = set(), set()
    for item in whole(captured):
        for key, value in walk(item):
            if key == "secretKeyRef":
                keyed.add((value["name"], value["key"]))
            elif key in {"configMap", "secret"} and isinstance(value, dict):
                named.add(value.get("secretName") or value.get("name"))

    assert len(keyed) >= 5
    assert keyed <= keys
    assert len(named) >= 2
    assert named <= made


def walk(value: object) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_every_pod_has_default_deny_and_its_own_policy(captured: Captured) -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in by_kind(captured, "NetworkPolicy")}
    deny = policies.pop("default-deny")
    pods = [
        item["spec"]["template"]["metadata"]["labels"]
        for item in whole(captured)
        if item["kind"] in {"Job", "StatefulSet"} or item["apiVersion"] == "serving.knative.dev/v1"
    ]

    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert len(pods) >= 4
    for labels in pods:
        selectors = [spec["podSelector"].get("matchLabels") for spec in policies.values()]
        assert any(s and s.items() <= labels.items() for s in selectors), labels


def test_only_the_recorder_reaches_kafka(captured: Captured) -> None:
    kafka_ports = {9093, 9096, 9098}
    reach = {
        p["metadata"]["name"]
        for p in by_kind(captured, "NetworkPolicy")
        for rule in p["spec"].get("egress", [])
        if {port["port"] for port in rule.get("ports", [])} & kafka_ports
    }

    assert reach - {"kafka-acls"} == {"record-transaction"}


def test_the_functions_get_exactly_the_settings_they_read(captured: Captured) -> None:
    seen = 0
    for function in FUNCTIONS:
        service = next(
            item
            for item in whole(captured)
            if item["apiVersion"] == "serving.knative.dev/v1"
            and item["metadata"]["name"] == function.service
        )
        (container,) = service["spec"]["template"]["spec"]["containers"]
        environment = {
            entry["name"]: entry.get("value") or STAND_INS[entry["name"]]
            for entry in container["env"]
        }
        settings = read_settings(function.name, environment)
        seen += 1
        assert settings.function == function.name
    assert seen == 3


# What the Secrets hold, where a variable comes from one.
STAND_INS = {
    "EVENT_STORE_URL": "postgresql://role:password@host/saldo",
    "READ_MODEL_URL": "postgresql://role:password@host/saldo",
    "HASH_SECRET": "0" * 64,
    "KAFKA_USERNAME": "user",
    "KAFKA_PASSWORD": "password",
}


def test_every_client_verifies_the_database(captured: Captured) -> None:
    urls = [
        entry["value"]
        for item in whole(captured)
        if item["kind"] in {"Job", "Service"}
        for container in item["spec"].get("template", {}).get("spec", {}).get("containers", [])
        for entry in container["env"]
        if entry["name"].endswith("STORE_URL") or entry["name"].endswith("MODEL_URL")
        if "value" in entry
    ] + [
        value
        for secret in by_kind(captured, "ExternalSecret")
        for key, value in secret["spec"]["target"]["template"]["data"].items()
        if key.endswith("-url")
    ]

    assert len(urls) >= 4
    assert all(f"sslmode=verify-full&sslrootcert={AUTHORITY_DIR}/ca.crt" in url for url in urls)


def test_deliveries_are_retried_longer_than_an_event_is_young() -> None:
    first_s = float(str(DELIVERY["backoffDelay"]).removeprefix("PT").removesuffix("S"))
    as_documented_s = sum(first_s * 2**attempt for attempt in range(DELIVERY_RETRIES))
    as_dispatched_s = 2 * as_documented_s

    assert 300 < as_documented_s < as_dispatched_s < 900


def test_a_projector_at_zero_sweeps_within_a_minute(captured: Captured) -> None:
    """While the source is away nothing else wakes it, and nobody's balance would follow."""
    schedules = {
        (item["metadata"]["name"], item["spec"]["sink"]["ref"]["name"]): item["spec"]["schedule"]
        for item in by_kind(captured, "PingSource")
    }

    assert schedules == {
        ("sweep-lagging", "project-balance"): "* * * * *",
        # The projector's sweep reads the store: unsent events delay other consumers only.
        ("sweep-outbox", "record-transaction"): "*/10 * * * *",
    }


def test_the_source_has_no_more_consumers_than_partitions(captured: Captured) -> None:
    (source,) = by_kind(captured, "KafkaSource")
    partitions = [
        *(t["spec"]["partitions"] for t in by_kind(captured, "KafkaTopic")),
        *(r.inputs["partitionCount"] for r in captured.resources if r.type.endswith(":Topic")),
    ]

    assert source["spec"]["consumerGroup"] == CONSUMER_GROUP
    assert source["spec"]["topics"] == [TOPIC]
    assert 1 <= source["spec"]["consumers"] <= max(partitions) == 12


# --- manifests ----------------------------------------------------------------------------------


@pytest.fixture
def manifests(tmp_path: Path, captures: dict[str, Captured]) -> Path:
    folder = tmp_path / "manifests"
    render.write(captures["cluster"].resources, folder)
    return folder


def test_the_manifests_are_the_objects_of_the_shape_cluster(
    manifests: Path, captures: dict[str, Captured]
) -> None:
    read = [yaml.safe_load(file.read_text()) for file in sorted(manifests.glob("*.yaml"))]

    assert len(read) >= 40
    assert read == whole(captures["cluster"])
    names = [(i["kind"], i["metadata"].get("namespace"), i["metadata"]["name"]) for i in read]
    assert len(set(names)) == len(names)


def test_the_manifests_are_in_an_applicable_order(manifests: Path) -> None:
    kinds = [yaml.safe_load(f.read_text())["kind"] for f in sorted(manifests.glob("*.yaml"))]

    assert set(kinds[:3]) == {"Namespace"}
    assert kinds.index("Job") < kinds.index("KafkaSource")
    assert kinds.index("StatefulSet") < kinds.index("Job")


def test_each_manifest_step_waits_for_what_the_next_needs(manifests: Path) -> None:
    """A KafkaSource that is made before its sink and its topic stays unready for minutes."""
    steps = (manifests / "README.md").read_text().partition("step by step")[2]
    commands = re.findall(r"cat (.+) \| kubectl (apply|wait --for=condition=\w+)", steps)
    waited = {
        condition.removeprefix("wait --for=condition="): [
            (item["kind"], item["metadata"]["name"])
            for pattern in patterns.split()
            for file in sorted(manifests.glob(pattern))
            for item in [yaml.safe_load(file.read_text())]
        ]
        for patterns, condition in [commands[1], commands[5]]
    }

    assert [patterns for patterns, what in commands if what == "apply"] == [
        f"{step}*.yaml" for step in range(1, 6)
    ]
    assert {kind for kind, _ in waited["Ready"]} == {
        "ExternalSecret",
        "Kafka",
        "KafkaTopic",
        "KafkaUser",
    }
    assert [kind for kind, _ in waited["complete"]] == ["Job"]
    assert commands[-2] == ("4*.yaml", "wait --for=condition=Ready")
    assert {yaml.safe_load(f.read_text())["kind"] for f in manifests.glob("5*.yaml")} == {
        "KafkaSource",
        "PingSource",
        "DomainMapping",
    }


def test_the_manifests_hold_no_secret(manifests: Path) -> None:
    text = "".join(file.read_text() for file in manifests.iterdir())

    assert "kind: Secret\n" not in text
    assert "pulumi.com/" not in text
    assert "BEGIN PRIVATE KEY" not in text
    # Every password is a template's, which the operator fills in.
    for url in re.findall(r"postgresql://[^\s]+:[^\s]+@", text):
        assert "{{" in url or " }}" in url


def test_the_manifests_name_their_charts_with_versions(manifests: Path) -> None:
    readme = (manifests / "README.md").read_text()

    for chart in (
        versions.CERT_MANAGER,
        versions.EXTERNAL_SECRETS,
        versions.KNATIVE_OPERATOR,
        versions.STRIMZI,
    ):
        assert f"| {chart.name} | {chart.repository or 'its own'} | {chart.version} |" in readme


def test_the_manifests_say_to_make_the_namespaces_first(manifests: Path) -> None:
    applied, _, charts = (manifests / "README.md").read_text().partition("| chart |")
    (pattern,) = re.findall(r"cat (\S+) \| kubectl apply", applied)
    kinds = [yaml.safe_load(file.read_text())["kind"] for file in manifests.glob(pattern)]

    assert kinds == ["Namespace"] * 3
    assert "strimzi" in charts


def test_resources_come_in_the_same_order_in_every_run(captured: Captured) -> None:
    """Pulumi registers them concurrently; a test of their order would fail by chance."""
    urns = [resource.urn for resource in captured.resources]

    assert urns == sorted(urns)
    assert len(set(urns)) == len(urns)


def test_rendering_again_changes_nothing(manifests: Path, captures: dict[str, Captured]) -> None:
    before = {file.name: file.read_text() for file in manifests.iterdir()}
    render.write(tuple(reversed(captures["cluster"].resources)), manifests)

    assert {file.name: file.read_text() for file in manifests.iterdir()} == before


def test_rendering_without_images_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main(["--out", str(tmp_path)]) == 1

    assert "make images-push" in capsys.readouterr().err


@pytest.mark.parametrize("printed", [False, True])
def test_render_takes_the_images_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, printed: bool
) -> None:
    """As JSON, or as `make images-push` prints them."""
    file, out = tmp_path / "images", tmp_path / "out"
    images = sample_images(stack_values("cluster"))
    whole_file = {"config": {"saldo:images": images}}
    file.write_text(yaml.safe_dump(whole_file) if printed else json.dumps(images))
    seen: dict[str, Any] = {}

    def noticed(_stack: str, values: dict[str, Any]) -> Captured:
        seen.update(values)
        raise SystemExit(0)

    monkeypatch.setattr(render, "capture", noticed)
    with pytest.raises(SystemExit):
        render.main(["--out", str(out), "--images", str(file)])

    assert seen["images"] == images


@pytest.mark.parametrize(
    ("folder", "label"), [("dashboards", "grafana_dashboard"), ("alerts", "prometheus_rule")]
)
def test_dashboards_and_alerts_are_where_their_readers_search(
    captured: Captured, folder: str, label: str
) -> None:
    """Grafana's sidecar and Prometheus' take every ConfigMap of a label, as their charts set it."""
    files = {f.name: f.read_text() for f in (HERE / folder).iterdir()}
    found: dict[str, str] = {}
    for made in by_kind(captured, "ConfigMap"):
        if label in made["metadata"].get("labels", {}):
            found |= made["data"]
    assert found == files != {}
