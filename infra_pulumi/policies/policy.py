"""A policy: what must hold of one resource, judged by its inputs as Pulumi's wire spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Inputs = dict[str, Any]
# The shapes, and the kinds of Kafka, in which a policy must have something to judge.
AWS, CLUSTER, MSK, STRIMZI = ("aws",), ("cluster",), ("msk",), ("strimzi",)
BOTH = ("aws", "cluster")


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """One rule. ``on`` has types of Pulumi, or kinds of Kubernetes, which it judges."""

    name: str
    why: str
    on: frozenset[str]
    check: Callable[[Inputs], Iterator[str]]
    # The shapes and the kinds of Kafka in which it must have something to judge.
    where: frozenset[str]

    def applies(self, resource_type: str, inputs: Mapping[str, Any]) -> bool:
        """Return whether it judges this resource."""
        if resource_type.startswith("kubernetes:") and "kind" in inputs:
            return _kind(resource_type, inputs) in self.on
        return resource_type in self.on


def policy(
    why: str, *on: str, where: tuple[str, ...]
) -> Callable[[Callable[[Inputs], Iterator[str]]], Policy]:
    """Return a decorator that makes a Policy of a check, named after it."""

    def make(check: Callable[[Inputs], Iterator[str]]) -> Policy:
        return Policy(
            name=check.__name__.replace("_", "-"),
            why=why,
            on=frozenset(on),
            check=check,
            where=frozenset(where),
        )

    return make


def differences(have: Mapping[str, Any], must: Mapping[str, Any]) -> Iterator[str]:
    """Yield each value of ``must`` that ``have`` lacks."""
    for name, value in must.items():
        if have.get(name) != value:
            yield f"{name} must be {value!r}, not {have.get(name)!r}"


def _kind(resource_type: str, inputs: Mapping[str, Any]) -> str:
    """Return Kubernetes' kind; a Service of Knative is told apart from that of Kubernetes."""
    kind = str(inputs["kind"])
    return "KnativeService" if kind == "Service" and "serving.knative" in resource_type else kind
