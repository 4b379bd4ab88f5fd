"""How the functions scale: the section ``functions`` of a stack file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, ConfigDict

from infra_pulumi.layers.knative import CONCURRENCY_LIMIT, PODS_LIMIT, TIMEOUT_S_MAX
from infra_pulumi.layers.processors import not_placed
from infra_pulumi.parts import FUNCTIONS
from infra_pulumi.section import Problem, Section, between, matching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A termination grace below this may never run the function's own shutdown: platform.md.
TIMEOUT_S_MIN = 46
POOL_SIZE_MIN, POOL_SIZE_MAX = 2, 5

Processors = Annotated[str, matching(r"\d+m?", "{} is not a quantity of processors")]
Memory = Annotated[str, matching(r"\d+(Mi|Gi)", "{} is not a quantity of memory")]


def _pods_max(pods_max: int) -> int:
    if pods_max > PODS_LIMIT:
        message = f"must be at most {PODS_LIMIT}"
        raise ValueError(message)
    return pods_max


def _timeout_s(timeout_s: int) -> int:
    if timeout_s > TIMEOUT_S_MAX:
        message = f"must be at most {TIMEOUT_S_MAX}"
        raise ValueError(message)
    if timeout_s < TIMEOUT_S_MIN:
        message = f"must be at least {TIMEOUT_S_MIN}, or a pod is killed before it has drained"
        raise ValueError(message)
    return timeout_s


class Scaling(Section):
    """How one function scales, and what one of its pods may use."""

    pods_min: int
    pods_max: Annotated[int, AfterValidator(_pods_max)]
    # Requests in flight in one pod: what Knative aims at, and what it never exceeds.
    concurrency: int
    concurrency_max: int
    timeout_s: Annotated[int, AfterValidator(_timeout_s)]
    pool_size: Annotated[int, between(POOL_SIZE_MIN, POOL_SIZE_MAX)]
    cpu: Processors
    memory: Memory

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        del stack
        # Without an upper bound nothing bounds the connections to the database.
        if not 0 <= self.pods_min <= self.pods_max or self.pods_max < 1:
            yield "", "podsMin must be at most podsMax, and podsMax at least 1"
        if not 1 <= self.concurrency <= self.concurrency_max <= CONCURRENCY_LIMIT:
            limit = f"must be from 1 to concurrencyMax, and that at most {CONCURRENCY_LIMIT}"
            yield "concurrency", limit


class FunctionsConfig(Section):
    """The scaling of each function, by the function's name."""

    # Functions keep their names.
    model_config = ConfigDict(alias_generator=None)

    record_transaction: Scaling
    project_balance: Scaling
    get_balance: Scaling

    def of(self, function: str) -> Scaling:
        """Return the scaling of one function."""
        scaling: Scaling = getattr(self, function)
        return scaling

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        for function in FUNCTIONS:
            for path, wrong in self.of(function.name).problems(stack):
                yield f"{function.name}.{path}".rstrip("."), wrong
        yield from not_placed(stack, self)
