"""What the program asks AWS for as a CloudFormation template: cfn-lint knows its values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra_pulumi.capture import Captured


def cloudformation(captured: Captured) -> dict[str, Any]:
    """Return a template of the databases, policies, keys and logs: cfn-lint knows their values."""
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
