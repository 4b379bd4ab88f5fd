"""The base of every section of a stack file: its keys in camelCase, closed, strict and frozen.

A section is defined beside the component that it configures. What one field may hold is in the
field's type; what relates fields, or sections, is in ``problems``.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# The path below the section, as the operator types it, and what is wrong there.
Problem = tuple[str, str]


# Of the pods of an operator or a controller: more says a mistake.
REPLICAS_MAX = 5


class RefusedError(ValueError):
    """A section breaks rules between its fields, or with the sections before it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(str(self.problems))


class Section(BaseModel):
    """One table of a stack file."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        """Yield what is wrong between these fields and the sections before this one.

        ``stack`` has the valid ones of those by field name: the rules about a section that is
        itself refused are left out.
        """
        del stack
        yield from ()


def between(low: int, high: int) -> AfterValidator:
    """Return the check of a whole number from ``low`` to ``high``."""

    def check(value: int) -> int:
        if not low <= value <= high:
            message = f"must be from {low} to {high}"
            raise ValueError(message)
        return value

    return AfterValidator(check)


def matching(pattern: str, wrong: str) -> AfterValidator:
    """Return the check of a text against all of ``pattern``; ``wrong`` formats a refused one."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(wrong.format(f"'{value}'"))
        return value

    return AfterValidator(check)


def _at_least_one(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        message = "must name at least one"
        raise ValueError(message)
    return values


def network_of(cidr: str) -> ipaddress.IPv4Network | None:
    """Return the network that ``cidr`` spells, None if it spells none."""
    try:
        return ipaddress.IPv4Network(cidr)
    except ValueError:
        return None


def _network(cidr: str) -> str:
    if network_of(cidr) is None:
        message = f"'{cidr}' is not a network"
        raise ValueError(message)
    return cidr


def _narrow(cidr: str) -> str:
    network = network_of(cidr)
    if network is not None and network.prefixlen == 0:
        message = "must not be the whole internet"
        raise ValueError(message)
    return cidr


AnyCidr = Annotated[str, AfterValidator(_network)]
Cidr = Annotated[AnyCidr, AfterValidator(_narrow)]
HttpsUrl = Annotated[str, matching("https://.*", "must start with https://, unlike {}")]
AT_LEAST_ONE = AfterValidator(_at_least_one)
# YAML has lists: only here they may stand for what is frozen.
FROM_LIST = Field(strict=False)
Texts = Annotated[tuple[str, ...], FROM_LIST]


def only_in(
    shape: str, stack: Mapping[str, Any], values: Mapping[str, object]
) -> Iterator[Problem]:
    """Yield what is missing in this shape, and what another shape would ignore, by key."""
    chosen = stack.get("shape")
    for key, value in values.items():
        if chosen == shape and value is None:
            yield key, f"is missing, and the shape {shape} needs it"
        if chosen not in {shape, None} and value is not None:
            yield key, f"means nothing in the shape {chosen}"
