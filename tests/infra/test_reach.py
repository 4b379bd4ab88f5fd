"""What the NetworkPolicies let through and what they stop, call by call, in every stack."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest

from infra_pulumi.layers.isolation import PART, STRIMZI_PODS
from infra_pulumi.parts import FUNCTIONS, NAMESPACE
from tests.infra.conftest import by_kind, by_type
from tests.infra.reach import Call, End, Outside, Pod, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra_pulumi.capture import Captured
    from tests.infra.conftest import RecordProperty
    from tests.infra.reach import Policy

INTERNET = Outside(address="203.0.113.50")
# Where nodes of EC2 keep their credentials, and where EKS hands pods theirs.
NODE_CREDENTIALS = Outside(address="169.254.169.254")
POD_IDENTITY = Outside(address="169.254.170.23")
API_SERVER = Outside(address="172.18.0.2")


class Places:
    """The ends of the calls of one stack, where its own objects and subnets are."""

    def __init__(self, captured: Captured) -> None:
        subnets = {
            r.name: str(r.inputs["cidrBlock"])
            for r in captured.resources
            if r.type == "aws:ec2/subnet:Subnet"
        }
        self.in_aws = bool(subnets)
        self.msk = bool(by_type(captured, "aws:msk/cluster:Cluster"))
        # Pods of EKS have addresses of the network.
        private = subnets.get("private-us-east-1a", "10.244.0.0/16")
        self._address = str(ipaddress.ip_network(private)[77])
        self.data = [
            Outside(address=str(ipaddress.ip_network(cidr)[10]))
            for name, cidr in subnets.items()
            if name.startswith("data-")
        ]

    def pod(self, namespace: str, **labels: str) -> Pod:
        return Pod(
            namespace=namespace,
            labels={name.replace("__", "-"): value for name, value in labels.items()},
            address=self._address,
        )

    def part(self, name: str) -> Pod:
        return Pod(namespace=NAMESPACE, labels={PART: name}, address=self._address)

    @property
    def broker(self) -> Pod:
        return Pod(namespace=NAMESPACE, labels=STRIMZI_PODS, address=self._address)

    @property
    def databases(self) -> list[End]:
        return [*self.data] if self.in_aws else [self.part("database")]

    @property
    def dns(self) -> Pod:
        return Pod(namespace="kube-system", labels={"k8s-app": "kube-dns"}, address=self._address)


def calls(places: Places, telemetry: bool) -> Iterator[Call]:
    """Every call that matters, with what must become of it."""
    serving, eventing = places.pod("knative-serving"), places.pod("knative-eventing")
    for function in FUNCTIONS:
        its = places.part(function.service)
        name = function.name
        for protocol in ("UDP", "TCP"):
            yield Call(what=f"{name} asks DNS", caller=its, called=places.dns, port=53,
                       possible=True, protocol=protocol)  # fmt: skip
        yield from _both(f"{name} fetches token keys", its, INTERNET, 443, 80)
        yield from [
            *_possible(f"{name} logs in to the database", its, places.databases, 5432),
            *_impossible(f"{name} reads its node's credentials", its, [NODE_CREDENTIALS], 80),
            *_impossible(f"{name} logs in to the nodes", its, places.databases, 22),
            *_impossible(f"{name} is called by a pod of another namespace",
                         places.pod("default"), [its], 8012),
            *_impossible(f"{name} is called around Knative", eventing, [its], 8012),
            *_impossible(f"{name} is called around its queue-proxy", serving, [its], 5432),
        ]  # fmt: skip
        for port in (8012, 8013, 8112, 9090):
            yield from _possible(f"Knative calls {name}", serving, [its], port)
        for other in FUNCTIONS:
            yield from _impossible(
                f"{name} calls {other.name}", its, [places.part(other.service)], 8012
            )
        collector = places.pod("observability")
        check = _possible if telemetry else _impossible
        yield from check(f"{name} sends telemetry", its, [collector], 4318)
        yield from check(f"{name}'s metrics are read", collector, [its], 8080)
        yield from check(f"its queue-proxy's metrics are read ({name})", collector, [its], 9091)
        for namespace in ("default", "knative-serving"):
            reader = places.pod(namespace)
            yield from _impossible(f"{namespace} reads {name}'s metrics", reader, [its], 8080)
        if places.in_aws:
            yield from _both(f"{name} gets its identity", its, POD_IDENTITY, 80, 8080)
            elsewhere = places.pod("kube-system", app="anything")
            yield from _impossible(f"{name} calls into the network", its, [elsewhere], 443)
        else:
            yield from _possible(f"{name} fetches the cluster's keys", its, [API_SERVER], 6443)
    yield from _kafka_calls(places)
    for job in ("migrate", "operate"):
        its = places.part(job)
        yield from _possible(f"{job} logs in to the database", its, places.databases, 5432)
        yield from _impossible(f"{job} calls the internet", its, [INTERNET], 443)
        # Kourier's port inside the cluster: `saldo status` asks the functions by their names.
        check = _possible if job == "operate" else _impossible
        yield from check(f"{job} asks the functions", its, [places.pod("knative-serving")], 8081)
        yield from _impossible(f"{job} calls others", its, [places.pod("default")], 8081)
        yield from _impossible(f"{job} is called", places.pod("default"), [its], 8080)
    if not places.in_aws:
        yield from _impossible(
            "another namespace calls the database", places.pod("default"), places.databases, 5432
        )


def _kafka_calls(places: Places) -> Iterator[Call]:
    record = places.part("record-transaction")
    others = [places.part(name) for name in ("project-balance", "get-balance", "migrate")]
    brokers: list[End] = [*places.data] if places.msk else [places.broker]
    port = 9098 if places.msk else 9093
    yield from _possible("the recorder sends to Kafka", record, brokers, port)
    for other in others:
        yield from _impossible(f"{other.labels} calls Kafka", other, brokers, port)
    if places.msk:
        yield from _impossible("the recorder logs in by password", record, brokers, 9096)
        acls = places.part("kafka-acls")
        yield from _possible("the ACLs are set", acls, brokers, port)
        yield from _possible("the ACLs' Job gets its identity", acls, [POD_IDENTITY], 80)
    else:
        eventing, default = places.pod("knative-eventing"), places.pod("default")
        yield from _possible("the KafkaSource reads", eventing, brokers, port)
        yield from _possible("brokers talk", places.broker, brokers, 9091)
        yield from _possible("Strimzi's pods call the API", places.broker, [API_SERVER], 6443)
        yield from _impossible("another namespace reads Kafka", default, brokers, port)


def _possible(what: str, caller: End, called: list[End], port: int) -> list[Call]:
    return [Call(what=what, caller=caller, called=c, port=port, possible=True) for c in called]


def _impossible(what: str, caller: End, called: list[End], port: int) -> list[Call]:
    return [Call(what=what, caller=caller, called=c, port=port, possible=False) for c in called]


def _both(what: str, caller: End, called: End, allowed: int, refused: int) -> list[Call]:
    return [
        *_possible(what, caller, [called], allowed),
        *_impossible(what, caller, [called], refused),
    ]


def policies_of(captured: Captured) -> list[Policy]:
    """Return the program's policies, and those that Strimzi makes of what the program tells it."""
    strimzi: list[Policy] = []
    for kafka in by_kind(captured, "Kafka"):
        (listener,) = kafka["spec"]["kafka"]["listeners"]
        port = {"protocol": "TCP", "port": listener["port"]}
        among: dict[str, Any] = {"from": [{"podSelector": {"matchLabels": STRIMZI_PODS}}]}
        ingress = [{"from": listener["networkPolicyPeers"], "ports": [port]}, among]
        spec = {
            "podSelector": {"matchLabels": STRIMZI_PODS},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        }
        metadata = {"name": "strimzi's own", "namespace": NAMESPACE}
        strimzi.append({"metadata": metadata, "spec": spec})
    return [*by_kind(captured, "NetworkPolicy"), *strimzi]


@pytest.fixture
def expected(captured: Captured, stack: str) -> list[Call]:
    return list(calls(Places(captured), telemetry=stack == "prod"))


def test_every_call_is_allowed_or_blocked_as_intended(
    captured: Captured, expected: list[Call], record_property: RecordProperty
) -> None:
    record_property("calls judged", len(expected))

    assert len(expected) > 60
    assert wrong(policies_of(captured), expected) == []


def test_every_policy_is_needed(captured: Captured, expected: list[Call]) -> None:
    """The table above would notice: it is no weaker than the policies that it judges."""
    policies = policies_of(captured)
    unmissed = [
        gone["metadata"]["name"]
        for gone in policies
        if not wrong([p for p in policies if p is not gone], expected)
    ]

    assert len(policies) >= 8
    assert unmissed == []
