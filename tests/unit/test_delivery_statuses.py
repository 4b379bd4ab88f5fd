"""The projector's table from error to status is the retry policy: held against KafkaSource's."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.http import CloudEvent
from starlette.exceptions import HTTPException

from local.delivery import is_retried
from local.services import ROOT
from saldo.project.postgres import ReadModelBusy, ReadModelUnavailable
from saldo.project.projection import BadDelivery, BeyondStore, GivenUp
from saldo.serve.group_commit import QueueFull

if TYPE_CHECKING:
    from types import ModuleType

EVENT = CloudEvent({"type": "t", "source": "/s", "id": "1"}, {})


def load_main() -> ModuleType:
    source = ROOT / "functions/project_balance/main.py"
    spec = importlib.util.spec_from_file_location("project_balance_main", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAIN = load_main()


class Failing:
    """A projector whose every delivery ends so."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get(self) -> Failing:
        return self

    async def take(self, _event: CloudEvent) -> None:
        raise self.error


async def status_of(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(MAIN.handler, "PROJECTOR", Failing(error))
    function: Any = MAIN.project_balance
    with pytest.raises(HTTPException) as answered:
        await function(EVENT)
    return answered.value.status_code


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (BadDelivery("x"), False),
        (GivenUp(), False),
        (BeyondStore(), True),
        (ReadModelBusy(), True),
        (ReadModelUnavailable(), True),
        (QueueFull(), True),
    ],
)
async def test_kafka_source_does_with_each_error_what_it_asks_for(
    error: Exception,
    retried: bool,  # noqa: FBT001 - a column of the table
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = await status_of(error, monkeypatch)
    assert is_retried(status) == retried
    assert status >= 400


async def test_an_error_that_nobody_expected_is_not_answered_as_one_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is 500, which is retried; the error itself goes to the log, without its text."""
    assert await status_of(ZeroDivisionError(), monkeypatch) == 500
    assert is_retried(500)


def test_every_error_of_the_table_is_tested() -> None:
    tested = {BadDelivery, GivenUp, BeyondStore, ReadModelBusy, ReadModelUnavailable, QueueFull}
    assert set(MAIN.STATUSES) == tested
