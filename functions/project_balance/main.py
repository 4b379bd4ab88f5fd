"""project_balance: takes the events that KafkaSource delivers, and keeps the balances.

The table below is the retry policy, since KafkaSource judges an answer by its status alone: 5xx,
404, 408, 409 and 429 are delivered again; any other 4xx goes to the dead letter sink at once.
"""

import logging
from collections.abc import Awaitable, Mapping

import functions_framework.aio
from cloudevents.http import CloudEvent
from starlette.exceptions import HTTPException

from saldo.project import postgres as read_model
from saldo.project import projection
from saldo.project import projector as handler
from saldo.project.deliveries import Deliveries
from saldo.project.guard import check_sender
from saldo.serve.group_commit import QueueFull
from saldo.serve.server import ANSWERERS, GUARDS

STATUSES: dict[type[Exception], int] = {
    projection.BadDelivery: 400,  # dead letter: it will never be one of ours
    projection.GivenUp: 422,  # dead letter: retried long enough
    projection.BeyondStore: 503,  # again: the store may be about to hold it
    read_model.ReadModelBusy: 503,
    read_model.ReadModelUnavailable: 503,
    QueueFull: 429,  # again, a little later
}

log = logging.getLogger("saldo.project")

GUARDS.append(check_sender)


@functions_framework.aio.cloud_event
async def project_balance(event: CloudEvent) -> None:
    """Take one delivery; returning means that it needs no other."""
    projector = await handler.PROJECTOR.get()
    await taken(projector.take(event))


async def project_plain(attributes: Mapping[str, str], erased: bool) -> None:  # noqa: FBT001
    """Take one plain delivery, which needs no CloudEvent to be made of it."""
    projector = await handler.PROJECTOR.get()
    await taken(projector.take_plain(attributes, erased=erased))


ANSWERERS.append(Deliveries(project_plain).answerer)


async def taken(delivery: Awaitable[None]) -> None:
    """Wait for ``delivery``, and turn its error into the answer that KafkaSource acts on."""
    try:
        await delivery
    except tuple(STATUSES) as error:
        raise HTTPException(STATUSES[type(error)], str(error) or type(error).__doc__) from error
    except Exception as error:
        # Again: it may be a fault of ours that is mended. Logged here, since the framework's own
        # line would repeat the values that an error speaks of.
        log.exception("unexpected error")
        raise HTTPException(500, "unexpected error") from error
