"""The configuration's rules: what a stack file may say, and how it is told what it may not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pydantic import ValidationError

from infra_pulumi import config
from infra_pulumi.config import BadConfigError, read_config
from infra_pulumi.layers.database.connection_budget import connections_needed, connections_usable
from infra_pulumi.layers.kafka.strimzi import StrimziConfig
from infra_pulumi.parts import FUNCTIONS, source_identity
from infra_pulumi.pulumi_config import read_stack

PROGRAM = Path(config.__file__).parent
STACKS = ("cluster", "dev", "prod")
DIGEST = "sha256:" + "a" * 64


def values_of(stack: str) -> dict[str, Any]:
    raw = yaml.safe_load((PROGRAM / f"Pulumi.{stack}.yaml").read_text())["config"]
    return {key.removeprefix("saldo:"): value for key, value in raw.items()}


def problems_of(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(BadConfigError) as caught:
        read_config(values)
    return caught.value.problems


def changed(stack: str, path: str, value: object) -> dict[str, Any]:
    """Return the values of ``stack`` with the one under ``path`` (keys joined by dots) replaced."""
    values = copy.deepcopy(values_of(stack))
    *tables, last = path.split(".")
    table = values
    for key in tables:
        table = table[key]
    if value is ...:
        del table[last]
    else:
        table[last] = value
    return values


@pytest.mark.parametrize(
    ("stack", "path", "value", "problem"),
    [
        ("dev", "shape", "gcp", "saldo:shape: must be aws or cluster"),
        ("dev", "images", ..., "saldo:images: is missing; say pending"),
        ("dev", "callers", ..., "saldo:callers: is missing; say none"),
        ("dev", "callers", "none", "may be none in the shape cluster only"),
        ("dev", "callers.jwksUrl", "http://x", "saldo:callers.jwksUrl: must start with https://"),
        ("dev", "callers.isuer", "x", "saldo:callers.isuer: is not known"),
        ("dev", "aws", ..., "saldo:aws: is missing, and the shape aws needs it"),
        ("dev", "aws.account", "1234", "saldo:aws.account: must be 12 digits"),
        ("dev", "aws.account", 123456789012, "must be a text (in quotes, if digits)"),
        ("dev", "aws.zones", ["us-east-1a"], "saldo:aws.zones: must be 2 or 3"),
        ("dev", "aws.zones", ["us-east-1a", "us-east-1a"], "saldo:aws.zones: must be 2 or 3"),
        ("dev", "aws.zones", ["us-east-1a", "eu-west-1a"], "eu-west-1a is not in us-east-1"),
        ("dev", "aws.cidr", "10.0.0.0/24", "saldo:aws.cidr: must be a private network"),
        ("dev", "aws.cidr", "8.0.0.0/16", "saldo:aws.cidr: must be a private network"),
        ("dev", "aws.nat", "two", "saldo:aws.nat: must be one or per-zone"),
        ("dev", "eks.publicAccessCidrs", ["0.0.0.0/0"], "must not be the whole internet"),
        ("dev", "eks.publicAccessCidrs", ["desk"], "'desk' is not a network"),
        ("dev", "eks.administrators", [], "saldo:eks.administrators: must name at least one"),
        ("dev", "eks.administrators", ["me"], "'me' is not the ARN"),
        ("dev", "eks.instanceTypes", ["m7i.metal"], "'m7i.metal' is not an instance type"),
        ("dev", "eks.instanceTypes", [], "saldo:eks.instanceTypes: must name at least one"),
        ("dev", "eks.nodesMin", 1, "saldo:eks.nodesMin: must be at least 2"),
        ("dev", "eks.nodesMin", 4, "saldo:eks.nodesMin: must be a multiple of the 3 zones"),
        ("dev", "eks.nodesMax", 7, "saldo:eks.nodesMax: must be a multiple of the 3 zones"),
        ("dev", "eks.nodesMax", "6", "saldo:eks.nodesMax: must be a whole number"),
        ("dev", "eks.nodesMax", True, "saldo:eks.nodesMax: must be a whole number"),
        ("dev", "kafka.brokers", 2, "with two, a restart stops the topic"),
        ("dev", "kafka.consumers", 13, "saldo:kafka.consumers: must be from 1 to the 12"),
        ("prod", "kafka.consumers", 1, "saldo:kafka.consumers: must be at least 2"),
        ("dev", "kafka.retentionHours", 0, "retentionHours and storageGib must be at least 1"),
        ("dev", "kafka.instanceType", "kafka.t3.small", "kafka.instanceType: is not known"),
        ("prod", "kafka.instanceType", ..., "saldo:kafka.instanceType: is missing"),
        ("prod", "kafka.brokers", 4, "must be a multiple of the number of zones"),
        ("prod", "kafka.brokers", 1, "must be at least 3 in a protected stack"),
        ("prod", "database.multiAz", False, "must be true in a protected stack"),
        ("prod", "database.backupDays", 36, "saldo:database.backupDays: must be from 1 to 35"),
        ("prod", "database.storageGibMax", 200, "must be above storageGib"),
        ("prod", "database.instanceClass", ..., "saldo:database.instanceClass: is missing"),
        ("prod", "protected", "yes", "saldo:protected: must be true or false"),
        ("prod", "edge.hostedZone", ..., "saldo:edge.hostedZone: is missing"),
        ("prod", "edge.domain", "localhost", "'localhost' is not a domain"),
        ("prod", "currency", "reais", "is not an ISO 4217 code"),
        ("prod", "telemetry.endpoint", "collector:4318", "must be an http or https URL"),
        ("prod", "telemetry.endpoint", ..., "traceSampleRatio: must be from 0 to 1"),
        ("prod", "telemetry.traceSampleRatio", "1.5", "traceSampleRatio: must be from 0 to 1"),
        ("prod", "telemetry.metricsFrom", "a/b", "'a/b' is not the name of a namespace"),
        ("prod", "telemetry", {}, "saldo:telemetry: must name an endpoint"),
        ("prod", "edge.callerCidrs", ..., "saldo:edge.callerCidrs: is missing"),
        ("prod", "edge.callerCidrs", [], "saldo:edge.callerCidrs: must name at least one"),
        ("prod", "edge.callerCidrs", ["us"], "saldo:edge.callerCidrs[0]: 'us' is not a network"),
        ("prod", "edge.port", 8443, "saldo:edge.port: the load balancer listens on 443"),
        ("prod", "knative.keda", False, "saldo:knative.keda: is not known"),
        ("prod", "knative.replicas", 0, "saldo:knative.replicas: must be from 1 to 5"),
        ("prod", "functions", [], "saldo:functions: must be a table"),
        ("prod", "functions.get_balance", ..., "saldo:functions.get_balance: is missing"),
        ("prod", "functions.get_balance.podsMin", 21, "podsMin must be at most podsMax"),
        ("prod", "functions.get_balance.podsMax", 0, "podsMax at least 1"),
        ("prod", "functions.get_balance.concurrency", 501, "must be from 1 to concurrencyMax"),
        ("prod", "functions.get_balance.timeoutS", 45, "must be at least 46"),
        ("prod", "functions.get_balance.timeoutS", 121, "must be at most 120"),
        ("prod", "functions.get_balance.podsMax", 51, "podsMax: must be at most 50"),
        ("prod", "functions.get_balance.concurrencyMax", 1001, "and that at most 1000"),
        ("prod", "functions.get_balance.poolSize", 6, "must be from 2 to 5"),
        ("prod", "functions.get_balance.memory", "lots", "'lots' is not a quantity"),
        ("prod", "functions.get_balance.cpu", "1Gi", "'1Gi' is not a quantity of processors"),
        ("cluster", "kafka.kind", "msk", "saldo:kafka.kind: msk is there in the shape aws only"),
        ("cluster", "kafka.kind", "redpanda", "saldo:kafka.kind: must be one of 'msk', 'strimzi'"),
        ("cluster", "kafka.kind", ..., "saldo:kafka.kind: is missing"),
        ("cluster", "database.kind", "rds", "rds is there in the shape aws only"),
        ("dev", "database.kind", "pod", "pod is there in the shape cluster only"),
        ("dev", "operators", ..., "saldo:operators: is missing; say existing outright"),
        ("dev", "knative", "there", "saldo:knative: must be a table, or existing"),
        ("cluster", "context", ..., "saldo:context: is missing"),
        ("cluster", "database.multiAz", True, "saldo:database.multiAz: is not known"),
        ("cluster", "images", {"operate": "x"}, "saldo:images.get_balance: is missing"),
    ],
)
def test_a_bad_value_is_refused_with_its_path(
    stack: str, path: str, value: object, problem: str
) -> None:
    problems = problems_of(changed(stack, path, value))

    assert any(problem in line for line in problems), problems


def test_all_problems_are_reported_at_once() -> None:
    values = changed("prod", "database.backupDays", 36)
    values["currency"] = "x"
    values["kafka"]["consumers"] = 0

    assert len(problems_of(values)) == 3


def test_problems_of_every_kind_are_reported_at_once() -> None:
    """A wrong type hides neither the rules of other sections nor an unknown key."""
    values = changed("prod", "database.multiAz", "yes")
    values["kafka"]["colour"] = "red"
    del values["edge"]["hostedZone"]
    del values["callers"]

    assert sorted(line.partition(": ")[0] for line in problems_of(values)) == [
        "saldo:callers",
        "saldo:database.multiAz",
        "saldo:edge.hostedZone",
        "saldo:kafka.colour",
    ]


def test_a_problem_within_a_list_names_its_place() -> None:
    problems = problems_of(changed("dev", "eks.publicAccessCidrs", ["203.0.113.7/32", "desk"]))

    assert problems == ("saldo:eks.publicAccessCidrs[1]: 'desk' is not a network",)


def test_a_key_in_pythons_spelling_is_refused() -> None:
    problems = problems_of(changed("dev", "kafka.storage_gib", 5))

    assert problems == ("saldo:kafka.storage_gib: is not known",)


def test_an_unknown_key_of_pulumis_configuration_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pulumi hands the whole file over: a misspelt section must not count as left out."""
    texts = {key: json.dumps(value) for key, value in values_of("prod").items()}
    told = {f"saldo:{key}": text for key, text in texts.items()} | {"aws:region": "us-east-1"}
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(told))
    assert read_stack() == read_config(values_of("prod"))

    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(told | {"saldo:telemetri": "{}"}))

    with pytest.raises(pulumi.RunError, match="saldo:telemetri: is not known"):
        read_stack()


def test_a_stack_cannot_be_changed_once_it_is_read() -> None:
    stack = read_config(values_of("prod"))

    with pytest.raises(ValidationError, match="frozen"):
        stack.kafka.consumers = 6


def test_images_are_named_by_digest_in_the_stacks_own_registry() -> None:
    registry = "000000000000.dkr.ecr.us-east-1.amazonaws.com"
    images = {f.name: f"{registry}/x@{DIGEST}" for f in FUNCTIONS} | {
        "operate": f"{registry}/x:latest",
        "get_balance": f"docker.io/x@{DIGEST}",
    }

    problems = problems_of(changed("prod", "images", images))

    assert len(problems) == 2
    assert any("saldo:images.operate: must be named by digest" in line for line in problems)
    assert any("saldo:images.get_balance: must come from this stack's" in line for line in problems)


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_that_could_run_out_of_connections_is_refused(stack: str) -> None:
    values = values_of(stack)
    read = read_config(values)
    needed = connections_needed(read.functions)
    assert needed > 0
    # The smallest database that this stack fits, and the one just below.
    fits = next(size for size in range(5_000) if connections_usable(size) >= needed)

    values["database"]["connectionsMax"] = fits
    read_config(values)
    values["database"]["connectionsMax"] = fits - 1

    assert f"may open {needed}" in problems_of(values)[0]


def test_the_budget_counts_every_pool_of_both_revisions() -> None:
    functions = read_config(values_of("prod")).functions

    needed = connections_needed(functions)

    # 20 pods with one pool, 12 and 20 with two, of 4 connections each, while one revision drains.
    assert needed == 2 * (20 * 1 * 4 + 12 * 2 * 4 + 20 * 2 * 4)


def test_a_source_with_too_long_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        source_identity("a" * 27, "kafkasource")


@pytest.mark.parametrize(
    ("brokers", "replication", "min_in_sync"), [(1, 1, 1), (3, 3, 2), (6, 3, 2)]
)
def test_replication_follows_from_the_brokers(
    brokers: int, replication: int, min_in_sync: int
) -> None:
    kafka = read_config(changed("cluster", "kafka.brokers", brokers)).kafka
    assert isinstance(kafka, StrimziConfig)

    assert (kafka.replication, kafka.min_in_sync) == (replication, min_in_sync)
