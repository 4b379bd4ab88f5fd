"""What calls the functions besides their callers: the KafkaSource and the sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

from infra_pulumi.custom_resources import custom_resource
from infra_pulumi.layers.knative import SERVING_API
from infra_pulumi.parts import (
    CONSUMER_GROUP,
    KAFKA_SOURCE,
    NAMESPACE,
    PROJECT,
    TOPIC,
    Function,
    Sweep,
)

if TYPE_CHECKING:
    from infra_pulumi.layers.functions.dependencies import Dependencies

SOURCES_API = "sources.knative.dev/v1"
# Deliveries are retried for 0.6 + 1.2 + ... + 307.2 s, 10 minutes (the dispatcher doubles the delay
# before the first retry): longer than the 5 minutes for which the projector calls an event young
# that its store does not hold yet, even without that first doubling. All of it is said, since what
# is left out of a delivery becomes zero and not the default.
DELIVERY_RETRIES = 10
DELIVERY = {
    "retry": DELIVERY_RETRIES,
    "backoffPolicy": "exponential",
    "backoffDelay": "PT0.3S",
    # Below the projector's own timeout.
    "timeout": "PT30S",
}


def make_kafka_source(
    deps: Dependencies, parent: pulumi.Resource, projector: pulumi.Resource
) -> None:
    """Deliver each record of the topic to the projector."""
    stack, kafka = deps.stack, deps.kafka
    tls: dict[str, Any] = {"enable": True}
    if kafka.authority is not None:
        secret, key = kafka.authority
        tls["caCert"] = {"secretKeyRef": {"name": secret, "key": key}}
    login = {
        name: {"secretKeyRef": {"name": kafka.source_secret, "key": name}}
        for name in ("user", "password", "type")
    }
    custom_resource(
        KAFKA_SOURCE,
        SOURCES_API,
        "KafkaSource",
        {
            "bootstrapServers": pulumi.Output.from_input(kafka.source_brokers).apply(
                lambda brokers: brokers.split(",")
            ),
            "topics": [TOPIC],
            "consumerGroup": CONSUMER_GROUP,
            "consumers": stack.kafka.consumers,
            # A delivery is a signal: its order does not matter, its rate does.
            "ordering": "unordered",
            "initialOffset": "earliest",
            "net": {"sasl": {"enable": True} | login, "tls": tls},
            "sink": _sink(PROJECT),
            "delivery": DELIVERY | {"deadLetterSink": _sink(PROJECT)},
        },
        opts=deps.inside(parent, projector, *kafka.ready),
    )


def make_sweep(
    deps: Dependencies, parent: pulumi.Resource, sweep: Sweep, service: pulumi.Resource
) -> None:
    """Wake a function on a schedule, for when no process is left that would sweep by itself."""
    custom_resource(
        sweep.name,
        SOURCES_API,
        "PingSource",
        {
            "schedule": sweep.schedule,
            "contentType": "application/json",
            "data": sweep.data,
            "sink": _sink(sweep.function),
        },
        opts=deps.inside(parent, service),
    )


def _sink(function: Function) -> dict[str, Any]:
    return {
        "ref": {
            "apiVersion": SERVING_API,
            "kind": "Service",
            "name": function.service,
            "namespace": NAMESPACE,
        },
        "audience": function.audience,
    }
