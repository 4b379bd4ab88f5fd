"""What the program asks AWS for: the shape of the stacks, and the checks of others over it."""

from __future__ import annotations

import copy
import ipaddress
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra_pulumi import versions
from infra_pulumi.capture import Captured, capture_apart, stack_values
from infra_pulumi.layers.database.rds import rds_root
from infra_pulumi.layers.network import subnets
from tests.infra.cloudformation import cloudformation
from tests.infra.conftest import by_type

if TYPE_CHECKING:
    from tests.infra.conftest import RecordProperty

AWS_STACKS = ("dev", "prod")
in_aws = pytest.mark.parametrize("stack", AWS_STACKS, indirect=True)


@in_aws
def test_every_aws_resource_has_an_explicit_provider(captured: Captured) -> None:
    seen = [r for r in captured.resources if r.custom and r.type.startswith("aws:")]

    assert len(seen) > 100
    assert [r.name for r in seen if "providers:aws::aws" not in r.provider] == []


@in_aws
def test_everything_in_the_cluster_has_its_explicit_provider(captured: Captured) -> None:
    seen = [r for r in captured.resources if r.type.startswith("kubernetes:")]

    assert len(seen) > 40
    assert [r.name for r in seen if "providers:kubernetes::cluster" not in r.provider] == []


@in_aws
def test_pods_and_data_are_in_private_subnets(captured: Captured) -> None:
    routes = by_type(captured, "aws:ec2/route:Route")
    to_the_internet = [r for r in routes if r.get("gatewayId")]
    (cluster,) = by_type(captured, "eks:index:Cluster")
    groups = by_type(captured, "aws:eks/nodeGroup:NodeGroup")
    (group,) = by_type(captured, "aws:rds/subnetGroup:SubnetGroup")

    assert [r["routeTableId"] for r in to_the_internet] == ["routetable-public"]
    assert not any(r["routeTableId"] == "routetable-data" for r in routes)
    assert all(name.startswith("subnet-private-") for name in cluster["privateSubnetIds"])
    assert "publicSubnetIds" not in cluster
    assert groups
    for nodes in groups:
        assert all(name.startswith("subnet-private-") for name in nodes["subnetIds"])
    assert all(name.startswith("subnet-data-") for name in group["subnetIds"])


def test_only_named_callers_reach_the_load_balancer(captures: Any) -> None:
    """A load balancer that passes TLS on can carry no WAF: one in front must be the only way in."""
    values = stack_values("prod")
    values["edge"]["callerCidrs"] = ["198.51.100.0/24", "203.0.113.0/24"]
    narrow = capture_apart({"prod": values})["prod"]

    assert callers_of(captures["prod"]) == {"0.0.0.0/0"}
    assert callers_of(narrow) == {"198.51.100.0/24", "203.0.113.0/24"}


def callers_of(captured: Captured) -> set[str]:
    """Return the networks that may call the load balancer."""
    rules = by_type(captured, "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")
    return {rule["cidrIpv4"] for rule in rules if rule["securityGroupId"] == "securitygroup-edge"}


def test_the_subnets_of_a_network_do_not_overlap() -> None:
    nets = [
        ipaddress.IPv4Network(cidr)
        for cidrs in subnets("10.40.0.0/16", 3).values()
        for cidr in cidrs
    ]

    assert len(nets) == 9
    assert not any(a.overlaps(b) for a in nets for b in nets if a is not b)
    assert all(net.subnet_of(ipaddress.IPv4Network("10.40.0.0/16")) for net in nets)


@in_aws
def test_only_nodes_reach_the_data(captured: Captured) -> None:
    rules = by_type(captured, "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")
    data = [
        rule
        for rule in rules
        if rule["securityGroupId"] in {"securitygroup-database", "securitygroup-kafka"}
    ]

    assert data
    assert {rule["referencedSecurityGroupId"] for rule in data} == {"securitygroup-nodes"}
    assert {rule["fromPort"] for rule in data} <= {5432, 9096, 9098}


@in_aws
def test_each_functions_role_logs_in_as_itself_only(captured: Captured) -> None:
    policies = {
        r.name: r.inputs["policy"] for r in captured.resources if r.type.endswith(":RolePolicy")
    }
    roles = {
        "record-transaction": "saldo_record",
        "project-balance": "saldo_project",
        "get-balance": "saldo_query",
    }
    for function, role in roles.items():
        statements = json.loads(policies[function])["Statement"]
        logins = [s["Resource"] for s in statements if s["Action"] == "rds-db:connect"]
        assert [login.rpartition("/")[2] for login in logins] == [role]
        may_write = "kafka-cluster:WriteData" in policies[function]
        assert may_write == (
            function == "record-transaction" and bool(by_type(captured, "aws:msk/cluster:Cluster"))
        )


@in_aws
def test_data_resources_are_protected_if_the_stack_says_so(captured: Captured, stack: str) -> None:
    kinds = (
        "aws:kms/key:Key",
        "aws:msk/cluster:Cluster",
        "aws:msk/topic:Topic",
        "aws:rds/instance:Instance",
        "aws:secretsmanager/secret:Secret",
        "eks:index:Cluster",
        "random:index/randomBytes:RandomBytes",
    )
    seen = [r for r in captured.resources if r.type in kinds]
    (database,) = by_type(captured, "aws:rds/instance:Instance")
    protected = stack == "prod"

    assert len(seen) >= 9
    assert {r.protect for r in seen} == {protected}
    assert database["deletionProtection"] is protected
    assert database["skipFinalSnapshot"] is not protected


@in_aws
def test_secret_values_are_secret_to_pulumi(captured: Captured) -> None:
    seen = [r for r in captured.resources if r.type.endswith(":SecretVersion")]

    assert seen
    assert all(".secretString" in r.secrets for r in seen)


@in_aws
def test_the_regions_root_is_a_certificate(captured: Captured) -> None:
    (roots,) = [
        r.inputs["data"]["ca.crt"] for r in captured.resources if r.name == "database-roots"
    ]

    assert roots == rds_root("us-east-1")
    assert roots.startswith("-----BEGIN CERTIFICATE-----\n")
    assert roots.count("BEGIN") == roots.count("END") == 1
    assert versions.RDS_CERTIFICATE_AUTHORITY == "rds-ca-rsa2048-g1"


def test_a_stack_without_images_makes_only_the_repositories() -> None:
    pending = stack_values("dev")
    assert pending["images"] == "pending"

    made = capture_apart({"dev": pending})["dev"]

    assert len(by_type(made, "aws:ecr/repository:Repository")) == 4
    assert not any("serving.knative.dev" in r.type for r in made.resources)
    assert set(made.outputs) == {"cluster", "dashboards", "repositories", "topic"}


# --- the checks of others -----------------------------------------------------------------------


def cfn_lint(template: dict[str, Any], folder: Path) -> list[str]:
    """Return the rule and message of each finding."""
    file = folder / "template.json"
    file.write_text(json.dumps(template))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), "--region", "us-east-1"]
        + ["--format", "json", "--", str(file)],
        check=False, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    # The exit status has a bit for each severity found; it is 1 when it did not run at all.
    assert done.returncode % 2 == 0
    return [f"{m['Rule']['Id']}: {m['Message']}" for m in json.loads(done.stdout)]


@in_aws
@pytest.mark.slow
def test_cfn_lint_knows_every_value(
    captured: Captured, tmp_path: Path, record_property: RecordProperty
) -> None:
    template = cloudformation(captured)
    record_property("resources seen", len(template["Resources"]))

    assert len(template["Resources"]) > 30
    assert cfn_lint(template, tmp_path) == []


@in_aws
@pytest.mark.slow
def test_cfn_lint_finds_an_unknown_value(captured: Captured, tmp_path: Path) -> None:
    template = copy.deepcopy(cloudformation(captured))
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::RDS::DBInstance":
            resource["Properties"]["DBInstanceClass"] = "db.t4g.enormous"
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            statement = resource["Properties"]["PolicyDocument"]["Statement"][0]
            statement["Action"] = "rds-db:conect"
        if resource["Type"] == "AWS::Logs::LogGroup":
            resource["Properties"]["RetentionInDays"] = 399

    found = "\n".join(cfn_lint(template, tmp_path))

    assert "db.t4g.enormous" in found
    assert "conect" in found
    assert "399" in found
