"""PostgreSQL: RDS, or one pod in the cluster. TLS only, verified by whoever connects."""

# ruff: noqa: PLR0913, PLR0917 - a layer is made from every layer that it stands on

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s
import pulumi_random as random

from infra_pulumi import versions
from infra_pulumi.budget import connections_needed, connections_usable
from infra_pulumi.certificates import AUTHORITY_KEY, OWN, rds_root, root_file
from infra_pulumi.identity import service_role
from infra_pulumi.isolation import (
    DATABASE_PART,
    PART,
    POSTGRES_PORT,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
)
from infra_pulumi.keys import layer_key, log_group
from infra_pulumi.parts import DATABASE, FUNCTIONS, NAMESPACE, OPERATE, OPERATE_ROLE, ROLES
from infra_pulumi.secrets import from_secret
from infra_pulumi.section import Problem, Section, between, only_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.certificates import Certificates
    from infra_pulumi.cluster import Cluster
    from infra_pulumi.config import Stack
    from infra_pulumi.isolation import Isolation
    from infra_pulumi.network import AwsConfig, Network
    from infra_pulumi.secrets import Secrets

# Where pods find the authority behind the database's certificate.
AUTHORITY_DIR = "/etc/saldo/database"
VERIFIED = f"sslmode=verify-full&sslrootcert={AUTHORITY_DIR}/{AUTHORITY_KEY}"
CREDENTIALS = "database-credentials"
OPERATE_CREDENTIALS = f"database-{OPERATE}"
SUPERUSER = "saldo_owner"
# The uid of postgres in its image.
POSTGRES_UID = 999
BACKUP_DAYS_MAX = 35
_HBA = Path(__file__).with_name("pg_hba.conf")


class DatabaseConfig(Section):
    """PostgreSQL: RDS in the shape aws, one pod in the shape cluster."""

    storage_gib: int
    connections_max: int
    # RDS only.
    instance_class: str | None = None
    storage_gib_max: int | None = None
    multi_az: bool | None = None
    backup_days: Annotated[int, between(1, BACKUP_DAYS_MAX)] | None = None

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        of_rds = {
            "instanceClass": self.instance_class,
            "storageGibMax": self.storage_gib_max,
            "multiAz": self.multi_az,
            "backupDays": self.backup_days,
        }
        yield from only_in("aws", stack, of_rds)
        if self.storage_gib_max is not None and self.storage_gib_max <= self.storage_gib:
            yield "storageGibMax", "must be above storageGib, to grow into"
        if stack.get("protected") and self.multi_az is False:
            yield "multiAz", "must be true in a protected stack"
        functions = stack.get("functions")
        needed = 0 if functions is None else connections_needed(functions)
        usable = connections_usable(self.connections_max)
        if needed > usable:
            leave = f"{self.connections_max} leave {usable} for the functions, which may open"
            yield "connectionsMax", f"{leave} {needed}: raise it, or lower podsMax or poolSize"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseAccess:
    """What the functions and the migrations need to know."""

    auth: Literal["url", "rds-iam"]
    # By role: the value of the URL's variable, a text or a reference to a Secret.
    urls: dict[str, dict[str, Any]]
    owner_url: dict[str, Any]
    # Of the operator's role, which has a password everywhere.
    operate_url: dict[str, Any]
    # What the migrations are told besides: the passwords of the roles, where they have any.
    passwords: dict[str, dict[str, Any]]
    # The volume with the authority's certificate.
    authority: dict[str, Any]
    ready: list[pulumi.Resource]
    # By role: what the function's IAM role must allow.
    statements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class Rds(pulumi.ComponentResource):
    """PostgreSQL by RDS; functions log in by IAM, each as its own role."""

    access: DatabaseAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        place: AwsConfig,
        network: Network,
        cluster: Cluster,
        secrets: Secrets,
        isolation: Isolation,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Rds", name, None, opts)
        self._stack, self._place, self._title = stack, place, f"saldo-{pulumi.get_stack()}"
        self._own = pulumi.ResourceOptions(parent=self)
        key = layer_key("database", place, parent=self, protect=stack.protected, logs=True)
        group = aws.ec2.SecurityGroup(
            "database",
            vpc_id=network.vpc_id,
            description="PostgreSQL's clients",
            tags={"Name": f"{self._title}-database"},
            opts=self._own,
        )
        cluster.allow("nodes-to-database", cluster.nodes, group, (POSTGRES_PORT, POSTGRES_PORT))
        instance = self._instance(network, group, key)
        # RDS names it: only its ARN says which one it is.
        secret = instance.master_user_secrets.apply(lambda made: made[0].secret_arn or "")
        owner = secrets.deliver(
            CREDENTIALS,
            secret,
            {"owner-url": self._owner_url(instance)},
            properties=["username", "password"],
            after=[secrets.may_read("database-owner", secret)],
        )
        roots = root_file(
            "database-roots",
            rds_root(place.region),
            opts=pulumi.ResourceOptions(
                parent=self, provider=cluster.provider, depends_on=[isolation.namespace]
            ),
        )
        self.access = DatabaseAccess(
            auth="rds-iam",
            urls={f.role: {"value": self._url(instance, f.role)} for f in FUNCTIONS},
            owner_url={"valueFrom": from_secret(CREDENTIALS, "owner-url")},
            operate_url={"valueFrom": from_secret(OPERATE_CREDENTIALS, "url")},
            passwords={
                "ROLE_PASSWORD_OPERATE": {"valueFrom": from_secret(OPERATE_CREDENTIALS, "password")}
            },
            authority={"configMap": {"name": "database-roots"}},
            ready=[instance, owner, self._operator(secrets, instance), roots],
            statements={f.role: [self._may_log_in(instance, f.role)] for f in FUNCTIONS},
        )
        self.register_outputs({"address": instance.address})

    def _operator(self, secrets: Secrets, instance: aws.rds.Instance) -> pulumi.Resource:
        """The password of the operator's role, which must not log in by IAM.

        The owner may become that role; through it, IAM would become the owner's only way in.
        """
        password = random.RandomPassword("operate", length=48, special=False, opts=self._own)
        kept = secrets.store("operate", password.result, path=f"{self._title}/operate")
        url = pulumi.Output.concat(
            f"postgresql://{OPERATE_ROLE}:{{{{ .value }}}}@",
            instance.address,
            f":{POSTGRES_PORT}/{DATABASE}?{VERIFIED}",
        )
        return secrets.deliver(
            OPERATE_CREDENTIALS, kept.secret_arn, {"password": "{{ .value }}", "url": url}
        )

    def _instance(
        self, network: Network, group: aws.ec2.SecurityGroup, key: aws.kms.Key
    ) -> aws.rds.Instance:
        database, protected = self._stack.database, self._stack.protected
        # The two that RDS would make itself, unencrypted and for ever.
        logs = [
            log_group(
                f"database-{kind}", f"/aws/rds/instance/{self._title}/{kind}", key, parent=self
            )
            for kind in ("postgresql", "upgrade")
        ]
        monitoring = service_role(
            "database-monitoring",
            "monitoring.rds.amazonaws.com",
            parent=self,
            managed=["service-role/AmazonRDSEnhancedMonitoringRole"],
            account=self._place.account,
        )
        return aws.rds.Instance(
            "database",
            identifier=self._title,
            engine="postgres",
            engine_version=versions.POSTGRES,
            instance_class=database.instance_class or "",
            db_name=DATABASE,
            db_subnet_group_name=aws.rds.SubnetGroup(
                "database",
                name=self._title,
                subnet_ids=network.subnet_ids["data"],
                opts=self._own,
            ).name,
            parameter_group_name=self._parameters().name,
            vpc_security_group_ids=[group.id],
            publicly_accessible=False,
            port=POSTGRES_PORT,
            multi_az=bool(database.multi_az),
            # Nobody ever sees the owner's password: RDS makes it, keeps it and rotates it.
            username=SUPERUSER,
            manage_master_user_password=True,
            master_user_secret_kms_key_id=key.arn,
            iam_database_authentication_enabled=True,
            ca_cert_identifier=versions.RDS_CERTIFICATE_AUTHORITY,
            storage_type="gp3",
            storage_encrypted=True,
            kms_key_id=key.arn,
            allocated_storage=database.storage_gib,
            max_allocated_storage=database.storage_gib_max,
            backup_retention_period=database.backup_days,
            backup_window="03:00-04:00",
            maintenance_window="sun:04:30-sun:05:30",
            copy_tags_to_snapshot=True,
            delete_automated_backups=not protected,
            deletion_protection=protected,
            skip_final_snapshot=not protected,
            final_snapshot_identifier=f"{self._title}-final" if protected else None,
            # Minor versions are an entry in versions.py, not a surprise on a Sunday.
            auto_minor_version_upgrade=False,
            allow_major_version_upgrade=False,
            apply_immediately=False,
            enabled_cloudwatch_logs_exports=["postgresql", "upgrade"],
            monitoring_interval=60,
            monitoring_role_arn=monitoring.arn,
            performance_insights_enabled=True,
            performance_insights_kms_key_id=key.arn,
            performance_insights_retention_period=7,
            opts=pulumi.ResourceOptions(parent=self, protect=protected, depends_on=logs),
        )

    def _parameters(self) -> aws.rds.ParameterGroup:
        settings = {
            "rds.force_ssl": "1",
            # The budget of connections is computed from it: see budget.py.
            "max_connections": str(self._stack.database.connections_max),
            "log_connections": "1",
            "log_disconnections": "1",
            "log_lock_waits": "1",
            # Statements carry no data of customers: theirs are parameters, which are not logged.
            "log_min_duration_statement": "1000",
            "log_parameter_max_length": "0",
            "log_parameter_max_length_on_error": "0",
        }
        return aws.rds.ParameterGroup(
            "database",
            family=f"postgres{versions.POSTGRES_MAJOR}",
            name_prefix=f"{self._title}-",
            parameters=[
                aws.rds.ParameterGroupParameterArgs(
                    name=name,
                    value=value,
                    apply_method="pending-reboot" if name == "max_connections" else "immediate",
                )
                for name, value in settings.items()
            ],
            opts=self._own,
        )

    def _url(self, instance: aws.rds.Instance, role: str) -> pulumi.Output[str]:
        return pulumi.Output.concat(
            "postgresql://", role, "@", instance.address, f":{POSTGRES_PORT}/{DATABASE}?{VERIFIED}"
        )

    def _owner_url(self, instance: aws.rds.Instance) -> pulumi.Output[str]:
        """A template: the operator fills the password in, which RDS made from any characters."""
        return pulumi.Output.concat(
            "postgresql://{{ .username }}:{{ .password | urlquery }}@",
            instance.address,
            f":{POSTGRES_PORT}/{DATABASE}?{VERIFIED}",
        )

    def _may_log_in(self, instance: aws.rds.Instance, role: str) -> dict[str, Any]:
        return {
            "Effect": "Allow",
            "Action": "rds-db:connect",
            "Resource": pulumi.Output.concat(
                f"arn:aws:rds-db:{self._place.region}:{self._place.account}:dbuser:",
                instance.resource_id,
                f"/{role}",
            ),
        }


class PostgresPod(pulumi.ComponentResource):
    """PostgreSQL in one pod, for stacks without a cloud."""

    access: DatabaseAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        provider: k8s.Provider,
        secrets: Secrets,
        certificates: Certificates,
        isolation: Isolation,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:PostgresPod", name, None, opts)
        self._stack = stack
        host = f"{DATABASE_PART}.{NAMESPACE}.svc.cluster.local"
        credentials = secrets.generate(CREDENTIALS, _credentials(host), fields=["owner", *ROLES])
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
        self.access = DatabaseAccess(
            auth="url",
            urls={
                f.role: {"valueFrom": from_secret(CREDENTIALS, f"{f.role}-url")} for f in FUNCTIONS
            },
            owner_url={"valueFrom": from_secret(CREDENTIALS, "owner-url")},
            operate_url={"valueFrom": from_secret(CREDENTIALS, f"{OPERATE_ROLE}-url")},
            passwords={
                f"ROLE_PASSWORD_{role.removeprefix('saldo_').upper()}": {
                    "valueFrom": from_secret(CREDENTIALS, role)
                }
                for role in ROLES
            },
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

    def _spec(self) -> Any:  # noqa: ANN401 - the SDK's own type is a union of two spellings
        data, run, tls = "/var/lib/postgresql", "/var/run/postgresql", "/etc/saldo/tls"
        access = "/etc/saldo/access"
        settings = {
            "max_connections": self._stack.database.connections_max,
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
        probe = {"exec": {"command": ["pg_isready", "--username", SUPERUSER]}}
        container = {
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
                "requests": {"cpu": "250m", "memory": "512Mi"},
                "limits": {"memory": "1Gi"},
            },
            "volumeMounts": [
                {"name": "data", "mountPath": data},
                {"name": "run", "mountPath": run},
                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
                {"name": "tls", "mountPath": tls, "readOnly": True},
                {"name": "access", "mountPath": access, "readOnly": True},
            ],
        }
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
                    "containers": [container],
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
                        "resources": {
                            "requests": {"storage": f"{self._stack.database.storage_gib}Gi"}
                        },
                    },
                }
            ],
        }


def _credentials(host: str) -> dict[str, str]:
    """Every password of the database, and the URL around it, as templates."""
    made = {"owner": "{{ .owner }}", "owner-url": _url(SUPERUSER, "owner", host)}
    for role in ROLES:
        made[role] = f"{{{{ .{role} }}}}"
        made[f"{role}-url"] = _url(role, role, host)
    return made


def _url(role: str, field_name: str, host: str) -> str:
    return (
        f"postgresql://{role}:{{{{ .{field_name} }}}}@{host}:{POSTGRES_PORT}/{DATABASE}?{VERIFIED}"
    )
