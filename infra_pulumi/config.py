"""A stack's configuration: read in one place into frozen values, checked before anything is made.

``read_config`` takes the values under ``saldo:`` of a Pulumi.STACK.yaml and returns a Stack, or
raises BadConfig with every problem it found, each under the path that the operator typed. Nothing
here knows Pulumi, so that the rules are tested without it. Almost nothing has a default: a stack
file says what it deploys.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from infra_pulumi.budget import connections_needed, connections_usable
from infra_pulumi.parts import FUNCTIONS, OPERATE

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = TypeVar("Value")

# Two brokers cannot keep two replicas in sync while one restarts.
BROKERS_FOR_REPLICATION = 3
# A quarter of the network is a zone's for pods, a sixty-fourth for everything else: network.py.
NETWORK_PREFIX_MAX = 20
ZONES_MIN, ZONES_MAX = 2, 3
# A termination grace below this may never run the function's own shutdown: platform.md.
TIMEOUT_S_MIN = 46
# What Knative is told to refuse, so that it is refused here first: knative.py.
TIMEOUT_S_MAX, PODS_LIMIT, CONCURRENCY_LIMIT = 120, 50, 1000
POOL_SIZE_MIN, POOL_SIZE_MAX = 2, 5
HTTPS = 443
BACKUP_DAYS_MAX = 35

_IMAGE = re.compile(r"[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}")
_ROLE = re.compile(r"arn:aws:iam::\d{12}:(role|user)/.+")
_RATIO = re.compile(r"0(\.\d{1,9})?|1(\.0{1,9})?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"\d+(m|Mi|Gi)?")


class BadConfig(Exception):  # noqa: N818 - it names the thing, and stops the preview
    """The stack's configuration cannot be deployed. The message has one line a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aws:
    """The account and the place in it. A program that runs in another account stops."""

    account: str
    region: str
    zones: tuple[str, ...]
    cidr: str
    # One gateway is cheaper, one a zone outlives the loss of a zone.
    nat: Literal["one", "per-zone"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Eks:
    """The Kubernetes cluster and its nodes."""

    # Who reaches the API from outside the network; the private endpoint is always there.
    public_access_cidrs: tuple[str, ...]
    administrators: tuple[str, ...]
    instance_types: tuple[str, ...]
    nodes_min: int
    nodes_max: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Kafka:
    """Where the facts travel."""

    kind: Literal["msk", "strimzi"]
    brokers: int
    storage_gib: int
    partitions: int
    consumers: int
    retention_hours: int
    # MSK only.
    instance_type: str | None = None

    @property
    def replication(self) -> int:
        return min(BROKERS_FOR_REPLICATION, self.brokers)

    @property
    def min_in_sync(self) -> int:
        return max(1, self.replication - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """PostgreSQL: RDS in the shape aws, one pod in the shape cluster."""

    storage_gib: int
    connections_max: int
    # RDS only.
    instance_class: str | None = None
    storage_gib_max: int | None = None
    multi_az: bool | None = None
    backup_days: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """How one function scales, and what one of its pods may use."""

    pods_min: int
    pods_max: int
    # Requests in flight in one pod: what Knative aims at, and what it never exceeds.
    concurrency: int
    concurrency_max: int
    timeout_s: int
    pool_size: int
    cpu: str
    memory: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Functions:
    """The scaling of each function, by the function's name."""

    record_transaction: Scaling
    project_balance: Scaling
    get_balance: Scaling

    def of(self, function: str) -> Scaling:
        scaling: Scaling = getattr(self, function)
        return scaling


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """References by digest, as `make images-push` prints them."""

    record_transaction: str
    project_balance: str
    get_balance: str
    operate: str

    def of(self, name: str) -> str:
        reference: str = getattr(self, name)
        return reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Oidc:
    """Whose tokens the callers carry."""

    issuer: str
    audience: str
    jwks_url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """The names under which callers reach the functions, and who certifies them."""

    domain: str
    # Both for a certificate that browsers know, neither for one that the cluster signs itself.
    acme_email: str | None = None
    hosted_zone: str | None = None
    # Other than 443 where a port-forward leads there: part of the origin that browsers name.
    port: int = HTTPS


@dataclass(frozen=True, kw_only=True, slots=True)
class Telemetry:
    """Where traces and metrics go, and who comes for them."""

    # A collector of OTLP, as a URL that the functions reach.
    endpoint: str | None = None
    # The part of requests that are traced, from 0 to 1, as a text.
    trace_sample_ratio: str | None = None
    # The namespace whose pods may read /metrics: Prometheus'.
    metrics_from: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Knative:
    """Knative's own control plane."""

    replicas: int
    # KEDA's scaling of the KafkaSource is alpha.
    keda: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """All of one stack."""

    shape: Literal["aws", "cluster"]
    # Data outlive mistakes: deletion protection, final snapshots, Pulumi's own protect.
    protected: bool
    # None while no image has been built yet, which the stack file says as "pending".
    images: Images | None
    kafka: Kafka
    database: Database
    knative: Knative
    functions: Functions
    edge: Edge
    # None where callers need no token, which the stack file says as "none".
    callers: Oidc | None
    currency: str
    # None is off.
    telemetry: Telemetry | None = None
    aws: Aws | None = None
    eks: Eks | None = None
    # The kubeconfig's context that the shape cluster deploys to.
    context: str | None = None


KEYS = tuple(field.name for field in dataclasses.fields(Stack))
# What a stack file says instead of leaving a key out: see Stack.
_SAID_OUTRIGHT = {"images": "pending", "callers": "none"}


def read_config(values: Mapping[str, Any]) -> Stack:
    """The stack that ``values`` describe, by their keys below ``saldo:``; raises BadConfig."""
    problems: list[str] = []
    given = {key: value for key, value in values.items() if value is not None}
    absent: dict[str, None] = {}
    for key, word in _SAID_OUTRIGHT.items():
        if key not in given:
            problems.append(f"saldo:{key}: is missing; say {word} outright if that is meant")
            absent[key] = None
        elif given[key] == word:
            absent[key] = None
    stack = _read(
        Stack, "saldo", {k: v for k, v in given.items() if k not in absent}, problems, absent
    )
    if stack is None or problems:
        raise BadConfig(problems)
    problems += [problem for check in _CHECKS for problem in check(stack)]
    if problems:
        raise BadConfig(problems)
    return stack


def _read(
    cls: type[Value],
    path: str,
    values: object,
    problems: list[str],
    ready: Mapping[str, Any] = types.MappingProxyType({}),
) -> Value | None:
    """An instance of the dataclass ``cls`` from ``values``; None if anything was wrong."""
    if not isinstance(values, dict):
        problems.append(f"{path}: must be a table, not {values!r}")
        return None
    separator = ":" if path == "saldo" else "."
    hints = typing.get_type_hints(cls)
    fields = {_spelled(field.name): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    found: dict[str, Any] = dict(ready)
    before = len(problems)
    problems += [f"{path}{separator}{key}: is not known" for key in values if key not in fields]
    for key, field in fields.items():
        here = f"{path}{separator}{key}"
        if key in values:
            found[field.name] = _convert(hints[field.name], here, values[key], problems)
        elif field.name not in found and field.default is dataclasses.MISSING:
            problems.append(f"{here}: is missing")
    return None if len(problems) > before else cls(**found)


def _spelled(name: str) -> str:
    """The key in the stack file: Pulumi's files are in camelCase. Functions keep their names."""
    if name in {f.name for f in FUNCTIONS}:
        return name
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _convert(hint: Any, path: str, value: object, problems: list[str]) -> Any:  # noqa: ANN401, PLR0911 - any field's type
    if typing.get_origin(hint) is types.UnionType:
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return _read(hint, path, value, problems)  # type: ignore[arg-type]
    if typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        choices = " or ".join(map(str, typing.get_args(hint)))
        problems.append(f"{path}: must be {choices}, not {value!r}")
        return None
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        problems.append(f"{path}: must be a list of texts, not {value!r}")
        return None
    # A bool is an int to Python, but not to an operator.
    if isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    words = {str: "a text (in quotes, if digits)", int: "a whole number", bool: "true or false"}
    problems.append(f"{path}: must be {words[hint]}, not {value!r}")
    return None


def _check_shape(stack: Stack) -> list[str]:
    """Each shape has what it needs, and nothing that it would ignore."""
    needed: dict[str, dict[str, object]] = {
        "aws": {
            "saldo:aws": stack.aws,
            "saldo:eks": stack.eks,
            "saldo:edge.acmeEmail": stack.edge.acme_email,
            "saldo:edge.hostedZone": stack.edge.hosted_zone,
            "saldo:database.instanceClass": stack.database.instance_class,
            "saldo:database.storageGibMax": stack.database.storage_gib_max,
            "saldo:database.multiAz": stack.database.multi_az,
            "saldo:database.backupDays": stack.database.backup_days,
        },
        "cluster": {"saldo:context": stack.context},
    }
    problems = [
        f"{path}: is missing, and the shape {stack.shape} needs it"
        for path, value in needed[stack.shape].items()
        if value is None
    ]
    other = "cluster" if stack.shape == "aws" else "aws"
    problems += [
        f"{path}: means nothing in the shape {stack.shape}"
        for path, value in needed[other].items()
        if value is not None
    ]
    if stack.shape == "cluster" and stack.kafka.kind == "msk":
        problems.append("saldo:kafka.kind: msk is there in the shape aws only")
    if (stack.kafka.kind == "msk") != (stack.kafka.instance_type is not None):
        problems.append("saldo:kafka.instanceType: goes with kind msk, and only with it")
    return problems


def _check_aws(stack: Stack) -> list[str]:
    if stack.aws is None:
        return []
    aws, problems = stack.aws, []
    if not re.fullmatch(r"\d{12}", aws.account):
        problems.append(f"saldo:aws.account: must be 12 digits, not {aws.account!r}")
    if not ZONES_MIN <= len(set(aws.zones)) == len(aws.zones) <= ZONES_MAX:
        problems.append(
            f"saldo:aws.zones: must be {ZONES_MIN} or {ZONES_MAX} different zones, not {aws.zones}"
        )
    problems += [
        f"saldo:aws.zones: {zone} is not in {aws.region}"
        for zone in aws.zones
        if not zone.startswith(aws.region)
    ]
    network = _network(aws.cidr)
    if network is None or not network.is_private or network.prefixlen > NETWORK_PREFIX_MAX:
        problems.append(
            f"saldo:aws.cidr: must be a private network of /{NETWORK_PREFIX_MAX} or more"
            f" addresses, not {aws.cidr!r}"
        )
    if stack.kafka.kind == "msk" and stack.kafka.brokers % len(aws.zones):
        problems.append("saldo:kafka.brokers: must be a multiple of the number of zones")
    return problems


def _check_eks(stack: Stack) -> list[str]:
    if stack.eks is None:
        return []
    eks, problems = stack.eks, []
    for cidr in eks.public_access_cidrs:
        network = _network(cidr)
        if network is None:
            problems.append(f"saldo:eks.publicAccessCidrs: {cidr!r} is not a network")
        elif network.prefixlen == 0:
            problems.append(
                "saldo:eks.publicAccessCidrs: must not be the whole internet; name the desks and"
                " runners that deploy, or none at all"
            )
    if not eks.administrators:
        problems.append("saldo:eks.administrators: must name at least one role")
    problems += [
        f"saldo:eks.administrators: {arn!r} is not the ARN of a role or user"
        for arn in eks.administrators
        if not _ROLE.fullmatch(arn)
    ]
    if not eks.instance_types:
        problems.append("saldo:eks.instanceTypes: must name at least one")
    if not 2 <= eks.nodes_min <= eks.nodes_max:  # noqa: PLR2004 - one may be drained
        problems.append("saldo:eks.nodesMin: must be at least 2 and at most nodesMax")
    return problems


def _check_kafka(stack: Stack) -> list[str]:
    kafka, problems = stack.kafka, []
    if kafka.brokers < 1 or kafka.brokers == BROKERS_FOR_REPLICATION - 1:
        problems.append(
            "saldo:kafka.brokers: must be 1, or at least 3 (with two, a restart stops the topic)"
        )
    if stack.protected and kafka.brokers < BROKERS_FOR_REPLICATION:
        problems.append("saldo:kafka.brokers: must be at least 3 in a protected stack")
    if not 1 <= kafka.consumers <= kafka.partitions:
        problems.append(
            f"saldo:kafka.consumers: must be from 1 to the {kafka.partitions} partitions; more"
            " would have nothing to read"
        )
    if kafka.retention_hours < 1 or kafka.storage_gib < 1:
        problems.append("saldo:kafka: retentionHours and storageGib must be at least 1")
    return problems


def _check_database(stack: Stack) -> list[str]:
    database, problems = stack.database, []
    if database.storage_gib_max is not None and database.storage_gib_max <= database.storage_gib:
        problems.append("saldo:database.storageGibMax: must be above storageGib, to grow into")
    days = database.backup_days
    if days is not None and not 1 <= days <= BACKUP_DAYS_MAX:
        problems.append(f"saldo:database.backupDays: must be from 1 to {BACKUP_DAYS_MAX}")
    if stack.protected and database.multi_az is False:
        problems.append("saldo:database.multiAz: must be true in a protected stack")
    return problems


def _check_functions(stack: Stack) -> list[str]:
    problems: list[str] = []
    for function in FUNCTIONS:
        scaling, path = stack.functions.of(function.name), f"saldo:functions.{function.name}"
        # Without an upper bound nothing bounds the connections to the database.
        if not 0 <= scaling.pods_min <= scaling.pods_max or scaling.pods_max < 1:
            problems.append(f"{path}: podsMin must be at most podsMax, and podsMax at least 1")
        if scaling.pods_max > PODS_LIMIT:
            problems.append(f"{path}.podsMax: must be at most {PODS_LIMIT}")
        if not 1 <= scaling.concurrency <= scaling.concurrency_max <= CONCURRENCY_LIMIT:
            problems.append(
                f"{path}.concurrency: must be from 1 to concurrencyMax, and that at most"
                f" {CONCURRENCY_LIMIT}"
            )
        if scaling.timeout_s > TIMEOUT_S_MAX:
            problems.append(f"{path}.timeoutS: must be at most {TIMEOUT_S_MAX}")
        if scaling.timeout_s < TIMEOUT_S_MIN:
            problems.append(
                f"{path}.timeoutS: must be at least {TIMEOUT_S_MIN}, or a pod is killed before it"
                " has drained"
            )
        if not POOL_SIZE_MIN <= scaling.pool_size <= POOL_SIZE_MAX:
            problems.append(f"{path}.poolSize: must be from {POOL_SIZE_MIN} to {POOL_SIZE_MAX}")
        problems += [
            f"{path}.{name}: {quantity!r} is not a quantity"
            for name, quantity in (("cpu", scaling.cpu), ("memory", scaling.memory))
            if not _QUANTITY.fullmatch(quantity)
        ]
    return problems


def _check_connections(stack: Stack) -> list[str]:
    needed = connections_needed(
        {f.name: stack.functions.of(f.name) for f in FUNCTIONS},
    )
    usable = connections_usable(stack.database.connections_max)
    if needed <= usable:
        return []
    return [
        (
            f"saldo:database.connectionsMax: {stack.database.connections_max} leave {usable} for"
            f" the functions, which may open {needed}: raise it, or lower podsMax or poolSize"
        )
    ]


def _check_images(stack: Stack) -> list[str]:
    if stack.images is None:
        return []
    problems = []
    for name in (*(f.name for f in FUNCTIONS), OPERATE):
        reference, path = stack.images.of(name), f"saldo:images.{_spelled(name)}"
        if not _IMAGE.fullmatch(reference):
            problems.append(f"{path}: must be named by digest (...@sha256:...), not {reference!r}")
        elif stack.aws is not None:
            registry = f"{stack.aws.account}.dkr.ecr.{stack.aws.region}.amazonaws.com/"
            if not reference.startswith(registry):
                problems.append(f"{path}: must come from this stack's registry, {registry}")
    return problems


def _check_edge(stack: Stack) -> list[str]:
    problems = []
    if not _DOMAIN.fullmatch(stack.edge.domain):
        problems.append(f"saldo:edge.domain: {stack.edge.domain!r} is not a domain")
    if stack.callers is None and stack.shape == "aws":
        problems.append("saldo:callers: may be none in the shape cluster only")
    if stack.callers is not None:
        problems += [
            f"saldo:callers.{_spelled(name)}: must start with https://"
            for name in ("issuer", "jwks_url")
            if not getattr(stack.callers, name).startswith("https://")
        ]
    if not re.fullmatch(r"[A-Z]{3}", stack.currency):
        problems.append(f"saldo:currency: {stack.currency!r} is not an ISO 4217 code")
    if stack.shape == "aws" and stack.edge.port != HTTPS:
        problems.append(f"saldo:edge.port: the load balancer listens on {HTTPS} only")
    if not 1 <= stack.knative.replicas <= 5:  # noqa: PLR2004 - more says a mistake
        problems.append("saldo:knative.replicas: must be from 1 to 5")
    return problems


def _check_telemetry(stack: Stack) -> list[str]:
    telemetry, path = stack.telemetry, "saldo:telemetry"
    if telemetry is None:
        return []
    endpoint, ratio, space = (
        telemetry.endpoint,
        telemetry.trace_sample_ratio,
        telemetry.metrics_from,
    )
    problems = []
    if endpoint is None and space is None:
        problems.append(f"{path}: must name an endpoint, or who may read by metricsFrom, or both")
    if endpoint is not None and not re.match(r"https?://[^/]+", endpoint):
        problems.append(f"{path}.endpoint: must be an http or https URL")
    if ratio is not None and (endpoint is None or not _RATIO.fullmatch(ratio)):
        problems.append(f"{path}.traceSampleRatio: must be from 0 to 1, in quotes, of an endpoint")
    if space is not None and not _LABEL.fullmatch(space):
        problems.append(f"{path}.metricsFrom: {space!r} is not the name of a namespace")
    return problems


_CHECKS = (
    _check_shape,
    _check_aws,
    _check_eks,
    _check_kafka,
    _check_database,
    _check_functions,
    _check_connections,
    _check_images,
    _check_edge,
    _check_telemetry,
)


def _network(cidr: str) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(cidr)
    except ValueError:
        return None
