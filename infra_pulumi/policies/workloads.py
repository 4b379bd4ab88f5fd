"""Pods, the functions, and what calls them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from infra_pulumi.parts import (
    CONSUMER_GROUP,
    PROJECT,
    RECORD,
    TOPIC,
)
from infra_pulumi.policies.policy import (
    BOTH,
    Inputs,
    differences,
    policy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S_ABOVE = 45
# How long the projector waits for an event that its store does not hold yet.
YOUNG_S = 300
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_CREDENTIALS_IN_URL = re.compile(r"://[^/@:]*:[^/@]+@")
_SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL")


@policy(
    "Pod Security's level restricted, and a root that nobody writes to: a break-in finds nothing.",
    "KnativeService",
    "Job",
    "CronJob",
    "StatefulSet",
    where=BOTH,
)
def pods_are_restricted(workload: Inputs) -> Iterator[str]:
    spec = _pod(workload)
    if spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken must be false"
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        must = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        yield from differences(context, must)
        user = spec.get("securityContext", {}).get("runAsUser") or context.get("runAsUser")
        if not user:
            yield "runAsUser must be a number other than root's"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield "must have a limit on memory"


@policy(
    "What runs is what was built and scanned: a tag may be another image tomorrow.",
    "KnativeService",
    "Job",
    "CronJob",
    "StatefulSet",
    where=BOTH,
)
def images_are_pinned(workload: Inputs) -> Iterator[str]:
    for container in _pod(workload)["containers"]:
        if not _DIGEST.fullmatch(container["image"]):
            yield f"{container['image']} is not pinned"


@policy(
    "A secret comes from a Secret. One in a manifest is in every history that the manifest is in.",
    "KnativeService",
    "Job",
    "CronJob",
    "StatefulSet",
    where=BOTH,
)
def environments_hold_no_secret(workload: Inputs) -> Iterator[str]:
    for container in _pod(workload)["containers"]:
        for entry in container.get("env", []):
            value = str(entry.get("value", ""))
            if value and _SECRET_NAME.search(entry["name"]):
                yield f"{entry['name']} must come from a Secret"
            if _CREDENTIALS_IN_URL.search(value):
                yield f"{entry['name']} must not hold a password"


@policy(
    "Bounded, or a busy minute takes all the database's connections; drained, or requests are cut.",
    "KnativeService",
    where=BOTH,
)
def functions_are_bounded_and_drained(service: Inputs) -> Iterator[str]:
    template = service["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    if not int(annotations.get("autoscaling.knative.dev/max-scale", 0)) >= 1:
        yield "max-scale must be said"
    if not annotations.get("autoscaling.knative.dev/class", "").startswith("kpa."):
        yield "must be scaled by Knative's own autoscaler"
    spec = template["spec"]
    if not spec.get("timeoutSeconds", 0) > TIMEOUT_S_ABOVE:
        yield f"timeoutSeconds must be above {TIMEOUT_S_ABOVE}"
    if not spec.get("containerConcurrency", 0) >= 1:
        yield "containerConcurrency must be bounded"
    (container,) = spec["containers"]
    ready, alive = container.get("readinessProbe", {}), container.get("livenessProbe", {})
    if ready.get("httpGet", {}).get("path") != "/readyz" or "periodSeconds" in ready:
        yield "readinessProbe must ask /readyz, as often as Knative does"
    if alive.get("httpGet", {}).get("path") != "/livez":
        yield "livenessProbe must ask /livez"


@policy(
    "The projector is called by its sources only: not from outside, and with a token always.",
    "KnativeService",
    where=BOTH,
)
def the_projector_is_private(service: Inputs) -> Iterator[str]:
    if service["metadata"]["name"] != PROJECT.service:
        return
    labels = service["metadata"].get("labels", {})
    if labels.get("networking.knative.dev/visibility") != "cluster-local":
        yield "must be cluster-local"
    (container,) = service["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    if environment.get("AUTH") != "oidc" or not environment.get("SINK_SUBJECTS"):
        yield "must ask its sources who they are"
    if environment.get("SINK_AUDIENCE") != PROJECT.audience:
        yield f"SINK_AUDIENCE must be {PROJECT.audience}"


@policy(
    "A delivery said in part loses its defaults, an offset left to default loses what came before.",
    "KafkaSource",
    where=BOTH,
)
def the_source_loses_nothing(source: Inputs) -> Iterator[str]:
    spec, delivery = source["spec"], source["spec"].get("delivery", {})
    must = {
        "ordering": "unordered",
        "initialOffset": "earliest",
        "consumerGroup": CONSUMER_GROUP,
        "topics": [TOPIC],
    }
    yield from differences(spec, must)
    for name in ("retry", "backoffPolicy", "backoffDelay", "timeout", "deadLetterSink"):
        if name not in delivery:
            yield f"delivery.{name} is missing"
    for sink in (spec["sink"], delivery.get("deadLetterSink", {})):
        if sink.get("audience") != PROJECT.audience:
            yield "every sink must have its audience"
    delay = float(delivery.get("backoffDelay", "PT0S").removeprefix("PT").removesuffix("S"))
    if delay * (2 ** int(delivery.get("retry", 0)) - 1) <= YOUNG_S:
        yield f"must retry for more than the {YOUNG_S} s for which an event is young"
    net = spec.get("net", {})
    if not (net.get("tls", {}).get("enable") and net.get("sasl", {}).get("enable")):
        yield "must log in, over TLS"


@policy(
    "When no process is left to sweep by itself, these wake one: in time for who reads balances.",
    "PingSource",
    where=BOTH,
)
def the_sweeps_come_in_time(source: Inputs) -> Iterator[str]:
    spec = source["spec"]
    function = RECORD if "outbox" in spec["data"] else PROJECT
    schedule = "*/10 * * * *" if function is RECORD else "* * * * *"
    yield from differences(spec, {"schedule": schedule, "contentType": "application/json"})
    if (spec["sink"]["ref"]["name"], spec["sink"]["audience"]) != (
        function.service,
        function.audience,
    ):
        yield f"must call {function.name} under its audience"


def _pod(workload: Inputs) -> dict[str, Any]:
    """Return the spec of the pods that ``workload`` makes."""
    spec = workload["spec"]
    pod: dict[str, Any] = spec.get("jobTemplate", {}).get("spec", spec)["template"]["spec"]
    return pod
