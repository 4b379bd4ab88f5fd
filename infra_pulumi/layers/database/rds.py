"""PostgreSQL by RDS. TLS only, verified by every client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s
import pulumi_random as random

from infra_pulumi import versions
from infra_pulumi.iam_roles import attach, service_role
from infra_pulumi.kms_keys import layer_key, log_group
from infra_pulumi.layers.certificates import AUTHORITY_KEY
from infra_pulumi.layers.database.access import CREDENTIALS, SUPERUSER, VERIFIED, DatabaseAccess
from infra_pulumi.layers.database.config import DatabaseConfig
from infra_pulumi.layers.isolation import POSTGRES_PORT, Isolation
from infra_pulumi.layers.secrets import Secrets, from_secret
from infra_pulumi.parts import DATABASE, FUNCTIONS, NAMESPACE, OPERATE, OPERATE_ROLE
from infra_pulumi.section import Problem, between

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.network import AwsConfig, Network

OPERATE_CREDENTIALS = f"database-{OPERATE}"
BACKUP_DAYS_MAX = 35
_RDS_ROOTS = Path(__file__).parents[2] / "certificates" / "rds.pem"


class RdsConfig(DatabaseConfig):
    """PostgreSQL by RDS."""

    kind: Literal["rds"]
    instance_class: str
    storage_gib: int
    storage_gib_max: int
    multi_az: bool
    backup_days: Annotated[int, between(1, BACKUP_DAYS_MAX)]

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        if self.storage_gib_max <= self.storage_gib:
            yield "storageGibMax", "must be above storageGib, to grow into"
        if stack.get("protected") and not self.multi_az:
            yield "multiAz", "must be true in a protected stack"
        yield from super().problems(stack)


class Rds(pulumi.ComponentResource):
    """PostgreSQL by RDS; functions log in by IAM, each as its own role."""

    access: DatabaseAccess

    def __init__(
        self,
        name: str,
        stack: Stack,
        config: RdsConfig,
        place: AwsConfig,
        network: Network,
        cluster: Cluster,
        secrets: Secrets,
        isolation: Isolation,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Rds", name, None, opts)
        self._config, self._place, self._title = config, place, f"saldo-{pulumi.get_stack()}"
        self._protected = stack.protected
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
        """Make the password of the operator's role, which must not log in by IAM.

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
        database, protected = self._config, self._protected
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
            account=self._place.account,
        )
        attached = attach(
            "database-monitoring",
            monitoring,
            ["service-role/AmazonRDSEnhancedMonitoringRole"],
            parent=self,
        )
        return aws.rds.Instance(
            "database",
            identifier=self._title,
            engine="postgres",
            engine_version=versions.POSTGRES,
            instance_class=database.instance_class,
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
            multi_az=database.multi_az,
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
            opts=pulumi.ResourceOptions(
                parent=self, protect=protected, depends_on=[*logs, *attached]
            ),
        )

    def _parameters(self) -> aws.rds.ParameterGroup:
        settings = {
            "rds.force_ssl": "1",
            # The budget of connections is computed from it: see connection_budget.py.
            "max_connections": str(self._config.connections_max),
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
        """Return a template: the operator fills in the password, which RDS made."""
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


def rds_root(region: str) -> str:
    """Return the root, in PEM, that the certificates of RDS in ``region`` come from."""
    _, *entries = _RDS_ROOTS.read_text().split("# ")
    roots = {entry.split(maxsplit=1)[0]: entry.split("\n", 1)[1] for entry in entries}
    return roots[region]


def root_file(name: str, pem: str, *, opts: pulumi.ResourceOptions) -> k8s.core.v1.ConfigMap:
    """Roots as a file for pods to mount."""
    return k8s.core.v1.ConfigMap(
        name,
        metadata={"name": name, "namespace": NAMESPACE},
        data={AUTHORITY_KEY: pem},
        opts=opts,
    )
