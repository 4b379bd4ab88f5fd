"""Every version that the program deploys, in one place: an upgrade is a change to this file.

Charts and the add-ons of EKS cannot be looked up from where this was written; docs/deploy.md says
with which commands to check them before the first deployment.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A Helm chart: where it comes from and which version of it."""

    name: str
    version: str
    repository: str | None = None


KUBERNETES = "1.35"
# The add-ons of EKS that belong to that version of Kubernetes.
VPC_CNI = "v1.21.1-eksbuild.3"
COREDNS = "v1.13.2-eksbuild.1"
KUBE_PROXY = "v1.35.0-eksbuild.2"
POD_IDENTITY_AGENT = "v1.3.10-eksbuild.3"
EBS_CSI_DRIVER = "v1.57.1-eksbuild.1"
METRICS_SERVER = "v0.8.0-eksbuild.2"

AWS_LOAD_BALANCER_CONTROLLER = Chart(
    name="aws-load-balancer-controller",
    version="3.4.2",
    repository="https://aws.github.io/eks-charts",
)
CLUSTER_AUTOSCALER = Chart(
    name="cluster-autoscaler",
    # Older ones let it list too little of Kubernetes 1.35 to scale at all.
    version="9.59.0",
    repository="https://kubernetes.github.io/autoscaler",
)
# The autoscaler follows the version of Kubernetes, not that of its chart.
CLUSTER_AUTOSCALER_IMAGE = "v1.35.0"
CERT_MANAGER = Chart(name="oci://quay.io/jetstack/charts/cert-manager", version="v1.21.1")
EXTERNAL_SECRETS = Chart(
    name="external-secrets", version="2.12.0", repository="https://charts.external-secrets.io"
)
KNATIVE_OPERATOR = Chart(
    name="knative-operator", version="v1.23.0", repository="https://knative.github.io/operator"
)
STRIMZI = Chart(name="oci://quay.io/strimzi-helm/strimzi-kafka-operator", version="1.2.0")

# The operator upgrades by one minor version at a time: never skip one here.
KNATIVE_SERVING = "1.23.0"
KNATIVE_EVENTING = "1.23.0"
# Kourier's gateway: the minor version that this Serving is released with.
ENVOY_IMAGE = (
    "docker.io/envoyproxy/envoy:v1.37.2"
    "@sha256:c5e8a68e52f4d4697a9adb280dbe415d77fedf1257e183dcb86205bd438f18bd"
)

STRIMZI_KAFKA = "4.3.1"
STRIMZI_KAFKA_METADATA = "4.3-IV0"
MSK_KAFKA = "3.9.x.kraft"

POSTGRES_MAJOR = "18"
POSTGRES = "18.6"
# The same as in local/compose.yaml.
POSTGRES_IMAGE = (
    "docker.io/library/postgres:18.6-bookworm"
    "@sha256:1c59e2c3c818eaa0f0628f695b36e7c9e362d6b219b36a54a32df645cbd7e1af"
)
# The roots that verify RDS, of which the program takes the region's: see certificates/README.md.
RDS_CERTIFICATE_AUTHORITY = "rds-ca-rsa2048-g1"
