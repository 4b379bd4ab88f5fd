"""What a stack's parts must agree on, which no single resource shows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra_pulumi import versions
from infra_pulumi.capture import Captured, Resource, capture_apart, sample_images, stack_values
from infra_pulumi.layers.knative import CONCURRENCY_LIMIT, PODS_LIMIT, TIMEOUT_S_MAX
from infra_pulumi.parts import FUNCTIONS, OPERATE_ROLE
from tests.infra.conftest import by_kind, by_type, named

in_aws = pytest.mark.parametrize("stack", ["dev", "prod"], indirect=True)


def service_account(resource: Resource) -> str | None:
    """Return the service account of a resource's pods; a chart's is called after it."""
    if resource.type == "kubernetes:helm.sh/v3:Release":
        return resource.name
    spec = resource.inputs.get("spec") or {}
    template = spec.get("jobTemplate", {}).get("spec", spec).get("template") or {}
    account: str | None = template.get("spec", {}).get("serviceAccountName")
    return account


@in_aws
def test_no_pod_starts_before_its_identity_is_there(captured: Captured) -> None:
    """EKS hands it over when the pod is made: a pod that was there before never gets it."""
    identities = {
        r.inputs["serviceAccount"]: {r.urn}
        | {p.urn for p in captured.resources if p.name == r.name and p.type.endswith(":RolePolicy")}
        for r in captured.resources
        if r.type.endswith(":PodIdentityAssociation")
    }
    seen = {}
    for resource in captured.resources:
        account = service_account(resource)
        if account in identities:
            seen[account] = identities[account] - set(resource.depends_on)

    assert seen.keys() == identities.keys()
    assert len(seen) >= 7
    assert not any(seen.values()), seen


@in_aws
def test_every_add_on_has_the_chosen_version(captured: Captured) -> None:
    addons = {
        r.inputs["addonName"]: r.inputs["addonVersion"]
        for r in captured.resources
        if r.type == "aws:eks/addon:Addon"
    }
    (cluster,) = by_type(captured, "eks:index:Cluster")

    assert addons == {
        "coredns": versions.COREDNS,
        "eks-pod-identity-agent": versions.POD_IDENTITY_AGENT,
        "metrics-server": versions.METRICS_SERVER,
        "aws-ebs-csi-driver": versions.EBS_CSI_DRIVER,
    }
    # pulumi-eks makes that one beside nodes of its own only, and leaves it out without a word.
    assert cluster["skipDefaultNodeGroup"] is True
    assert cluster["corednsAddonOptions"]["enabled"] is False
    assert cluster["vpcCniOptions"]["addonVersion"] == versions.VPC_CNI
    assert cluster["kubeProxyAddonOptions"]["version"] == versions.KUBE_PROXY
    assert cluster["version"] == versions.KUBERNETES
    groups = by_type(captured, "aws:eks/nodeGroup:NodeGroup")
    assert {nodes["version"] for nodes in groups} == {versions.KUBERNETES}


@in_aws
def test_administrators_have_access_by_name_only(captured: Captured, stack: str) -> None:
    (cluster,) = by_type(captured, "eks:index:Cluster")
    entries = cluster["accessEntries"].values()

    assert cluster["authenticationMode"] == "API"
    assert [entry["principalArn"] for entry in entries] == stack_values(stack)["eks"][
        "administrators"
    ]
    for entry in entries:
        (policy,) = entry["accessPolicies"].values()
        assert policy["policyArn"].endswith("/AmazonEKSClusterAdminPolicy")
        assert policy["accessScope"] == {"type": "cluster"}


@in_aws
def test_certificates_are_proved_with_the_operators_identity(captured: Captured) -> None:
    """An Issuer gets it only where cert-manager was told so, and port 53 is closed to nodes."""
    values = named(captured, "Release", "cert-manager").inputs["values"]
    (issuer,) = by_kind(captured, "Issuer")
    (solver,) = issuer["spec"]["acme"]["solvers"]

    assert "auth" not in solver["dns01"]["route53"]
    assert set(values["extraArgs"]) == {
        "--issuer-ambient-credentials",
        "--dns01-recursive-nameservers-only",
    }


@in_aws
def test_the_operator_reads_only_the_secret_of_rds(captured: Captured) -> None:
    policies = {
        r.name: json.loads(r.inputs["policy"])["Statement"]
        for r in captured.resources
        if r.type.endswith(":RolePolicy") and r.inputs["role"].endswith("external-secrets")
    }
    (owner,) = policies["database-owner"]
    (delivered,) = [
        item
        for item in by_kind(captured, "ExternalSecret")
        if item["metadata"]["name"] == "database-credentials"
    ]

    assert owner["Resource"] == delivered["spec"]["data"][0]["remoteRef"]["key"]
    assert ":secret:rds!db-example" in owner["Resource"]
    assert "rds!" not in json.dumps(policies["external-secrets"])


def test_every_resource_with_readiness_is_waited_for(captured: Captured) -> None:
    """Knative's kinds, and their webhooks, are there only once its operator has installed it."""
    custom = [
        r
        for r in captured.resources
        if r.kind and "." in r.inputs["apiVersion"] and "k8s.io" not in r.inputs["apiVersion"]
    ]
    waited = {
        r.kind: r.inputs["metadata"].get("annotations", {}).get("pulumi.com/waitFor")
        for r in custom
    }
    knative = {r.urn for r in custom if r.kind in {"KnativeServing", "KnativeEventing"}}

    assert len(custom) >= 19
    assert {kind for kind, what in waited.items() if what != "condition=Ready"} <= {
        "KafkaNodePool",
        "Password",
        "TargetGroupBinding",
    }
    assert len(knative) == 2
    for resource in custom:
        if resource.kind in {"Service", "KafkaSource", "PingSource", "DomainMapping"}:
            assert knative <= set(resource.depends_on)


def test_the_functions_come_after_the_jobs(captured: Captured) -> None:
    jobs = {r.urn for r in captured.resources if r.kind == "Job"}
    services = [r for r in captured.resources if "serving.knative.dev/v1:Service" in r.type]

    assert len(jobs) >= 1
    assert len(services) == len(FUNCTIONS)
    for service in services:
        assert jobs <= set(service.depends_on)


def test_the_source_comes_after_all_that_it_looks_up(captured: Captured) -> None:
    """Made before its sink, topic or user is ready, it stays unready for minutes."""
    (source,) = [r for r in captured.resources if r.kind == "KafkaSource"]
    needed = {
        r.urn
        for r in captured.resources
        if (r.name == "project-balance" and "serving.knative.dev/v1:Service" in r.type)
        or r.kind in {"Kafka", "KafkaTopic", "KafkaUser"}
        or r.type in {"aws:msk/topic:Topic", MSK_USER}
    }

    assert len(needed) >= 3
    assert needed <= set(source.depends_on)


MSK_USER = "aws:msk/singleScramSecretAssociation:SingleScramSecretAssociation"


@pytest.mark.parametrize("stack", ["cluster"])
def test_a_new_command_line_image_makes_a_new_migration(
    stack: str, captures: dict[str, Captured]
) -> None:
    values = stack_values(stack)
    values["images"] = sample_images(values) | {
        "operate": f"registry.example.com/saldo/operate@sha256:{'e' * 64}"
    }
    after = capture_apart({stack: values})[stack]

    def jobs(captured: Captured) -> dict[str, str]:
        return {r.name: r.inputs["metadata"]["name"] for r in captured.resources if r.kind == "Job"}

    def others(captured: Captured) -> dict[str, Any]:
        kept = copy.deepcopy(captured.resources)
        return {r.urn: r.inputs for r in kept if r.kind not in {"Job", "CronJob"}}

    assert jobs(captures[stack]).keys() == jobs(after).keys() == {"migrate"}
    assert jobs(after)["migrate"] == f"migrate-{'e' * 12}"
    assert jobs(captures[stack])["migrate"] != jobs(after)["migrate"]
    assert others(captures[stack]) == others(after)


def test_the_operators_pod_never_runs_by_itself(captured: Captured) -> None:
    (job,) = by_kind(captured, "CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}

    urls = {name: environment[name]["value"] for name in ("RECORD_URL", "BALANCE_URL")}
    assert urls == {
        "RECORD_URL": "http://record-transaction.saldo.svc.cluster.local",
        "BALANCE_URL": "http://get-balance.saldo.svc.cluster.local",
    }
    assert environment["PROJECT_URL"]["value"] == "http://project-balance.saldo.svc.cluster.local"
    assert job["spec"]["suspend"] is True
    assert container["args"] == ["verify", "--workers=2"]
    templates = {
        (item["spec"]["target"]["name"], key): text
        for item in by_kind(captured, "ExternalSecret")
        for key, text in item["spec"]["target"]["template"]["data"].items()
    }
    for name in ("EVENT_STORE_URL", "READ_MODEL_URL"):
        reference = environment[name]["valueFrom"]["secretKeyRef"]
        url = templates[reference["name"], reference["key"]]
        assert url.startswith(f"postgresql://{OPERATE_ROLE}:{{{{ .")


def test_migration_waits_for_a_database_that_is_starting(captured: Captured) -> None:
    (migrate,) = [r.inputs for r in captured.resources if r.kind == "Job" and r.name == "migrate"]
    (container,) = migrate["spec"]["template"]["spec"]["containers"]
    command, option, wait_s = container["args"]

    assert (command, option) == ("migrate", "--wait")
    # Time is left to migrate, within the Job's own deadline.
    assert 300 <= int(wait_s) <= migrate["spec"]["activeDeadlineSeconds"] - 300


def test_the_operators_role_logs_in_with_its_set_password(
    captured: Captured,
) -> None:
    """By IAM it must not: the owner may become this role, and would lose its own password."""
    (migrate,) = [r.inputs for r in captured.resources if r.kind == "Job" and r.name == "migrate"]
    (container,) = migrate["spec"]["template"]["spec"]["containers"]
    given = {
        e["name"]: e["valueFrom"]["secretKeyRef"] for e in container["env"] if "valueFrom" in e
    }
    (job,) = by_kind(captured, "CronJob")
    (operate,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry for entry in operate["env"]}
    policies = [r.inputs["policy"] for r in captured.resources if r.type.endswith(":RolePolicy")]

    assert (
        given["ROLE_PASSWORD_OPERATE"]["name"]
        == (environment["EVENT_STORE_URL"]["valueFrom"]["secretKeyRef"]["name"])
    )
    assert environment["DATABASE_AUTH"]["value"] == "url"
    assert not any(OPERATE_ROLE in policy for policy in policies)


def test_knative_refuses_what_the_configuration_refuses(captured: Captured) -> None:
    (serving,) = by_kind(captured, "KnativeServing")
    knative = serving["spec"]["config"]

    assert int(knative["autoscaler"]["max-scale-limit"]) == PODS_LIMIT
    assert int(knative["defaults"]["max-revision-timeout-seconds"]) == TIMEOUT_S_MAX
    assert int(knative["defaults"]["container-concurrency-max-limit"]) == CONCURRENCY_LIMIT
    assert int(knative["defaults"]["revision-timeout-seconds"]) <= TIMEOUT_S_MAX


def test_postgresql_has_one_image_in_cluster_and_on_a_laptop() -> None:
    compose = Path(__file__).parents[2] / "local" / "compose.yaml"
    services = yaml.safe_load(compose.read_text())["services"]

    assert services["postgres"]["image"] == versions.POSTGRES_IMAGE
    assert f":{versions.POSTGRES}-" in versions.POSTGRES_IMAGE
    assert versions.POSTGRES.startswith(f"{versions.POSTGRES_MAJOR}.")


def test_deliveries_are_equal_in_the_cluster_and_on_a_laptop(captured: Captured) -> None:
    (source,) = by_kind(captured, "KafkaSource")
    compose = Path(__file__).parents[2] / "local" / "compose.yaml"
    command = yaml.safe_load(compose.read_text())["services"]["kafka-source"]["command"]
    said = dict(word.removeprefix("--").split("=", 1) for word in command[1:])
    spec, delivery = source["spec"], source["spec"]["delivery"]

    assert {
        "ordering": said["ordering"],
        "initialOffset": said["initial-offset"],
        "consumerGroup": said["group"],
        "topics": [said["topic"]],
    }.items() <= spec.items()
    assert delivery | {"deadLetterSink": None} == {
        "retry": float(said["retry"]),
        "backoffPolicy": said["backoff-policy"],
        "backoffDelay": said["backoff-delay"],
        "timeout": said["timeout"],
        "deadLetterSink": None,
    }
    assert said["sink"] == said["dead-letter-sink"]


def environment_of(captured: Captured, function: str) -> dict[str, str]:
    """Return the variables of a function that hold a value."""
    (service,) = [
        r.inputs
        for r in captured.resources
        if "serving.knative.dev/v1:Service" in r.type and r.name == function
    ]
    (container,) = service["spec"]["template"]["spec"]["containers"]
    return {e["name"]: e["value"] for e in container["env"] if "value" in e}


def test_the_consoles_page_may_call_the_recorder(captured: Captured, stack: str) -> None:
    """A browser compares origins letter by letter: the port is part of one, 443 is not written."""
    urls = captured.outputs["urls"]
    port = ":8443" if stack == "cluster" else ""

    assert urls["get_balance"].endswith(f".example.com{port}")
    assert (
        environment_of(captured, "get-balance")["CONSOLE_RECORD_URL"]
        == (urls["record_transaction"])
    )
    assert environment_of(captured, "record-transaction")["CORS_ORIGINS"] == urls["get_balance"]
    assert "CORS_ORIGINS" not in environment_of(captured, "project-balance")


def test_the_dashboard_and_the_alerts_are_deployed_and_named(captured: Captured) -> None:
    made = {
        item["metadata"]["name"]: item
        for item in by_kind(captured, "ConfigMap")
        if {"grafana_dashboard", "prometheus_rule"} & set(item["metadata"].get("labels", {}))
    }

    assert captured.outputs["dashboards"] == ["dashboards-saldo", "alerts-saldo"]
    assert made.keys() == set(captured.outputs["dashboards"])
    assert json.loads(made["dashboards-saldo"]["data"]["saldo.json"])["panels"]
    assert yaml.safe_load(made["alerts-saldo"]["data"]["saldo.yaml"])["groups"]


def test_telemetry_goes_where_the_stack_says(captured: Captured, stack: str) -> None:
    services = [r.inputs for r in captured.resources if "serving.knative.dev/v1:Service" in r.type]

    assert len(services) == len(FUNCTIONS)
    for service in services:
        environment = environment_of(captured, service["metadata"]["name"])
        annotations = service["spec"]["template"]["metadata"]["annotations"]
        told = {name: environment.get(name) for name in TELEMETRY}
        found = {name: annotations.get(name) for name in SCRAPED}
        assert told == (TELEMETRY if stack == "prod" else dict.fromkeys(TELEMETRY))
        assert found == (SCRAPED if stack == "prod" else dict.fromkeys(SCRAPED))


TELEMETRY = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.observability.svc.cluster.local:4318",
    "OTEL_TRACES_SAMPLER_ARG": "0.01",
}
SCRAPED = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": "8080",
    "prometheus.io/path": "/metrics",
}


def test_one_pod_may_be_evicted_at_a_time_a_broken_one_always(
    captured: Captured,
) -> None:
    """By what may be missing, not by what must be there: of a function at zero nothing can be."""
    budgets = {i["metadata"]["name"]: i["spec"] for i in by_kind(captured, "PodDisruptionBudget")}
    pods = {
        r.name: r.inputs["spec"]["template"]["metadata"]["labels"]
        for r in captured.resources
        if "serving.knative.dev/v1:Service" in r.type
    }

    assert budgets.keys() == pods.keys() == {f.service for f in FUNCTIONS}
    for name, spec in budgets.items():
        assert spec["maxUnavailable"] == 1
        assert "minAvailable" not in spec
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert spec["selector"]["matchLabels"].items() <= pods[name].items()


@in_aws
def test_volumes_are_encrypted_and_in_the_zone_of_their_pod(captured: Captured) -> None:
    (storage,) = by_kind(captured, "StorageClass")

    assert storage["metadata"]["annotations"] == {
        "storageclass.kubernetes.io/is-default-class": "true"
    }
    assert storage["parameters"] == {"type": "gp3", "encrypted": "true"}
    assert storage["provisioner"] == "ebs.csi.aws.com"
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"


@pytest.mark.parametrize("stack", ["dev"], indirect=True)
def test_without_interface_endpoints_only_the_free_one_is_made(captured: Captured) -> None:
    """Each is paid by the hour in each zone, and calls through the NAT gateway by their bytes."""
    (endpoint,) = by_type(captured, "aws:ec2/vpcEndpoint:VpcEndpoint")
    calls = by_type(captured, "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule")

    assert endpoint["vpcEndpointType"] == "Gateway"
    assert endpoint["serviceName"].endswith(".s3")
    assert not [r for r in captured.resources if r.name in {"endpoints", "nodes-to-endpoints"}]
    assert [rule["securityGroupId"] for rule in calls if rule.get("cidrIpv4") == "0.0.0.0/0"] == [
        "securitygroup-nodes"
    ]


@pytest.mark.parametrize("stack", ["prod"], indirect=True)
def test_aws_calls_of_nodes_and_pods_stay_in_the_network(captured: Captured) -> None:
    endpoints = by_type(captured, "aws:ec2/vpcEndpoint:VpcEndpoint")
    services = {e["serviceName"].removeprefix("com.amazonaws.us-east-1."): e for e in endpoints}
    groups = by_type(captured, "aws:eks/nodeGroup:NodeGroup")
    # The order of both is that of the mocked resources, which Pulumi makes concurrently.
    of_nodes = {subnet for group in groups for subnet in group["subnetIds"]}

    # Images with their layers, the pods' identities, secrets and their keys, nodes, targets, logs.
    assert services.keys() >= {"ecr.api", "ecr.dkr", "s3", "eks-auth", "secretsmanager", "kms"}
    assert services.keys() >= {"sts", "ec2", "autoscaling", "elasticloadbalancing", "logs"}
    assert services.pop("s3")["vpcEndpointType"] == "Gateway"
    for endpoint in services.values():
        assert endpoint["vpcEndpointType"] == "Interface"
        # Under AWS's own names, so that no client needs to be told.
        assert endpoint["privateDnsEnabled"] is True
        assert set(endpoint["subnetIds"]) == of_nodes
        assert endpoint["securityGroupIds"] == ["securitygroup-endpoints"]
