"""The Jobs that run the command line: before the functions, and at the operator's request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi_kubernetes as k8s

from infra_pulumi.layers.database.access import AUTHORITY_DIR
from infra_pulumi.layers.functions.containers import UID, mount, variable
from infra_pulumi.layers.functions.identities import pod_identity, service_account
from infra_pulumi.layers.isolation import (
    KAFKA_ACLS_PART,
    MIGRATE_PART,
    PART,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
)
from infra_pulumi.layers.processors import OPERATE_M
from infra_pulumi.parts import (
    CONSUMER_GROUP,
    KAFKA_SOURCE_USER,
    NAMESPACE,
    OPERATE,
    PROJECT,
    QUERY,
    RECORD,
    TOPIC,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pulumi

    from infra_pulumi.layers.functions.dependencies import Dependencies


JOB_DEADLINE_S = 900
# How long a migration waits for a database that is still starting; the rest is for migrating.
DATABASE_WAIT_S = 600
# A verification or a rebuild of everything may take hours, but not for ever.
OPERATE_DEADLINE_S = 6 * 3600
# Each has a connection to either side: connection_budget.py keeps twelve.
OPERATE_WORKERS = 2
JOB_RETRIES = 3
# By which `saldo status` asks the functions whether they are ready.
ASKED = {"RECORD_URL": RECORD, "BALANCE_URL": QUERY, "PROJECT_URL": PROJECT}
_KAFKA_ACLS = Path(__file__).parents[1] / "kafka" / "kafka_acls.py"


def migrate(deps: Dependencies, parent: pulumi.Resource, image: str) -> pulumi.Resource:
    """Migrate the schemas, and give the roles their passwords."""
    environment = [
        variable("EVENT_STORE_URL", deps.database.owner_url),
        variable("READ_MODEL_URL", deps.database.owner_url),
        # The owner's URL has its password; this makes the functions' roles log in by IAM.
        variable("DATABASE_AUTH", {"value": deps.database.auth}),
        *(variable(*entry) for entry in deps.database.passwords.items()),
    ]
    return _job(
        deps,
        parent,
        image,
        MIGRATE_PART,
        {
            "args": ["migrate", "--wait", str(DATABASE_WAIT_S)],
            "env": environment,
            "volumeMounts": [mount("database", AUTHORITY_DIR)],
        },
        [{"name": "database"} | deps.database.authority],
        after=deps.database.ready,
    )


def set_kafka_acls(deps: Dependencies, parent: pulumi.Resource, image: str) -> pulumi.Resource:
    """Allow the source what it does in MSK, which no API of AWS can say."""
    identity = pod_identity(deps, parent, KAFKA_ACLS_PART, deps.kafka.acl_statements)
    script = k8s.core.v1.ConfigMap(
        KAFKA_ACLS_PART,
        metadata={"name": KAFKA_ACLS_PART, "namespace": NAMESPACE},
        data={_KAFKA_ACLS.name: _KAFKA_ACLS.read_text()},
        opts=deps.inside(parent),
    )
    values = {
        "KAFKA_BOOTSTRAP_SERVERS": deps.kafka.recorder_brokers,
        "KAFKA_TOPIC": TOPIC,
        "CONSUMER_GROUP": CONSUMER_GROUP,
        "CONSUMER": KAFKA_SOURCE_USER,
        "AWS_REGION": "" if deps.stack.aws is None else deps.stack.aws.region,
    }
    return _job(
        deps,
        parent,
        image,
        KAFKA_ACLS_PART,
        {
            "command": ["python3", f"/etc/saldo/acls/{_KAFKA_ACLS.name}"],
            "env": [variable(key, {"value": value}) for key, value in values.items()],
            "volumeMounts": [mount("acls", "/etc/saldo/acls")],
        },
        [{"name": "acls", "configMap": {"name": KAFKA_ACLS_PART}}],
        after=[script, *identity, *deps.kafka.ready],
    )


def _job(
    deps: Dependencies,
    parent: pulumi.Resource,
    image: str,
    name: str,
    container: dict[str, Any],
    volumes: list[dict[str, Any]],
    *,
    after: Sequence[pulumi.Resource],
) -> pulumi.Resource:
    """Make a Job of the command line's image, waited for; a new image makes a new Job."""
    account = service_account(deps, parent, name)
    digest = image.rpartition(":")[2]
    spec: Any = {
        "backoffLimit": JOB_RETRIES,
        "activeDeadlineSeconds": JOB_DEADLINE_S,
        "template": _pod(image, name, container, volumes),
    }
    return k8s.batch.v1.Job(
        name,
        metadata={
            # A Job cannot be changed, only made again.
            "name": f"{name}-{digest[:12]}",
            "namespace": NAMESPACE,
        },
        spec=spec,
        opts=deps.inside(parent, account, *after),
    )


def _pod(
    image: str, name: str, container: dict[str, Any], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the template of a pod that runs the image with the command line and ends."""
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
                    "image": image,
                    "securityContext": RESTRICTED_CONTAINER,
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"memory": "256Mi"},
                    },
                }
                | container
                | {"volumeMounts": [*container["volumeMounts"], mount("tmp", "/tmp")]}
            ],
            "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
        },
    }


def hold_operate_pod(
    deps: Dependencies, parent: pulumi.Resource, image: str, jobs: list[pulumi.Resource]
) -> None:
    """Make what `kubectl create job --from=cronjob/operate` copies; by itself it never runs.

    Nothing outside reaches the database, so the operator's commands run beside it.
    """
    account = service_account(deps, parent, OPERATE)
    container = {
        # By itself it would take as many workers, and connections, as its node has processors.
        "args": ["verify", f"--workers={OPERATE_WORKERS}"],
        "env": [
            variable("EVENT_STORE_URL", deps.database.operate_url),
            variable("READ_MODEL_URL", deps.database.operate_url),
            variable("DATABASE_AUTH", {"value": "url"}),
            *(
                variable(
                    name, {"value": f"http://{function.service}.{NAMESPACE}.svc.cluster.local"}
                )
                for name, function in ASKED.items()
            ),
        ],
        "volumeMounts": [mount("database", AUTHORITY_DIR)],
        "resources": {
            "requests": {"cpu": f"{OPERATE_M}m", "memory": "512Mi"},
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
                "template": _pod(
                    image, OPERATE, container, [{"name": "database"} | deps.database.authority]
                ),
            }
        },
    }
    k8s.batch.v1.CronJob(
        OPERATE,
        metadata={"name": OPERATE, "namespace": NAMESPACE},
        spec=spec,
        opts=deps.inside(parent, account, *jobs),
    )
