"""Who certifies: an authority of the stack's own, or one that browsers know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

from infra_pulumi.custom_resources import custom_resource

if TYPE_CHECKING:
    import pulumi_kubernetes as k8s

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.isolation import Isolation
    from infra_pulumi.layers.operators import Operators


API = "cert-manager.io/v1"
# The stack's own authority, and the one that certifies what callers reach.
OWN, EDGE = "saldo-authority", "edge"
# Where a certificate's Secret has the authority behind it.
AUTHORITY_KEY = "ca.crt"
ACME = "https://acme-v02.api.letsencrypt.org/directory"


def own_authority(name: str, issuer: str, kind: str) -> dict[str, Any]:
    """Return the certificate of an authority that signs others, for ten years."""
    return {
        "isCA": True,
        "commonName": name,
        "secretName": name,
        "duration": "87600h",
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "issuerRef": {"group": "cert-manager.io", "kind": kind, "name": issuer},
    }


class Certificates(pulumi.ComponentResource):
    """The issuers of one stack, in its namespace: nobody else's certificates are made by them."""

    # The issuer's name, by which `certificate` asks it.
    edge: str
    ready: list[pulumi.Resource]

    def __init__(
        self,
        name: str,
        stack: Stack,
        provider: k8s.Provider,
        operators: Operators,
        isolation: Isolation,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Certificates", name, None, opts)
        self._provider = provider
        self._needs: list[pulumi.Resource] = [*operators.cert_manager, isolation.namespace]
        if stack.aws is not None and stack.edge.hosted_zone is not None:
            solver = {
                "dns01": {
                    "route53": {
                        "region": stack.aws.region,
                        "hostedZoneID": stack.edge.hosted_zone,
                    }
                }
            }
            acme = {
                "server": ACME,
                "email": stack.edge.acme_email,
                "privateKeySecretRef": {"name": "acme-account"},
                "solvers": [solver],
            }
            self.edge = EDGE
            self.ready = [self._issuer(EDGE, {"acme": acme})]
        else:
            self.edge = OWN
            self.ready = [self._own_authority()]
        self.register_outputs({})

    def _issuer(self, name: str, spec: dict[str, Any], *after: pulumi.Resource) -> pulumi.Resource:
        return custom_resource(name, API, "Issuer", spec, opts=self._inside(*after))

    def _inside(self, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self, provider=self._provider, depends_on=[*self._needs, *after]
        )

    def _own_authority(self) -> pulumi.Resource:
        """Make an authority that signs itself, and an issuer that signs with it."""
        itself = self._issuer("self-signed", {"selfSigned": {}})
        authority = custom_resource(
            OWN,
            API,
            "Certificate",
            own_authority(OWN, "self-signed", "Issuer"),
            opts=self._inside(itself),
        )
        return custom_resource(
            f"{OWN}-issuer",
            API,
            "Issuer",
            {"ca": {"secretName": OWN}},
            object_name=OWN,
            opts=self._inside(authority),
        )

    def certificate(self, name: str, hosts: list[str], *, issuer: str) -> pulumi.Resource:
        """Make a certificate for ``hosts`` in the Secret ``name``, renewed by itself."""
        return custom_resource(
            f"{name}-certificate",
            API,
            "Certificate",
            {
                "secretName": name,
                "dnsNames": hosts,
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
                "usages": ["digital signature", "server auth"],
                "issuerRef": {"group": "cert-manager.io", "kind": "Issuer", "name": issuer},
            },
            object_name=name,
            opts=self._inside(*self.ready),
        )
