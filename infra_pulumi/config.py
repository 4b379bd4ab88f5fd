"""A stack's configuration: every section of the stack file, read in one place.

``read_config`` takes the values under ``saldo:`` of a Pulumi.STACK.yaml and returns a Stack, or
raises BadConfigError with every problem it found, each under the path that the operator typed.
Almost nothing has a default: a stack file says what it deploys.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from infra_pulumi.layers.database.existing import ExistingDatabaseConfig
from infra_pulumi.layers.database.postgres_pod import PostgresPodConfig
from infra_pulumi.layers.database.rds import RdsConfig
from infra_pulumi.layers.edge import EdgeConfig
from infra_pulumi.layers.eks.cluster import EksConfig
from infra_pulumi.layers.functions.environment import CallersConfig
from infra_pulumi.layers.functions.scaling import FunctionsConfig
from infra_pulumi.layers.kafka.existing import ExistingKafkaConfig
from infra_pulumi.layers.kafka.msk import MskConfig
from infra_pulumi.layers.kafka.strimzi import StrimziConfig
from infra_pulumi.layers.knative import KnativeConfig
from infra_pulumi.layers.network import AwsConfig
from infra_pulumi.layers.observability import TelemetryConfig
from infra_pulumi.layers.operators import OperatorsConfig
from infra_pulumi.layers.registry import ImagesConfig
from infra_pulumi.layers.source_tokens import SourcesConfig
from infra_pulumi.section import Problem, RefusedError, Section, matching, only_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_core import ErrorDetails

# The shape that needs a section or setting, and without which it means nothing.
SHAPES = {"aws": "aws", "eks": "aws", "context": "cluster"}
# What a stack file says instead of leaving a key out: see Stack.
OUTRIGHT = {
    "images": "pending",
    "operators": "existing",
    "knative": "existing",
    "callers": "none",
}
# The sections whose kind says what else is in them; a kind's shape, if it is there in one only.
KINDS = ("kafka", "database")
OF_SHAPE = {"msk": "aws", "rds": "aws", "pod": "cluster"}


class Stack(Section):
    """All of one stack. A section's rules see those above it."""

    # What a shape needs must not be left out.
    model_config = ConfigDict(validate_default=True)

    shape: Literal["aws", "cluster"]
    # Data outlive mistakes: deletion protection, final snapshots, Pulumi's own protect.
    protected: bool
    aws: AwsConfig | None = None
    eks: EksConfig | None = None
    # The kubeconfig's context that the shape cluster deploys to.
    context: str | None = None
    # None while no image has been built yet, which the stack file says as "pending".
    images: ImagesConfig | None
    # None where they are there already, which the stack file says as "existing".
    operators: OperatorsConfig | None
    kafka: Annotated[MskConfig | StrimziConfig | ExistingKafkaConfig, Field(discriminator="kind")]
    # None where it is there already, which the stack file says as "existing".
    knative: KnativeConfig | None
    functions: FunctionsConfig
    # After the functions, whose connections it must hold.
    database: Annotated[
        RdsConfig | PostgresPodConfig | ExistingDatabaseConfig, Field(discriminator="kind")
    ]
    edge: EdgeConfig
    # None where callers need no token, which the stack file says as "none".
    callers: CallersConfig | None
    # None where Kubernetes itself issues the sources' tokens, or EKS.
    sources: SourcesConfig | None = None
    currency: Annotated[str, matching("[A-Z]{3}", "{} is not an ISO 4217 code")]
    # None is off.
    telemetry: TelemetryConfig | None = None

    @field_validator(*OUTRIGHT, mode="before")
    @classmethod
    def _read_outright(cls, value: object, info: ValidationInfo) -> object:
        return None if value == OUTRIGHT[info.field_name or ""] else value

    @field_validator(*KINDS, mode="before")
    @classmethod
    def _read_kind(cls, value: object, info: ValidationInfo) -> object:
        kind = value.get("kind") if isinstance(value, dict) else None
        shape = OF_SHAPE.get(str(kind))
        if shape is not None and info.data.get("shape", shape) != shape:
            raise RefusedError([("kind", f"{kind} is there in the shape {shape} only")])
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _check(cls, value: object, info: ValidationInfo) -> object:
        found = tuple(_problems(info.field_name or "", value, info.data))
        if found:
            raise RefusedError(found)
        return value


def _problems(key: str, value: object, stack: Mapping[str, Any]) -> Iterator[Problem]:
    if key in SHAPES:
        yield from only_in(SHAPES[key], stack, {"": value})
    if key == "callers" and value is None and stack.get("shape") == "aws":
        yield "", "may be none in the shape cluster only"
    if isinstance(value, Section):
        yield from value.problems(stack)


class BadConfigError(Exception):
    """The stack's configuration cannot be deployed. The message has one line a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def read_config(values: Mapping[str, Any]) -> Stack:
    """Return the stack that ``values`` describe, by their keys below ``saldo:``."""
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return Stack.model_validate(given)
    except ValidationError as bad:
        problems = [line for error in bad.errors() for line in _lines(error)]
        raise BadConfigError(problems) from bad


def _lines(error: ErrorDetails) -> Iterator[str]:
    """Yield each problem of an error of pydantic, under its path."""
    key, *below = error["loc"]
    # Not typed by the operator: it is the value of kind.
    below = below[1:] if key in KINDS else below
    path = f"saldo:{key}" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in below
    )
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error" if isinstance(context["error"], RefusedError):
            for tail, wrong in context["error"].problems:
                yield f"{path}.{tail}: {wrong}" if tail else f"{path}: {wrong}"
        case "value_error":
            yield f"{path}: {context['error']}"
        case "union_tag_not_found":
            yield f"{path}.kind: is missing"
        case "union_tag_invalid":
            yield f"{path}.kind: must be one of {context['expected_tags']}, not '{context['tag']}'"
        case "missing" if path == f"saldo:{key}" and key in OUTRIGHT:
            yield f"{path}: is missing; say {OUTRIGHT[str(key)]} outright if that is meant"
        case "missing":
            yield f"{path}: is missing"
        case "extra_forbidden":
            yield f"{path}: is not known"
        case kind:
            expected = str(context.get("expected", "")).replace("'", "")
            must = EXPECTED.get(kind, expected or error["msg"])
            outright = None if below else OUTRIGHT.get(str(key))
            must += "" if outright is None else f", or {outright}"
            yield f"{path}: must be {must}, not {json.dumps(error['input'], default=str)}"


# By pydantic's type of an error: what a value must be.
EXPECTED = {
    "string_type": "a text (in quotes, if digits)",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list of texts",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
