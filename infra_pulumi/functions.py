"""The functions: what runs before them, themselves, what calls them, and how they are reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pulumi
import pulumi_kubernetes as k8s

from infra_pulumi.database import AUTHORITY_DIR
from infra_pulumi.edge import HTTPS
from infra_pulumi.identity import pod_role
from infra_pulumi.isolation import (
    KAFKA_ACLS_PART,
    MIGRATE_PART,
    PART,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
)
from infra_pulumi.kafka import RECORDER_SECRET, SOURCE_SECRET
from infra_pulumi.operators import custom_resource
from infra_pulumi.parts import (
    CONSUMER_GROUP,
    FUNCTIONS,
    KAFKA_SOURCE,
    KAFKA_SOURCE_USER,
    NAMESPACE,
    OPERATE,
    PORT,
    PROJECT,
    QUERY,
    RECORD,
    SWEEPS,
    TOPIC,
    Function,
    source_identity,
)
from infra_pulumi.secrets import from_secret
from infra_pulumi.section import Section, matching

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra_pulumi.certificates import Certificates
    from infra_pulumi.cluster import Cluster
    from infra_pulumi.config import Stack
    from infra_pulumi.database import DatabaseAccess
    from infra_pulumi.kafka import KafkaAccess
    from infra_pulumi.observability import TelemetryConfig
    from infra_pulumi.registry import ImagesConfig
    from infra_pulumi.sources import SourcesIdentity

SERVING_API = "serving.knative.dev/v1"
SOURCES_API = "sources.knative.dev/v1"
HASH_SECRET = "hash"  # noqa: S105 - its name
KAFKA_AUTHORITY_DIR = "/etc/saldo/kafka"
SOURCES_AUTHORITY_DIR = "/etc/saldo/sources"
SWEEP_SCHEDULE = "*/10 * * * *"
JOB_DEADLINE_S = 900
# A verification or a rebuild of everything may take hours, but not for ever.
OPERATE_DEADLINE_S = 6 * 3600
# Each has a connection to either side: budget.py keeps twelve.
OPERATE_WORKERS = 2
JOB_RETRIES = 3
# The uid of the images' user; a number, since Kubernetes cannot tell a name from root.
UID = 65532
_KAFKA_ACLS = Path(__file__).with_name("kafka_acls.py")

# Deliveries are retried for 0.6 + 1.2 + ... + 307.2 s, 10 minutes (the dispatcher doubles the delay
# before the first retry): longer than the 5 minutes for which the projector calls an event young
# that its store does not hold yet, even without that first doubling. All of it is said, since what
# is left out of a delivery becomes zero and not the default.
DELIVERY_RETRIES = 10
DELIVERY = {
    "retry": DELIVERY_RETRIES,
    "backoffPolicy": "exponential",
    "backoffDelay": "PT0.3S",
    # Below the projector's own timeout.
    "timeout": "PT30S",
}


HttpsUrl = Annotated[str, matching("https://.*", "must start with https://, unlike {}")]


class CallersConfig(Section):
    """Whose tokens the callers carry."""

    issuer: HttpsUrl
    audience: str
    jwks_url: HttpsUrl


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Everything that the functions stand on."""

    provider: k8s.Provider
    database: DatabaseAccess
    kafka: KafkaAccess
    certificates: Certificates
    sources: SourcesIdentity
    hash_secret: pulumi.Resource
    ready: list[pulumi.Resource]
    cluster: Cluster | None


class Functions(pulumi.ComponentResource):
    """The functions of one stack."""

    urls: dict[str, str]

    def __init__(
        self,
        name: str,
        stack: Stack,
        images: ImagesConfig,
        around: Surroundings,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Functions", name, None, opts)
        self._stack, self._images, self._around = stack, images, around
        jobs = [self._migrate()]
        if stack.kafka.kind == "msk":
            jobs.append(self._kafka_acls())
        self._operate(jobs)
        services = {f.name: self._service(f, jobs) for f in FUNCTIONS}
        for function in FUNCTIONS:
            self._disruption_budget(function)
        self._kafka_source(services[PROJECT.name])
        for sweep in SWEEPS:
            # The backstop for when no process is left that would sweep by itself.
            custom_resource(
                sweep.name,
                SOURCES_API,
                "PingSource",
                {
                    "schedule": SWEEP_SCHEDULE,
                    "contentType": "application/json",
                    "data": sweep.data,
                    "sink": _sink(sweep.function),
                },
                opts=self._inside(services[sweep.function.name]),
            )
        self.urls = {}
        for function in FUNCTIONS:
            if function.host is not None:
                self._domain_mapping(function, services[function.name])
                self.urls[function.name] = self._url(function)
        self.register_outputs({"urls": self.urls})

    def _inside(self, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self,
            provider=self._around.provider,
            depends_on=[*self._around.ready, *after],
        )

    # What runs before

    def _migrate(self) -> pulumi.Resource:
        environment = [
            _variable("EVENT_STORE_URL", self._around.database.owner_url),
            _variable("READ_MODEL_URL", self._around.database.owner_url),
            # The owner's URL has its password; this makes the functions' roles log in by IAM.
            _variable("DATABASE_AUTH", {"value": self._around.database.auth}),
            *(_variable(*entry) for entry in self._around.database.passwords.items()),
        ]
        return self._job(
            MIGRATE_PART,
            {
                "args": ["migrate"],
                "env": environment,
                "volumeMounts": [_mount("database", AUTHORITY_DIR)],
            },
            [{"name": "database"} | self._around.database.authority],
            after=self._around.database.ready,
        )

    def _kafka_acls(self) -> pulumi.Resource:
        """What the source may do in MSK, which no API of AWS can say."""
        around = self._around
        identity = self._identity(KAFKA_ACLS_PART, around.kafka.acl_statements)
        script = k8s.core.v1.ConfigMap(
            KAFKA_ACLS_PART,
            metadata={"name": KAFKA_ACLS_PART, "namespace": NAMESPACE},
            data={_KAFKA_ACLS.name: _KAFKA_ACLS.read_text()},
            opts=self._inside(),
        )
        values = {
            "KAFKA_BOOTSTRAP_SERVERS": around.kafka.recorder_brokers,
            "KAFKA_TOPIC": TOPIC,
            "CONSUMER_GROUP": CONSUMER_GROUP,
            "CONSUMER": KAFKA_SOURCE_USER,
            "AWS_REGION": self._region(),
        }
        return self._job(
            KAFKA_ACLS_PART,
            {
                "command": ["python3", f"/etc/saldo/acls/{_KAFKA_ACLS.name}"],
                "env": [_variable(key, {"value": value}) for key, value in values.items()],
                "volumeMounts": [_mount("acls", "/etc/saldo/acls")],
            },
            [{"name": "acls", "configMap": {"name": KAFKA_ACLS_PART}}],
            after=[script, *identity, *around.kafka.ready],
        )

    def _job(
        self,
        name: str,
        container: dict[str, Any],
        volumes: list[dict[str, Any]],
        *,
        after: Sequence[pulumi.Resource],
    ) -> pulumi.Resource:
        """A Job of the image with the command line, waited for; a new image makes a new Job."""
        account = self._service_account(name)
        digest = self._images.of(OPERATE).rpartition(":")[2]
        spec: Any = {
            "backoffLimit": JOB_RETRIES,
            "activeDeadlineSeconds": JOB_DEADLINE_S,
            "template": self._pod(name, container, volumes),
        }
        return k8s.batch.v1.Job(
            name,
            metadata={
                # A Job cannot be changed, only made again.
                "name": f"{name}-{digest[:12]}",
                "namespace": NAMESPACE,
            },
            spec=spec,
            opts=self._inside(account, *after),
        )

    def _pod(
        self, name: str, container: dict[str, Any], volumes: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The template of a pod that runs the image with the command line and ends."""
        return {
            "metadata": {"labels": {PART: name}},
            "spec": {
                "serviceAccountName": name,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "restartPolicy": "Never",
                "securityContext": RESTRICTED_POD | {"runAsUser": UID, "runAsGroup": UID},
                "containers": [
                    {
                        "name": name,
                        "image": self._images.of(OPERATE),
                        "securityContext": RESTRICTED_CONTAINER,
                        "resources": {
                            "requests": {"cpu": "100m", "memory": "128Mi"},
                            "limits": {"memory": "256Mi"},
                        },
                    }
                    | container
                    | {"volumeMounts": [*container["volumeMounts"], _mount("tmp", "/tmp")]}  # noqa: S108 - the pod's own
                ],
                "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
            },
        }

    def _operate(self, jobs: list[pulumi.Resource]) -> None:
        """What `kubectl create job --from=cronjob/operate` makes a Job of; by itself it never runs.

        Nothing outside reaches the database, so the operator's commands run beside it.
        """
        around = self._around
        account = self._service_account(OPERATE)
        container = {
            # By itself it would take as many workers, and connections, as its node has processors.
            "args": ["verify", f"--workers={OPERATE_WORKERS}"],
            "env": [
                _variable("EVENT_STORE_URL", around.database.operate_url),
                _variable("READ_MODEL_URL", around.database.operate_url),
                _variable("DATABASE_AUTH", {"value": "url"}),
            ],
            "volumeMounts": [_mount("database", AUTHORITY_DIR)],
            "resources": {
                "requests": {"cpu": "250m", "memory": "512Mi"},
                "limits": {"memory": "1Gi"},
            },
        }
        spec: Any = {
            # A schedule is asked for; suspended, it is never looked at.
            "schedule": "0 0 1 1 *",
            "suspend": True,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 0,
                    "activeDeadlineSeconds": OPERATE_DEADLINE_S,
                    "template": self._pod(
                        OPERATE, container, [{"name": "database"} | around.database.authority]
                    ),
                }
            },
        }
        k8s.batch.v1.CronJob(
            OPERATE,
            metadata={"name": OPERATE, "namespace": NAMESPACE},
            spec=spec,
            opts=self._inside(account, *jobs),
        )

    # The functions themselves

    def _identity(self, name: str, statements: Sequence[dict[str, Any]]) -> list[pulumi.Resource]:
        """In AWS, what ``name``'s service account may do there; what its pods must wait for."""
        cluster = self._around.cluster
        if cluster is None:
            return []
        return pod_role(
            name,
            cluster=cluster.name,
            namespace=NAMESPACE,
            service_account=name,
            statements=statements,
            parent=self,
        ).ready

    def _service_account(self, name: str) -> pulumi.Resource:
        return k8s.core.v1.ServiceAccount(
            name,
            metadata={"name": name, "namespace": NAMESPACE},
            # No function calls Kubernetes; Pod Identity brings a token of its own.
            automount_service_account_token=False,
            opts=self._inside(),
        )

    def _service(self, function: Function, jobs: list[pulumi.Resource]) -> pulumi.Resource:
        stack, around = self._stack, self._around
        scaling = stack.functions.of(function.name)
        account = self._service_account(function.service)
        statements = [
            *around.database.statements.get(function.role, []),
            *(around.kafka.recorder_statements if function is RECORD else []),
        ]
        identity = self._identity(function.service, statements)
        volumes, mounts = self._volumes(function)
        container = {
            "name": "function",
            "image": self._images.of(function.name),
            "ports": [{"name": "http1", "containerPort": PORT}],
            "env": self._environment(function),
            # Knative asks every 50 ms until it is ready; a period of its own would slow that down.
            "readinessProbe": {"httpGet": {"path": "/readyz"}},
            "livenessProbe": {
                "httpGet": {"path": "/livez"},
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 3,
            },
            "resources": {
                "requests": {"cpu": scaling.cpu, "memory": scaling.memory},
                # No limit on the processor: throttling is felt as latency, memory as a neighbour.
                "limits": {"memory": scaling.memory},
            },
            "securityContext": RESTRICTED_CONTAINER | {"runAsUser": UID, "runAsGroup": UID},
            "volumeMounts": mounts,
        }
        labels = {"app.kubernetes.io/part-of": "saldo"}
        if function.host is None:
            labels["networking.knative.dev/visibility"] = "cluster-local"
        template = {
            "metadata": {
                "labels": {PART: function.service},
                "annotations": {
                    "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
                    "autoscaling.knative.dev/metric": "concurrency",
                    "autoscaling.knative.dev/target": str(scaling.concurrency),
                    # The target is meant; the rest up to the hard limit is for bursts.
                    "autoscaling.knative.dev/target-utilization-percentage": "100",
                    "autoscaling.knative.dev/min-scale": str(scaling.pods_min),
                    "autoscaling.knative.dev/max-scale": str(scaling.pods_max),
                    "autoscaling.knative.dev/window": "60s",
                    **_scraped(stack.telemetry),
                },
            },
            "spec": {
                "serviceAccountName": function.service,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "containerConcurrency": scaling.concurrency_max,
                # It is the pod's termination grace too.
                "timeoutSeconds": scaling.timeout_s,
                "containers": [container],
                "volumes": volumes,
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "topology.kubernetes.io/zone",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": {PART: function.service}},
                    }
                ],
            },
        }
        return custom_resource(
            function.service,
            SERVING_API,
            "Service",
            {"template": template, "traffic": [{"latestRevision": True, "percent": 100}]},
            labels=labels,
            opts=self._inside(
                account,
                *identity,
                *jobs,
                *around.database.ready,
                *around.kafka.ready,
                *around.sources.ready,
                around.hash_secret,
            ),
        )

    def _volumes(self, function: Function) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        around = self._around
        volumes = [
            {"name": "tmp", "emptyDir": {}},
            {"name": "database"} | around.database.authority,
        ]
        mounts = [_mount("tmp", "/tmp"), _mount("database", AUTHORITY_DIR)]  # noqa: S108 - the pod's own
        if function is RECORD and around.kafka.authority is not None:
            secret, key = around.kafka.authority
            items = [{"key": key, "path": key}]
            volumes.append({"name": "kafka", "secret": {"secretName": secret, "items": items}})
            mounts.append(_mount("kafka", KAFKA_AUTHORITY_DIR))
        if around.sources.authority is not None and self._takes_sources(function):
            volumes.append({"name": "sources", "configMap": {"name": around.sources.authority}})
            mounts.append(_mount("sources", SOURCES_AUTHORITY_DIR))
        return volumes, mounts

    def _environment(self, function: Function) -> list[dict[str, Any]]:
        stack, around = self._stack, self._around
        scaling = stack.functions.of(function.name)
        entries: dict[str, dict[str, Any]] = {
            f"{side.upper()}_URL": around.database.urls[function.role] for side in function.sides
        }
        entries["DATABASE_AUTH"] = {"value": around.database.auth}
        entries["POOL_SIZE_MAX"] = {"value": str(scaling.pool_size)}
        entries["HASH_SECRET"] = {"valueFrom": from_secret(HASH_SECRET, "hex")}
        entries["LOG_LEVEL"] = {"value": "INFO"}
        if function is RECORD:
            entries["DEFAULT_CURRENCY"] = {"value": stack.currency}
            entries |= self._kafka_environment()
        # The projector has no callers but its sources, which always show who they are.
        secured = function is PROJECT or stack.callers is not None
        entries["AUTH"] = {"value": "oidc" if secured else "none"}
        if stack.callers is not None and function is not PROJECT:
            entries |= _callers_environment(stack.callers)
        if secured and self._takes_sources(function):
            entries |= self._sources_environment(function)
        if function is RECORD:
            # The console's page comes from the other function.
            entries["CORS_ORIGINS"] = {"value": self._url(QUERY)}
        if function is QUERY:
            entries["CONSOLE_RECORD_URL"] = {"value": self._url(RECORD)}
        entries |= _telemetry_environment(stack.telemetry)
        if stack.aws is not None:
            entries["AWS_REGION"] = {"value": stack.aws.region}
        return [_variable(name, entry) for name, entry in entries.items()]

    def _kafka_environment(self) -> dict[str, dict[str, Any]]:
        kafka = self._around.kafka
        entries: dict[str, dict[str, Any]] = {
            "KAFKA_BOOTSTRAP_SERVERS": {"value": kafka.recorder_brokers},
            "KAFKA_TOPIC": {"value": TOPIC},
            "KAFKA_SECURITY": {"value": kafka.security},
        }
        if kafka.security == "scram":
            entries["KAFKA_USERNAME"] = {"valueFrom": from_secret(RECORDER_SECRET, "user")}
            entries["KAFKA_PASSWORD"] = {"valueFrom": from_secret(RECORDER_SECRET, "password")}
        if kafka.authority is not None:
            entries["KAFKA_CA_FILE"] = {"value": f"{KAFKA_AUTHORITY_DIR}/{kafka.authority[1]}"}
        return entries

    def _takes_sources(self, function: Function) -> bool:
        return function is PROJECT or any(sweep.function is function for sweep in SWEEPS)

    def _sources_environment(self, function: Function) -> dict[str, dict[str, Any]]:
        around = self._around
        subjects = [
            source_identity(sweep.name, "pingsource")
            for sweep in SWEEPS
            if sweep.function is function
        ]
        if function is PROJECT:
            subjects.append(source_identity(KAFKA_SOURCE, "kafkasource"))
        entries: dict[str, dict[str, Any]] = {
            "SINK_ISSUER": {"value": around.sources.issuer},
            "SINK_AUDIENCE": {"value": function.audience},
            "SINK_JWKS_URL": {"value": around.sources.jwks_url},
            "SINK_SUBJECTS": {"value": ",".join(subjects)},
        }
        if around.sources.authority is not None:
            entries["SSL_CERT_FILE"] = {"value": f"{SOURCES_AUTHORITY_DIR}/ca.crt"}
        return entries

    def _disruption_budget(self, function: Function) -> None:
        spec: Any = {
            "maxUnavailable": 1,
            # A pod that does not come up must not keep its node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {PART: function.service}},
        }
        k8s.policy.v1.PodDisruptionBudget(
            function.service,
            metadata={"name": function.service, "namespace": NAMESPACE},
            spec=spec,
            opts=self._inside(),
        )

    # What calls them, and how they are reached

    def _kafka_source(self, projector: pulumi.Resource) -> None:
        stack, kafka = self._stack, self._around.kafka
        tls: dict[str, Any] = {"enable": True}
        if kafka.authority is not None:
            secret, key = kafka.authority
            tls["caCert"] = {"secretKeyRef": {"name": secret, "key": key}}
        login = {
            name: {"secretKeyRef": {"name": SOURCE_SECRET, "key": name}}
            for name in ("user", "password", "type")
        }
        annotations = None
        if stack.knative.keda:
            annotations = {
                "autoscaling.eventing.knative.dev/class": "keda.autoscaling.knative.dev",
                "autoscaling.eventing.knative.dev/min-scale": "1",
                "autoscaling.eventing.knative.dev/max-scale": str(stack.kafka.consumers),
            }
        custom_resource(
            KAFKA_SOURCE,
            SOURCES_API,
            "KafkaSource",
            {
                "bootstrapServers": pulumi.Output.from_input(kafka.source_brokers).apply(
                    lambda brokers: brokers.split(",")
                ),
                "topics": [TOPIC],
                "consumerGroup": CONSUMER_GROUP,
                "consumers": stack.kafka.consumers,
                # A delivery is a signal: its order does not matter, its rate does.
                "ordering": "unordered",
                "initialOffset": "earliest",
                "net": {"sasl": {"enable": True} | login, "tls": tls},
                "sink": _sink(PROJECT),
                "delivery": DELIVERY | {"deadLetterSink": _sink(PROJECT)},
            },
            annotations=annotations,
            opts=self._inside(projector, *kafka.ready),
        )

    def _host(self, function: Function) -> str:
        return f"{function.host}.{self._stack.edge.domain}"

    def _url(self, function: Function) -> str:
        """How callers reach a function: an origin, as browsers spell it."""
        port = self._stack.edge.port
        return f"https://{self._host(function)}{'' if port == HTTPS else f':{port}'}"

    def _domain_mapping(self, function: Function, service: pulumi.Resource) -> None:
        host, certificates = self._host(function), self._around.certificates
        secret = f"{function.service}-tls"
        certificate = certificates.certificate(secret, [host], issuer=certificates.edge)
        custom_resource(
            host,
            "serving.knative.dev/v1beta1",
            "DomainMapping",
            {
                "ref": {"apiVersion": SERVING_API, "kind": "Service", "name": function.service},
                "tls": {"secretName": secret},
            },
            # Whoever still comes without TLS is sent to it.
            annotations={"networking.knative.dev/http-protocol": "Redirected"},
            opts=self._inside(service, certificate),
        )

    def _region(self) -> str:
        return "" if self._stack.aws is None else self._stack.aws.region


def _sink(function: Function) -> dict[str, Any]:
    return {
        "ref": {
            "apiVersion": SERVING_API,
            "kind": "Service",
            "name": function.service,
            "namespace": NAMESPACE,
        },
        "audience": function.audience,
    }


def _callers_environment(callers: CallersConfig) -> dict[str, dict[str, Any]]:
    return {
        "OIDC_ISSUER": {"value": callers.issuer},
        "OIDC_AUDIENCE": {"value": callers.audience},
        "OIDC_JWKS_URL": {"value": callers.jwks_url},
    }


def _telemetry_environment(telemetry: TelemetryConfig | None) -> dict[str, dict[str, Any]]:
    if telemetry is None or telemetry.endpoint is None:
        return {}
    entries = {"OTEL_EXPORTER_OTLP_ENDPOINT": {"value": telemetry.endpoint}}
    if telemetry.trace_sample_ratio is not None:
        entries["OTEL_TRACES_SAMPLER_ARG"] = {"value": telemetry.trace_sample_ratio}
    return entries


def _scraped(telemetry: TelemetryConfig | None) -> dict[str, str]:
    """By these annotations Prometheus' usual configuration finds a pod's metrics."""
    if telemetry is None or telemetry.metrics_from is None:
        return {}
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
    }


def _variable(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"name": name} | entry


def _mount(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path, "readOnly": name != "tmp"}
