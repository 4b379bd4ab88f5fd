"""The parts of Saldo as the deployment sees them: functions, their roles, names and addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NAMESPACE = "saldo"
DATABASE = "saldo"
TOPIC = "transactions"
# Where a function listens; Knative hands it on as $PORT.
PORT = 8080
CONSUMER_GROUP = "saldo-project-balance"
KAFKA_SOURCE = "transactions"
# The user that the KafkaSource logs in to Kafka as, and the recorder's where there is no IAM.
KAFKA_SOURCE_USER = "saldo-kafka-source"
KAFKA_RECORDER_USER = "saldo-record-transaction"

Side = Literal["event_store", "read_model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """One function: its names, its role in PostgreSQL and who may reach it."""

    name: str
    role: str
    # Each side is one pool of connections.
    sides: tuple[Side, ...]
    # The host label below the stack's domain; None keeps the function inside the cluster.
    host: str | None

    @property
    def service(self) -> str:
        """The name of everything that Kubernetes calls after the function."""
        return self.name.replace("_", "-")

    @property
    def audience(self) -> str:
        """What a source's token must be made out to before the function takes its delivery."""
        return f"serving.knative.dev/service/{NAMESPACE}/{self.service}"


RECORD = Function(
    name="record_transaction", role="saldo_record", sides=("event_store",), host="transactions"
)
PROJECT = Function(
    name="project_balance", role="saldo_project", sides=("event_store", "read_model"), host=None
)
QUERY = Function(
    name="get_balance", role="saldo_query", sides=("event_store", "read_model"), host="balances"
)
FUNCTIONS = (RECORD, PROJECT, QUERY)

# The image with the command line, which runs the migrations, and the role of its other commands.
OPERATE = "operate"
OPERATE_ROLE = "saldo_operate"
# Every role that logs in to the database, but its owner.
ROLES = (*(f.role for f in FUNCTIONS), OPERATE_ROLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A PingSource that wakes a function which nobody else may have called."""

    name: str
    function: Function
    data: str
    # As in cron: a minute is the finest.
    schedule: str


SWEEPS = (
    Sweep(name="sweep-outbox", function=RECORD, data='{"sweep":"outbox"}', schedule="*/10 * * * *"),
    # A projector goes to zero while its source is away; balances would stay as they are till then.
    Sweep(name="sweep-lagging", function=PROJECT, data='{"sweep":"lagging"}', schedule="* * * * *"),
)


# Of a service account that Knative makes; a longer one it shortens by a hash.
ACCOUNT_NAME_MAX = 63


def source_identity(name: str, kind: Literal["kafkasource", "pingsource"]) -> str:
    """Return the subject of the tokens that Knative makes for a source.

    The service account behind it is called name-oidc-sources.knative.dev-kind.
    """
    account = f"{name}-oidc-sources.knative.dev-{kind}"
    if len(account) > ACCOUNT_NAME_MAX:
        message = f"{name} is too long a name for a {kind}: {account}"
        raise ValueError(message)
    return f"system:serviceaccount:{NAMESPACE}:{account}"
