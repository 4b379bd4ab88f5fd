"""What the program asks AWS for, in the forms that others' checks read.

Terraform's plan for checkov: Pulumi's provider is bridged from Terraform's, so that names differ in
their spelling and lists of one are unwrapped. CloudFormation for cfn-lint: the few types whose
values it knows.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra_pulumi.capture import Captured, Resource

# Pulumi's module and type, where the words alone do not give Terraform's.
TERRAFORM = {
    "aws:cloudwatch/logGroup:LogGroup": "aws_cloudwatch_log_group",
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": "aws_default_security_group",
    "aws:ec2/eip:Eip": "aws_eip",
    "aws:ec2/flowLog:FlowLog": "aws_flow_log",
    "aws:ec2/internetGateway:InternetGateway": "aws_internet_gateway",
    "aws:ec2/launchTemplate:LaunchTemplate": "aws_launch_template",
    "aws:ec2/natGateway:NatGateway": "aws_nat_gateway",
    "aws:ec2/route:Route": "aws_route",
    "aws:ec2/routeTable:RouteTable": "aws_route_table",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": "aws_route_table_association",
    "aws:ec2/securityGroup:SecurityGroup": "aws_security_group",
    "aws:ec2/subnet:Subnet": "aws_subnet",
    "aws:ec2/vpc:Vpc": "aws_vpc",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "aws_vpc_endpoint",
    "aws:ecr/lifecyclePolicy:LifecyclePolicy": "aws_ecr_lifecycle_policy",
    "aws:ecr/repository:Repository": "aws_ecr_repository",
    "aws:eks/addon:Addon": "aws_eks_addon",
    "aws:eks/nodeGroup:NodeGroup": "aws_eks_node_group",
    "aws:eks/podIdentityAssociation:PodIdentityAssociation": "aws_eks_pod_identity_association",
    "aws:iam/role:Role": "aws_iam_role",
    "aws:iam/rolePolicy:RolePolicy": "aws_iam_role_policy",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "aws_iam_role_policy_attachment",
    "aws:kms/alias:Alias": "aws_kms_alias",
    "aws:kms/key:Key": "aws_kms_key",
    "aws:lb/listener:Listener": "aws_lb_listener",
    "aws:lb/loadBalancer:LoadBalancer": "aws_lb",
    "aws:lb/targetGroup:TargetGroup": "aws_lb_target_group",
    "aws:msk/cluster:Cluster": "aws_msk_cluster",
    "aws:msk/configuration:Configuration": "aws_msk_configuration",
    "aws:msk/singleScramSecretAssociation:SingleScramSecretAssociation": (
        "aws_msk_single_scram_secret_association"
    ),
    "aws:msk/topic:Topic": "aws_msk_topic",
    "aws:rds/instance:Instance": "aws_db_instance",
    "aws:rds/parameterGroup:ParameterGroup": "aws_db_parameter_group",
    "aws:rds/subnetGroup:SubnetGroup": "aws_db_subnet_group",
    "aws:route53/record:Record": "aws_route53_record",
    "aws:secretsmanager/secret:Secret": "aws_secretsmanager_secret",
    "aws:secretsmanager/secretPolicy:SecretPolicy": "aws_secretsmanager_secret_policy",
    "aws:secretsmanager/secretVersion:SecretVersion": "aws_secretsmanager_secret_version",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": "aws_vpc_security_group_egress_rule",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": (
        "aws_vpc_security_group_ingress_rule"
    ),
    # pulumi-eks makes this one, of inputs of the same names.
    "eks:index:Cluster": "aws_eks_cluster",
}
# What Terraform calls otherwise, or in the singular.
RENAMED = {
    "encryption_configurations": "encryption_configuration",
    "parameters": "parameter",
    "aliases": "alias",
    "default_actions": "default_action",
    "db_name": "db_name",
}
# Maps of the operator's own keys, which are not names to be spelt otherwise.
MAPS = {"tags", "assume_role_policy", "policy"}


def terraform_plan(captured: Captured) -> dict[str, Any]:
    """A plan, as ``terraform show -json`` writes it, of all AWS resources; every type is known."""
    asked = [
        r for r in captured.resources if r.type.startswith("aws:") or r.type == "eks:index:Cluster"
    ]
    resources = [_planned(r) for r in asked]
    # What refers to what, by the ids and ARNs that the mocks gave out.
    addresses = {
        name: planned["address"]
        for r, planned in zip(asked, resources, strict=True)
        for name in (r.id, r.arn, r.urn)
        if name
    } | _OTHER_NAMES
    return {
        "format_version": "1.2",
        "terraform_version": "1.11.4",
        "planned_values": {"root_module": {"resources": resources}},
        "resource_changes": [
            {
                **{k: r[k] for k in ("address", "mode", "type", "name", "provider_name")},
                "change": {"actions": ["create"], "before": None, "after": r["values"]},
            }
            for r in resources
        ],
        "configuration": {
            "root_module": {
                "resources": [
                    {
                        **{k: r[k] for k in ("address", "mode", "type", "name")},
                        "expressions": _expressions(r["values"], addresses),
                    }
                    for r in resources
                ]
            }
        },
    }


# Attributes other than id and ARN that something refers to.
_OTHER_NAMES = {"saldo.elb.us-east-1.amazonaws.com": "aws_lb.edge"}


def _expressions(values: dict[str, Any], addresses: dict[str, str]) -> dict[str, Any]:
    """The references of each value, as Terraform's configuration holds them."""
    found = {}
    for name, value in values.items():
        references = [addresses[word] for word in _words(value) if word in addresses]
        if references:
            found[name] = {"references": [r for a in references for r in (f"{a}.id", a)]}
    return found


def _words(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)


def _planned(resource: Resource) -> dict[str, Any]:
    kind, name = TERRAFORM[resource.type], re.sub(r"\W", "_", resource.name)
    values = _values(resource.inputs)
    if kind == "aws_eks_cluster":
        values |= _eks_cluster(values)
    return {
        "address": f"{kind}.{name}",
        "mode": "managed",
        "type": kind,
        "name": name,
        "provider_name": "registry.terraform.io/hashicorp/aws",
        "schema_version": 0,
        "values": values,
    }


def _eks_cluster(values: dict[str, Any]) -> dict[str, Any]:
    """The parts that Terraform nests otherwise than pulumi-eks."""
    return {
        "encryption_config": [
            {
                "provider": [{"key_arn": values["encryption_config_key_arn"]}],
                "resources": ["secrets"],
            }
        ],
        "vpc_config": [
            {
                "endpoint_private_access": values["endpoint_private_access"],
                "endpoint_public_access": values["endpoint_public_access"],
                "public_access_cidrs": values.get("public_access_cidrs"),
            }
        ],
    }


def _values(inputs: dict[str, Any]) -> dict[str, Any]:
    return {_name(key): _value(_name(key), item) for key, item in inputs.items()}


def _value(name: str, value: Any) -> Any:  # noqa: ANN401 - any JSON
    if name in MAPS:
        return value
    if isinstance(value, dict):
        return [_values(value)]
    if isinstance(value, list):
        return [_values(item) if isinstance(item, dict) else item for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _name(key: str) -> str:
    name = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower()
    return RENAMED.get(name, name)


# --- CloudFormation -----------------------------------------------------------------------------


def cloudformation(captured: Captured) -> dict[str, Any]:
    """A template of the resources whose values cfn-lint knows: databases, policies, keys, logs."""
    resources = {}
    for resource in captured.resources:
        made = _FORMED.get(resource.type)
        if made is not None:
            title = re.sub(
                r"\W|_", "", f"{resource.type.rpartition(':')[2]}{resource.name.title()}"
            )
            resources[title] = made(resource.inputs)
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}


def _instance(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "AWS::RDS::DBInstance",
        "DeletionPolicy": "Snapshot",
        "UpdateReplacePolicy": "Snapshot",
        "Properties": _known(
            {
                "Engine": inputs["engine"],
                "EngineVersion": inputs["engineVersion"],
                "DBInstanceClass": inputs["instanceClass"],
                "AllocatedStorage": str(int(inputs["allocatedStorage"])),
                "MaxAllocatedStorage": int(inputs["maxAllocatedStorage"]),
                "StorageType": inputs["storageType"],
                "StorageEncrypted": inputs["storageEncrypted"],
                "BackupRetentionPeriod": int(inputs["backupRetentionPeriod"]),
                "PreferredBackupWindow": inputs["backupWindow"],
                "PreferredMaintenanceWindow": inputs["maintenanceWindow"],
                "EnableCloudwatchLogsExports": inputs["enabledCloudwatchLogsExports"],
                "MonitoringInterval": int(inputs["monitoringInterval"]),
                "MonitoringRoleArn": "arn:aws:iam::000000000000:role/monitoring",
                "PerformanceInsightsRetentionPeriod": int(
                    inputs["performanceInsightsRetentionPeriod"]
                ),
                "EnablePerformanceInsights": True,
                "ManageMasterUserPassword": inputs["manageMasterUserPassword"],
                "MasterUsername": inputs["username"],
                "CACertificateIdentifier": inputs["caCertIdentifier"],
            }
        ),
    }


def _known(properties: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in properties.items() if value is not None}


def _role(inputs: dict[str, Any]) -> dict[str, Any]:
    document = json.loads(inputs["assumeRolePolicy"])
    return {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": document}}


def _policy(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "AWS::IAM::ManagedPolicy",
        "Properties": {"PolicyDocument": json.loads(inputs["policy"])},
    }


def _key(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "AWS::KMS::Key",
        "Properties": {
            "KeyPolicy": json.loads(inputs["policy"]),
            "PendingWindowInDays": int(inputs["deletionWindowInDays"]),
        },
    }


def _logs(inputs: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "LogGroupName": inputs["name"],
        "RetentionInDays": int(inputs["retentionInDays"]),
    }
    return {
        "Type": "AWS::Logs::LogGroup",
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": properties,
    }


def _endpoint(inputs: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "VpcId": "vpc-00000000000000000",
        "ServiceName": inputs["serviceName"],
        "VpcEndpointType": inputs["vpcEndpointType"],
    }
    return {"Type": "AWS::EC2::VPCEndpoint", "Properties": properties}


def _nodes(inputs: dict[str, Any]) -> dict[str, Any]:
    scaling = inputs["scalingConfig"]
    return {
        "Type": "AWS::EKS::Nodegroup",
        "Properties": {
            "ClusterName": "saldo",
            "NodeRole": "arn:aws:iam::000000000000:role/nodes",
            "Subnets": ["subnet-00000000000000000"],
            "AmiType": inputs["amiType"],
            "CapacityType": inputs["capacityType"],
            "InstanceTypes": inputs["instanceTypes"],
            "ScalingConfig": {
                "MinSize": int(scaling["minSize"]),
                "MaxSize": int(scaling["maxSize"]),
                "DesiredSize": int(scaling["desiredSize"]),
            },
        },
    }


def _kafka(inputs: dict[str, Any]) -> dict[str, Any]:
    group = inputs["brokerNodeGroupInfo"]
    return {
        "Type": "AWS::MSK::Cluster",
        "Properties": {
            "ClusterName": inputs["clusterName"],
            "KafkaVersion": inputs["kafkaVersion"],
            "NumberOfBrokerNodes": int(inputs["numberOfBrokerNodes"]),
            "EnhancedMonitoring": inputs["enhancedMonitoring"],
            "BrokerNodeGroupInfo": {
                "InstanceType": group["instanceType"],
                "ClientSubnets": ["subnet-00000000000000000", "subnet-00000000000000001"],
                "ConnectivityInfo": {
                    "PublicAccess": {"Type": group["connectivityInfo"]["publicAccess"]["type"]}
                },
            },
            "EncryptionInfo": {
                "EncryptionInTransit": {
                    "ClientBroker": inputs["encryptionInfo"]["encryptionInTransit"]["clientBroker"],
                    "InCluster": inputs["encryptionInfo"]["encryptionInTransit"]["inCluster"],
                }
            },
        },
    }


_FORMED = {
    "aws:rds/instance:Instance": _instance,
    "aws:iam/role:Role": _role,
    "aws:iam/rolePolicy:RolePolicy": _policy,
    "aws:kms/key:Key": _key,
    "aws:cloudwatch/logGroup:LogGroup": _logs,
    "aws:ec2/vpcEndpoint:VpcEndpoint": _endpoint,
    "aws:eks/nodeGroup:NodeGroup": _nodes,
    "aws:msk/cluster:Cluster": _kafka,
}
