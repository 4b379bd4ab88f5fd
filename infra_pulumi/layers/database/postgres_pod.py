"""PostgreSQL in one pod of the cluster. TLS only, verified by every client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pulumi
import pulumi_kubernetes as k8s

from infra_pulumi import versions
from infra_pulumi.layers.certificates import AUTHORITY_KEY, OWN, Certificates
from infra_pulumi.layers.database.access import (
    CREDENTIALS,
    SUPERUSER,
    DatabaseAccess,
    by_password,
    password_url,
    role_urls,
)
from infra_pulumi.layers.database.config import DatabaseConfig
from infra_pulumi.layers.isolation import (
    DATABASE_PART,
    PART,
    POSTGRES_PORT,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    Isolation,
)
from infra_pulumi.layers.processors import POSTGRES_M
from infra_pulumi.layers.secrets import Secrets, from_secret
from infra_pulumi.parts import DATABASE, NAMESPACE, ROLES

if TYPE_CHECKING:
    from infra_pulumi.config import Stack

# The uid of postgres in its image.
POSTGRES_UID = 999
_HBA = Path(__file__).with_name("pg_hba.conf")


class PostgresPodConfig(DatabaseConfig):
    """PostgreSQL in one pod."""

    kind: Literal["pod"]
    storage_gib: int


class PostgresPod(pulumi.ComponentResource):
    """PostgreSQL in one pod, for stacks without a cloud."""

    access: DatabaseAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        config: PostgresPodConfig,
        provider: k8s.Provider,
        secrets: Secrets,
        certificates: Certificates,
        isolation: Isolation,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:PostgresPod", name, None, opts)
        self._config = config
        host = f"{DATABASE_PART}.{NAMESPACE}.svc.cluster.local"
        owner = password_url(SUPERUSER, "owner", host, POSTGRES_PORT, DATABASE)
        credentials = secrets.generate(
            CREDENTIALS,
            {"owner": "{{ .owner }}", "owner-url": owner}
            | role_urls(host, POSTGRES_PORT, DATABASE),
            fields=["owner", *ROLES],
        )
        certificate = certificates.certificate("database-tls", [host], issuer=OWN)
        self._inside = pulumi.ResourceOptions(
            parent=self, provider=provider, depends_on=[isolation.namespace]
        )
        access = k8s.core.v1.ConfigMap(
            "database-access",
            metadata={"name": "database-access", "namespace": NAMESPACE},
            data={_HBA.name: _HBA.read_text()},
            opts=self._inside,
        )
        address = k8s.core.v1.Service(
            "database",
            metadata={"name": DATABASE_PART, "namespace": NAMESPACE},
            spec={
                "selector": {PART: DATABASE_PART},
                "ports": [{"name": "postgresql", "port": POSTGRES_PORT}],
                "cluster_ip": "None",
                # The migrations look it up while it starts.
                "publish_not_ready_addresses": True,
            },
            opts=self._inside,
        )
        pod = k8s.apps.v1.StatefulSet(
            "database",
            metadata={"name": DATABASE_PART, "namespace": NAMESPACE},
            spec=self._spec(),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                depends_on=[credentials, certificate, access],
                protect=stack.protected,
            ),
        )
        self.access = by_password(
            owner_url={"valueFrom": from_secret(CREDENTIALS, "owner-url")},
            authority={
                "secret": {
                    "secretName": "database-tls",
                    # The authority, and not the server's key beside it.
                    "items": [{"key": AUTHORITY_KEY, "path": AUTHORITY_KEY}],
                }
            },
            ready=[pod, address],
        )
        self.register_outputs({"host": host})

    def _spec(self) -> Any:
        return {
            "serviceName": DATABASE_PART,
            "replicas": 1,
            "selector": {"matchLabels": {PART: DATABASE_PART}},
            "template": {
                "metadata": {"labels": {PART: DATABASE_PART}},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    # A smart shutdown, then a fast one: Kubernetes sends SIGTERM, then kills.
                    "terminationGracePeriodSeconds": 60,
                    "securityContext": RESTRICTED_POD
                    | {
                        "runAsUser": POSTGRES_UID,
                        "runAsGroup": POSTGRES_UID,
                        # The key of the certificate becomes readable to the group, which
                        # PostgreSQL accepts of a file that root owns.
                        "fsGroup": POSTGRES_UID,
                    },
                    "containers": [self._container()],
                    "volumes": [
                        {"name": "run", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        {
                            "name": "tls",
                            "secret": {"secretName": "database-tls", "defaultMode": 0o640},
                        },
                        {"name": "access", "configMap": {"name": "database-access"}},
                    ],
                },
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": f"{self._config.storage_gib}Gi"}},
                    },
                }
            ],
        }

    def _container(self) -> dict[str, Any]:
        data, run, tls = "/var/lib/postgresql", "/var/run/postgresql", "/etc/saldo/tls"
        access = "/etc/saldo/access"
        settings = {
            "max_connections": self._config.connections_max,
            "password_encryption": "scram-sha-256",
            "hba_file": f"{access}/{_HBA.name}",
            "ssl": "on",
            "ssl_cert_file": f"{tls}/tls.crt",
            "ssl_key_file": f"{tls}/tls.key",
        }
        environment = [
            {"name": "POSTGRES_USER", "value": SUPERUSER},
            {"name": "POSTGRES_DB", "value": DATABASE},
            {"name": "POSTGRES_PASSWORD", "valueFrom": from_secret(CREDENTIALS, "owner")},
        ]
        probe = {"exec": {"command": ["pg_isready", "--username", SUPERUSER, "--dbname", DATABASE]}}
        return {
            "name": "postgres",
            "image": versions.POSTGRES_IMAGE,
            "args": [
                word for name, value in settings.items() for word in ("-c", f"{name}={value}")
            ],
            "ports": [{"name": "postgresql", "containerPort": POSTGRES_PORT}],
            "env": environment,
            "securityContext": RESTRICTED_CONTAINER,
            "startupProbe": probe | {"failureThreshold": 30, "periodSeconds": 2},
            "readinessProbe": probe | {"periodSeconds": 5},
            "livenessProbe": probe | {"periodSeconds": 10, "failureThreshold": 6},
            "resources": {
                "requests": {"cpu": f"{POSTGRES_M}m", "memory": "512Mi"},
                "limits": {"memory": "1Gi"},
            },
            "volumeMounts": [
                {"name": "data", "mountPath": data},
                {"name": "run", "mountPath": run},
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "tls", "mountPath": tls, "readOnly": True},
                {"name": "access", "mountPath": access, "readOnly": True},
            ],
        }
