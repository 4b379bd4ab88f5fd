"""PostgreSQL that is there already, with a role that owns Saldo's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from infra_pulumi.layers.certificates import AUTHORITY_KEY
from infra_pulumi.layers.database.access import CREDENTIALS, DatabaseAccess, by_password, role_urls
from infra_pulumi.layers.database.config import DatabaseConfig
from infra_pulumi.layers.existing import (
    HOST,
    PORT_MAX,
    Address,
    Cidrs,
    SecretName,
    unreachable,
    ways,
)
from infra_pulumi.layers.isolation import POSTGRES_PORT
from infra_pulumi.layers.secrets import from_secret
from infra_pulumi.parts import DATABASE, ROLES
from infra_pulumi.section import between, matching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.isolation import Way
    from infra_pulumi.layers.secrets import Secrets
    from infra_pulumi.section import Problem

OWNER_URL = "owner-url"


class ExistingDatabaseConfig(DatabaseConfig):
    """PostgreSQL that is there already. The migrations make its schemas and roles."""

    kind: Literal["existing"]
    host: Annotated[str, matching(HOST, "{} is not the name of a host")]
    port: Annotated[int, between(1, PORT_MAX)] = POSTGRES_PORT
    name: Annotated[str, matching(r"[a-z_][a-z0-9_]*", "{} is not the name of a database")] = (
        DATABASE
    )
    # In Saldo's namespace, with the keys owner-url and ca.crt.
    secret: SecretName
    # The server's networks, if it is outside the cluster.
    cidrs: Cidrs = ()

    @property
    def addresses(self) -> list[Address]:
        """Return the server's host and port."""
        return [(self.host, self.port)]

    @property
    def ways(self) -> list[Way]:
        """Return what the policies of its clients let through."""
        return ways(self.addresses, self.cidrs)

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        yield from unreachable(stack, self.addresses, self.cidrs)
        yield from super().problems(stack)


def existing_database(
    config: ExistingDatabaseConfig, secrets: Secrets, cluster: Cluster | None
) -> DatabaseAccess:
    """Make up the roles' passwords, and return what their owners need."""
    if cluster is not None:
        cluster.allow_out("nodes-to-database", config.addresses, config.cidrs)
    urls = role_urls(config.host, config.port, config.name)
    return by_password(
        owner_url={"valueFrom": from_secret(config.secret, OWNER_URL)},
        authority={
            "secret": {
                "secretName": config.secret,
                # The authority, and not the owner's password beside it.
                "items": [{"key": AUTHORITY_KEY, "path": AUTHORITY_KEY}],
            }
        },
        ready=[secrets.generate(CREDENTIALS, urls, fields=ROLES)],
    )
