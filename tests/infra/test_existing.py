"""A cluster's own operators, Knative, Kafka and PostgreSQL, in every combination."""

from __future__ import annotations

import copy
import itertools
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from infra_pulumi import render, versions
from infra_pulumi.capture import Captured, capture_apart, sample_images, stack_values
from infra_pulumi.config import BadConfigError, read_config
from infra_pulumi.layers.existing import namespace_of
from infra_pulumi.parts import FUNCTIONS, NAMESPACE
from infra_pulumi.policies import violations
from saldo.serve.settings import read_settings
from tests.infra import definitions
from tests.infra.conftest import by_kind, named
from tests.infra.reach import Call, Outside, Pod, wrong
from tests.infra.test_kubernetes import STAND_INS, is_core, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
PARTS = ("operators", "knative", "kafka", "database")
EXISTING: dict[str, Any] = {
    "operators": "existing",
    "knative": "existing",
    "kafka": {
        "kind": "existing",
        "bootstrap": "b-1.kafka.example.com:9096,b-2.kafka.example.com:9096",
        "security": "scram",
        "secret": "their-kafka",
        "cidrs": ["10.80.0.0/24"],
        "consumers": 2,
    },
    "database": {
        "kind": "existing",
        "host": "postgres.example.com",
        "secret": "their-database",
        "connectionsMax": 800,
        "cidrs": ["10.81.0.0/24"],
    },
}
OPERATORS = {"cert-manager", "external-secrets", "knative-operator", "strimzi"}
SHAPES = {"cluster": "cluster", "aws": "prod"}
SETS = [
    frozenset(parts) for size in range(5) for parts in itertools.combinations(PARTS, size) if parts
]
RUNS = {f"{shape}-{'-'.join(sorted(parts))}": (shape, parts) for shape in SHAPES for parts in SETS}
ALL = "cluster-" + "-".join(sorted(PARTS))


def values_of(shape: str, parts: frozenset[str]) -> dict[str, Any]:
    values = stack_values(SHAPES[shape])
    values |= {part: copy.deepcopy(EXISTING[part]) for part in parts}
    values["images"] = sample_images(values)
    return values


class Made:
    """What the program asks for with each combination, made for a whole group at once."""

    def __init__(self) -> None:
        self._made: dict[str, Captured] = {}

    def __getitem__(self, run: str) -> Captured:
        if run not in self._made:
            group = [other for other in RUNS if is_slow(other) == is_slow(run)]
            self._made |= capture_apart({other: values_of(*RUNS[other]) for other in group})
        return self._made[run]


def is_slow(run: str) -> bool:
    """Return whether a run is left to `make test-infra`: in AWS, what is neither one nor all."""
    shape, parts = RUNS[run]
    return shape == "aws" and 1 < len(parts) < len(PARTS)


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


@pytest.fixture(
    params=[pytest.param(run, marks=[pytest.mark.slow] if is_slow(run) else []) for run in RUNS]
)
def run(request: pytest.FixtureRequest) -> str:
    """Return the name of each combination in turn."""
    name: str = request.param
    return name


@pytest.fixture
def captured(made: Made, run: str) -> Captured:
    """Return what that combination asks for; conftest's stacks are not used here."""
    return made[run]


def charts(captured: Captured) -> set[str]:
    return {r.name for r in captured.resources if r.type.endswith(":Release")}


def test_existing_parts_are_not_made(captured: Captured, run: str) -> None:
    shape, parts = RUNS[run]
    types = {r.type for r in captured.resources}
    kinds = {r.kind for r in captured.resources}
    operators = charts(captured) & OPERATORS

    assert ("KnativeServing" in kinds) == ("knative" not in parts)
    assert bool(operators) == ("operators" not in parts)
    assert ("knative-operator" in operators) == (not {"operators", "knative"} & parts)
    assert ("strimzi" in operators) == (shape == "cluster" and not {"operators", "kafka"} & parts)
    assert ("Kafka" in kinds) == (shape == "cluster" and "kafka" not in parts)
    assert ("aws:msk/cluster:Cluster" in types) == (shape == "aws" and "kafka" not in parts)
    assert ("StatefulSet" in kinds) == (shape == "cluster" and "database" not in parts)
    assert ("aws:rds/instance:Instance" in types) == (shape == "aws" and "database" not in parts)
    assert len([r for r in captured.resources if "serving.knative.dev/v1:Service" in r.type]) == 3
    assert len(by_kind(captured, "KafkaSource")) == 1


def test_with_all_parts_existing_only_the_namespace_is_made(made: Made) -> None:
    """Besides it, the cluster lets anybody read the public keys of its tokens."""
    outside = {
        (r.kind, r.inputs["metadata"]["name"])
        for r in made[ALL].resources
        if r.kind and r.inputs["metadata"].get("namespace") != NAMESPACE
    }

    assert charts(made[ALL]) == set()
    assert outside == {
        ("Namespace", NAMESPACE),
        ("ClusterRoleBinding", "saldo-reads-token-keys"),
    }


def test_a_named_issuer_leaves_the_clusters_own_keys_alone() -> None:
    values = values_of("cluster", frozenset(PARTS))
    values["sources"] = {
        "issuer": "https://issuer.example.com/cluster",
        "jwksUrl": "https://issuer.example.com/cluster/keys",
    }
    captured = capture_apart({"cluster": values})["cluster"]
    environment = environment_of(captured, "project-balance")

    assert by_kind(captured, "ClusterRoleBinding") == []
    assert environment["SINK_ISSUER"] == values["sources"]["issuer"]
    assert environment["SINK_JWKS_URL"] == values["sources"]["jwksUrl"]
    assert "SSL_CERT_FILE" not in environment


def environment_of(captured: Captured, function: str) -> dict[str, str]:
    """Return the variables of a function, with what the Secrets would hold."""
    (service,) = [
        r.inputs
        for r in captured.resources
        if "serving.knative.dev/v1:Service" in r.type and r.name == function
    ]
    (container,) = service["spec"]["template"]["spec"]["containers"]
    return {e["name"]: e.get("value") or STAND_INS[e["name"]] for e in container["env"]}


def test_every_object_of_every_combination_is_valid(
    captured: Captured, schemas: dict[tuple[str, str], Any]
) -> None:
    for item in render.objects(captured.resources):
        if is_core(item):
            kubernetes_validate.validate(item, versions.KUBERNETES, strict=True)
        elif (key := (item["apiVersion"], item["kind"])) in schemas:
            assert definitions.problems(schemas[key], item) == []
    for function in FUNCTIONS:
        read_settings(function.name, environment_of(captured, function.service))


def test_no_combination_breaks_a_policy(captured: Captured) -> None:
    found = [
        f"{resource.name}: {policy.name}: {problem}"
        for resource in captured.resources
        for policy, problem in violations(resource.type, resource.inputs)
    ]

    assert not found


def test_every_secret_is_made_or_exists(captured: Captured, run: str) -> None:
    parts = RUNS[run][1]
    theirs = {("their-kafka", key) for key in ("user", "password", "type") if "kafka" in parts} | (
        {("their-database", "owner-url")} if "database" in parts else set()
    )
    made = {
        (item["spec"]["target"]["name"], key)
        for item in by_kind(captured, "ExternalSecret")
        for key in item["spec"]["target"]["template"]["data"]
    } | {("saldo-cluster-ca-cert", "ca.crt")}
    named = {
        (value["name"], value["key"])
        for item in render.objects(captured.resources)
        for key, value in walk(item)
        if key == "secretKeyRef"
    }

    assert named <= made | theirs
    assert theirs <= named


def test_calls_to_existing_parts_are_allowed(captured: Captured, run: str) -> None:
    shape, parts = RUNS[run]
    policies = by_kind(captured, "NetworkPolicy")

    assert wrong(policies, calls(parts)) == []
    rules = {
        (r.inputs["cidrIpv4"], int(r.inputs["fromPort"]))
        for r in captured.resources
        if r.type.endswith(":SecurityGroupEgressRule") and r.inputs.get("cidrIpv4")
    }
    if shape == "aws":
        assert rules - {("0.0.0.0/0", 443)} == {
            *([("10.80.0.0/24", 9096)] if "kafka" in parts else []),
            *([("10.81.0.0/24", 5432)] if "database" in parts else []),
        }


def calls(parts: frozenset[str]) -> Iterator[Call]:
    """Yield what each part of Saldo may call of theirs, and what it may not."""
    broker, server = Outside(address="10.80.0.7"), Outside(address="10.81.0.7")
    for name in (*(f.service for f in FUNCTIONS), "migrate", "operate"):
        pod = Pod(namespace=NAMESPACE, labels={"saldo/part": name}, address="10.244.0.9")
        for what, called, port, may in (
            ("calls their Kafka", broker, 9096, "kafka" in parts and name == "record-transaction"),
            ("logs in to their PostgreSQL", server, 5432, "database" in parts),
            ("calls another port of theirs", server, 22, False),
        ):
            yield Call(what=f"{name} {what}", caller=pod, called=called, port=port, possible=may)


def test_the_roles_log_in_by_generated_passwords_to_their_server(made: Made) -> None:
    for shape in SHAPES:
        captured = made[f"{shape}-database"]
        secret = named(captured, "ExternalSecret", "database-credentials").inputs["spec"]
        pod = named(captured, "Job", "migrate").inputs["spec"]["template"]["spec"]
        environment = {e["name"]: e for e in pod["containers"][0]["env"]}
        (volume,) = [v for v in pod["volumes"] if v["name"] == "database"]
        url = secret["target"]["template"]["data"]["saldo_record-url"]

        address = "saldo_record:{{ .saldo_record }}@postgres.example.com:5432"
        assert url.startswith(f"postgresql://{address}/saldo?sslmode=verify-full")
        assert environment["EVENT_STORE_URL"]["valueFrom"]["secretKeyRef"] == {
            "name": "their-database",
            "key": "owner-url",
        }
        assert environment["DATABASE_AUTH"]["value"] == "url"
        assert "ROLE_PASSWORD_RECORD" in environment
        assert volume["secret"] == {
            "secretName": "their-database",
            "items": [{"key": "ca.crt", "path": "ca.crt"}],
        }


def test_a_named_authority_is_passed_on() -> None:
    values = values_of("cluster", frozenset({"kafka"}))
    values["kafka"] |= {"authority": "ca.crt", "bootstrap": "kafka-0.streams.svc:9093"}
    del values["kafka"]["cidrs"]
    captured = capture_apart({"cluster": values})["cluster"]
    (source,) = by_kind(captured, "KafkaSource")
    environment = environment_of(captured, "record-transaction")
    recorder = Pod(
        namespace=NAMESPACE, labels={"saldo/part": "record-transaction"}, address="10.244.0.9"
    )
    broker = Pod(namespace="streams", address="10.244.0.10")
    call = Call(what="theirs", caller=recorder, called=broker, port=9093, possible=True)

    assert source["spec"]["net"]["tls"]["caCert"]["secretKeyRef"] == {
        "name": "their-kafka",
        "key": "ca.crt",
    }
    assert environment["KAFKA_CA_FILE"].endswith("/ca.crt")
    assert wrong(by_kind(captured, "NetworkPolicy"), [call]) == []


def test_the_existing_gateways_namespace_may_forward_requests() -> None:
    values = values_of("cluster", frozenset({"knative"}))
    values["edge"]["gatewayNamespace"] = "kourier-system"
    captured = capture_apart({"cluster": values})["cluster"]
    function = Pod(namespace=NAMESPACE, labels={"saldo/part": "get-balance"}, address="10.244.0.9")
    through = [
        Call(
            what=f"from {space}",
            caller=Pod(namespace=space, address="10.244.0.10"),
            called=function,
            port=8012,
            possible=space != "istio-system",
        )
        for space in ("knative-serving", "kourier-system", "istio-system")
    ]

    assert wrong(by_kind(captured, "NetworkPolicy"), through) == []


@pytest.mark.parametrize(
    ("shape", "path", "value", "problem"),
    [
        ("cluster", "kafka.bootstrap", "kafka", "saldo:kafka.bootstrap: 'kafka' is not host:port"),
        ("cluster", "kafka.bootstrap", "a:9096, b:9096", "' b:9096' is not host:port"),
        ("cluster", "kafka.bootstrap", "a:90960", "'a:90960' is not host:port"),
        ("cluster", "kafka.bootstrap", ..., "saldo:kafka.bootstrap: is missing"),
        ("cluster", "kafka.security", "plaintext", 'security: must be scram, not "plaintext"'),
        ("cluster", "kafka.secret", ..., "saldo:kafka.secret: is missing"),
        ("cluster", "kafka.secret", "a b", "'a b' is not the name of a Secret"),
        ("cluster", "kafka.brokers", 3, "saldo:kafka.brokers: is not known"),
        ("cluster", "kafka.cidrs", ["0.0.0.0/0"], "must not be the whole internet"),
        ("cluster", "kafka.bootstrap", "a.kafka.svc:9093", "cidrs: means nothing: every address"),
        ("cluster", "kafka.consumers", 13, "must be from 1 to the 12 partitions"),
        ("aws", "kafka.consumers", 1, "saldo:kafka.consumers: must be at least 2"),
        ("aws", "kafka.cidrs", [], "cidrs: is missing: the nodes' security group must name"),
        ("aws", "database.cidrs", [], "must name the networks of postgres.example.com"),
        ("cluster", "database.host", "a/b", "'a/b' is not the name of a host"),
        ("cluster", "database.port", 70_000, "saldo:database.port: must be from 1 to 65535"),
        ("cluster", "database.name", "a-b", "'a-b' is not the name of a database"),
        ("cluster", "database.secret", ..., "saldo:database.secret: is missing"),
        ("cluster", "database.connectionsMax", 60, "which may open 120"),
        ("cluster", "database.storageGib", 5, "saldo:database.storageGib: is not known"),
        ("aws", "sources", {"issuer": "https://i", "jwksUrl": "https://k"}, "means nothing in the"),
    ],
)
def test_a_bad_setting_of_an_existing_part_is_refused(
    shape: str, path: str, value: object, problem: str
) -> None:
    values = values_of(shape, frozenset(PARTS))
    *tables, last = path.split(".")
    table = values
    for key in tables:
        table = table[key]
    if value is ...:
        del table[last]
    else:
        table[last] = value

    with pytest.raises(BadConfigError) as caught:
        read_config(values)

    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_the_documented_settings_are_accepted() -> None:
    (example,) = re.findall(r"\n(    saldo:operators: existing\n(?:    .*\n)+)", DEPLOY)
    settings = yaml.safe_load(textwrap.dedent(example))
    values = values_of("cluster", frozenset())

    read = read_config(values | {key.removeprefix("saldo:"): v for key, v in settings.items()})

    assert read.operators is None
    assert read.knative is None
    assert (read.kafka.kind, read.database.kind) == ("existing", "existing")


def test_a_gateway_elsewhere_is_refused_with_knative_made_here() -> None:
    values = values_of("cluster", frozenset())
    values["edge"]["gatewayNamespace"] = "kourier-system"

    with pytest.raises(BadConfigError, match="gatewayNamespace: is knative-serving unless"):
        read_config(values)


@pytest.mark.parametrize(
    ("host", "namespace"),
    [
        ("saldo-kafka-bootstrap.streams.svc", "streams"),
        ("saldo-kafka-bootstrap.streams.svc.cluster.local", "streams"),
        ("kafka-0.brokers.streams.svc.cluster.local", "streams"),
        ("kafka.example.com", None),
        ("kafka.svc", None),
        ("kafka", None),
    ],
)
def test_a_service_is_distinguished_from_an_outside_host(host: str, namespace: str | None) -> None:
    assert namespace_of(host) == namespace


def test_manifests_of_an_existing_cluster_name_no_chart(tmp_path: Path, made: Made) -> None:
    render.write(made[ALL].resources, tmp_path)
    readme = (tmp_path / "README.md").read_text()
    namespaces = {
        item["metadata"].get("namespace", item["metadata"]["name"])
        for item in (yaml.safe_load(file.read_text()) for file in tmp_path.glob("*.yaml"))
        if item["kind"] != "ClusterRoleBinding"
    }

    assert "| chart |" not in readme
    assert "What the stack file calls existing must be there before" in readme
    assert "2*.yaml" not in readme
    assert namespaces == {NAMESPACE}


def test_render_accepts_another_stack_file(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.ours.yaml"
    values = values_of("cluster", frozenset(PARTS))
    values["kafka"]["security"] = "plaintext"
    file.write_text(yaml.safe_dump({"config": {f"saldo:{k}": v for k, v in values.items()}}))

    # In a process of its own, for what Pulumi's SDK keeps in its modules.
    options = ["--out", str(tmp_path / "out"), "--stack-file", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "infra_pulumi.render", *options],
        check=False,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )

    assert done.returncode == 1
    assert "saldo:kafka.security: must be scram" in done.stderr
