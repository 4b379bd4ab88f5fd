"""Kubernetes: EKS with its nodes and add-ons, or the cluster that a kubeconfig names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pulumi
import pulumi_aws as aws
import pulumi_eks as eks
import pulumi_kubernetes as k8s

from infra_pulumi import versions
from infra_pulumi.iam_roles import attach, service_role
from infra_pulumi.kms_keys import layer_key, log_group
from infra_pulumi.layers.eks.addons import METRICS_PORT, install_addons
from infra_pulumi.layers.eks.controllers import install_controllers
from infra_pulumi.layers.eks.nodes import make_nodes
from infra_pulumi.layers.network import AwsConfig, Network
from infra_pulumi.section import (
    AT_LEAST_ONE,
    FROM_LIST,
    Cidr,
    Problem,
    Section,
    matching,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.existing import Address


CONTROL_PLANE_LOGS = ("api", "audit", "authenticator", "controllerManager", "scheduler")
ADMINISTRATOR = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
NODES_MIN = 2
# Where the API servers call into the nodes: the kubelets, with the webhooks of cert-manager and of
# the External Secrets operator on the same port; pods' metrics; the webhooks of Knative and of
# the load balancer controller.
CALLED_BY_API = {"kubelets": 10250, "metrics": METRICS_PORT, "knative": 8443, "balancer": 9443}


Principal = Annotated[
    str, matching(r"arn:aws:iam::\d{12}:(role|user)/.+", "{} is not the ARN of a role or user")
]


InstanceType = Annotated[
    str,
    matching(
        r"[a-z][a-z0-9-]*\.(\d+x|x)?large",
        "{} is not an instance type of the size large, xlarge, 2xlarge or more",
    ),
]


class EksConfig(Section):
    """The Kubernetes cluster and its nodes."""

    # Who reaches the API from outside the network; the private endpoint is always there.
    public_access_cidrs: Annotated[tuple[Cidr, ...], FROM_LIST]
    administrators: Annotated[tuple[Principal, ...], FROM_LIST, AT_LEAST_ONE]
    instance_types: Annotated[tuple[InstanceType, ...], FROM_LIST, AT_LEAST_ONE]
    nodes_min: int
    nodes_max: int

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        # One may be drained.
        if not NODES_MIN <= self.nodes_min <= self.nodes_max:
            yield "nodesMin", f"must be at least {NODES_MIN} and at most nodesMax"
        zones = len(stack["aws"].zones) if stack.get("aws") else 1
        for key, nodes in (("nodesMin", self.nodes_min), ("nodesMax", self.nodes_max)):
            if nodes % zones:
                yield key, f"must be a multiple of the {zones} zones: each has its own nodes"


def kubeconfig_cluster(context: str) -> k8s.Provider:
    """Return the provider of the shape cluster: the cluster is there already."""
    return k8s.Provider("cluster", context=context, enable_server_side_apply=True)


class Cluster(pulumi.ComponentResource):
    """EKS for one stack."""

    name: pulumi.Output[str]
    # The issuer of the cluster's service account tokens, an https URL.
    issuer: pulumi.Output[str]
    # What pods' traffic comes from.
    nodes: aws.ec2.SecurityGroup
    provider: k8s.Provider
    # What all of it is called in AWS.
    title: str
    place: AwsConfig
    network: Network

    def __init__(
        self,
        name: str,
        stack: Stack,
        place: AwsConfig,
        eks_config: EksConfig,
        network: Network,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Cluster", name, None, opts)
        self.place, self.network, self.title = place, network, f"saldo-{pulumi.get_stack()}"
        self._own = pulumi.ResourceOptions(parent=self)
        key = layer_key("cluster", place, parent=self, protect=stack.protected, logs=True)
        logs = log_group("control-plane", f"/aws/eks/{self.title}/cluster", key, parent=self)
        control_plane = self._control_plane_group()
        self.nodes = self._nodes_group(control_plane)
        cluster = self._control_plane(stack, eks_config, key, control_plane, logs)
        self.name = cluster.eks_cluster.apply(lambda made: made.name)
        identities: Any = cluster.eks_cluster.apply(lambda made: made.identities)
        self.issuer = identities.apply(lambda identities: identities[0].oidcs[0].issuer)
        self.provider = k8s.Provider(
            "cluster",
            kubeconfig=cluster.kubeconfig_json,
            enable_server_side_apply=True,
            opts=self._own,
        )
        nodes = make_nodes(self, eks_config, cluster)
        agent = install_addons(self, nodes)
        install_controllers(self, stack, [*nodes, agent])
        self.register_outputs({"name": self.name, "issuer": self.issuer})

    def _control_plane(
        self,
        stack: Stack,
        config: EksConfig,
        key: aws.kms.Key,
        group: aws.ec2.SecurityGroup,
        logs: aws.cloudwatch.LogGroup,
    ) -> eks.Cluster:
        role = service_role("cluster", "eks.amazonaws.com", parent=self)
        attached = attach("cluster", role, ["AmazonEKSClusterPolicy"], parent=self)
        return eks.Cluster(
            "cluster",
            name=self.title,
            version=versions.KUBERNETES,
            vpc_id=self.network.vpc_id,
            private_subnet_ids=self.network.subnet_ids["private"],
            service_role=role,
            # Access entries only: the aws-auth ConfigMap could lock everybody out.
            authentication_mode=eks.AuthenticationMode.API,
            access_entries={
                f"administrator-{index}": eks.AccessEntryArgs(
                    principal_arn=arn,
                    access_policies={
                        "cluster": eks.AccessPolicyAssociationArgs(
                            policy_arn=ADMINISTRATOR,
                            access_scope=aws.eks.AccessPolicyAssociationAccessScopeArgs(
                                type="cluster"
                            ),
                        )
                    },
                )
                for index, arn in enumerate(config.administrators)
            },
            # pulumi-eks would open the API to the internet and give its group all of it to call.
            endpoint_private_access=True,
            endpoint_public_access=bool(config.public_access_cidrs),
            public_access_cidrs=list(config.public_access_cidrs) or None,
            cluster_security_group=group,
            skip_default_security_groups=True,
            enabled_cluster_log_types=list(CONTROL_PLANE_LOGS),
            encryption_config_key_arn=key.arn,
            deletion_protection=stack.protected,
            # Nodes are the group below, identities are Pod Identity's.
            skip_default_node_group=True,
            create_instance_role=False,
            create_oidc_provider=False,
            node_associate_public_ip_address=False,
            vpc_cni_options=eks.VpcCniOptionsArgs(
                addon_version=versions.VPC_CNI,
                # Without it NetworkPolicies are accepted, and do nothing.
                enable_network_policy=True,
            ),
            # It would be left to EKS, in whatever version: pulumi-eks makes it beside nodes of its
            # own only. The add-on below takes it over.
            coredns_addon_options=eks.CoreDnsAddonOptionsArgs(enabled=False),
            kube_proxy_addon_options=eks.KubeProxyAddonOptionsArgs(version=versions.KUBE_PROXY),
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=stack.protected,
                # The log group first, or EKS makes one that nobody encrypts or ever deletes.
                depends_on=[logs, *attached],
            ),
        )

    def _control_plane_group(self) -> aws.ec2.SecurityGroup:
        return aws.ec2.SecurityGroup(
            "control-plane",
            vpc_id=self.network.vpc_id,
            description="The API servers of EKS, to and from the nodes",
            tags={"Name": f"{self.title}-control-plane"},
            opts=self._own,
        )

    def _nodes_group(self, control_plane: aws.ec2.SecurityGroup) -> aws.ec2.SecurityGroup:
        nodes = aws.ec2.SecurityGroup(
            "nodes",
            vpc_id=self.network.vpc_id,
            description="Nodes and their pods",
            tags={"Name": f"{self.title}-nodes"},
            opts=self._own,
        )
        self.allow("pods-to-pods", nodes, nodes, None)
        self.allow("nodes-to-api", nodes, control_plane, (443, 443))
        for called, port in CALLED_BY_API.items():
            self.allow(f"api-to-{called}", control_plane, nodes, (port, port))
        if self.network.endpoints is not None:
            self.allow("nodes-to-endpoints", nodes, self.network.endpoints, (443, 443))
        # Identity providers, certificate authorities, the operators' images, S3's gateway. Which
        # pod may call them is up to the NetworkPolicies.
        aws.vpc.SecurityGroupEgressRule(
            "nodes-to-https",
            security_group_id=nodes.id,
            description="HTTPS, through the NAT gateways",
            ip_protocol="tcp",
            from_port=443,
            to_port=443,
            cidr_ipv4="0.0.0.0/0",
            opts=self._own,
        )
        return nodes

    def allow(
        self,
        name: str,
        source: aws.ec2.SecurityGroup,
        target: aws.ec2.SecurityGroup,
        ports: tuple[int, int] | None,
    ) -> None:
        """Let ``source`` call ``target``, group to group; ``ports`` None is everything."""
        protocol = "-1" if ports is None else "tcp"
        low, high = (None, None) if ports is None else ports
        aws.vpc.SecurityGroupEgressRule(
            name,
            security_group_id=source.id,
            referenced_security_group_id=target.id,
            description=name,
            ip_protocol=protocol,
            from_port=low,
            to_port=high,
            opts=self._own,
        )
        aws.vpc.SecurityGroupIngressRule(
            name,
            security_group_id=target.id,
            referenced_security_group_id=source.id,
            description=name,
            ip_protocol=protocol,
            from_port=low,
            to_port=high,
            opts=self._own,
        )

    def allow_out(self, name: str, addresses: Sequence[Address], cidrs: Sequence[str]) -> None:
        """Let the nodes call addresses outside the network, by their networks and ports."""
        for port in sorted({port for _, port in addresses}):
            for cidr in cidrs:
                aws.vpc.SecurityGroupEgressRule(
                    f"{name}-{port}-{cidr}",
                    security_group_id=self.nodes.id,
                    description=name,
                    ip_protocol="tcp",
                    from_port=port,
                    to_port=port,
                    cidr_ipv4=cidr,
                    opts=self._own,
                )
