"""The route of project_balance, and the table from its errors to statuses: the retry policy.

KafkaSource judges a response by its status alone: 5xx, 404, 408, 409 and 429 are delivered again;
any other 4xx goes to the dead letter sink at once. An error that is not listed is a 500: it may be
a fault of ours that is mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from saldo.project.deliveries import of_cloud_event, read_delivery
from saldo.project.errors import (
    BadDelivery,
    BeyondStore,
    GivenUp,
    ReadModelBusy,
    ReadModelUnavailable,
)
from saldo.project.metrics import ProjectMetrics
from saldo.project.postgres import PostgresDatabases
from saldo.project.projector import Projector
from saldo.serve.clock import StoreClock
from saldo.serve.database import function_pool
from saldo.serve.group_commit import QueueFull
from saldo.serve.http import auth
from saldo.serve.http.problems import Rule
from saldo.serve.http.request import TEXT, Answer
from saldo.serve.http.router import Route, Router
from saldo.serve.server import FunctionApp
from saldo.serve.settings import BadSetting

if TYPE_CHECKING:
    from cloudevents.http import CloudEvent
    from starlette.responses import Response

    from saldo.serve.http.request import Request
    from saldo.serve.settings import Settings

RULES: dict[type[Exception], Rule] = {
    **auth.RULES,
    BadDelivery: Rule(  # dead letter: it will never be one of ours
        status=400, name="bad-delivery", title="The delivery is not one that is taken here"
    ),
    GivenUp: Rule(  # dead letter: retried long enough
        status=422, name="given-up", title="The event store has not held this event for too long"
    ),
    BeyondStore: Rule(  # again: the store may be about to hold it
        status=503, name="beyond-store", title="The event store does not hold this event yet"
    ),
    ReadModelBusy: Rule(status=503, name="read-model-busy", title="The read model is busy"),
    ReadModelUnavailable: Rule(
        status=503, name="read-model-unavailable", title="A database cannot be reached"
    ),
    QueueFull: Rule(  # again, a little later
        status=429, name="too-busy", title="Too many deliveries wait here", retry_after_s=1
    ),
}


async def open_projector(settings: Settings, metrics: ProjectMetrics) -> Projector:
    """Return the projector of this process, its sweep started."""
    if settings.read_model_url is None:
        raise ValueError("the projector's settings are incomplete")
    streams = function_pool(settings, settings.event_store_url, "event_store", metrics)
    read_model = function_pool(settings, settings.read_model_url, "read_model", metrics)
    projector = Projector(
        PostgresDatabases(await streams, await read_model),
        StoreClock(),
        metrics,
        auth.authenticator_of(settings.sources),
    )
    projector.sweeper.start()
    return projector


async def post_delivery(projector: Projector, request: Request) -> Response:
    """Take one delivery of a source; a 200 means that it needs no other."""
    await auth.caller_of(projector.authenticator, request)
    await projector.take(await read_delivery(request))
    return Answer(b"OK", media_type=TEXT)


app = FunctionApp(
    metrics=ProjectMetrics(),
    delivers=True,
    open_held=open_projector,
    router=Router(
        root_path="",
        rules=RULES,
        routes=(Route("POST", "/", post_delivery),),
    ),
)


async def take_cloud_event(event: CloudEvent) -> None:
    """Take the delivery that the functions-framework has made a CloudEvent of.

    Such a function sees no headers, so it cannot tell who sends: saldo.serve can.
    """
    if app.settings.sources is not None:
        raise BadSetting("AUTH", "is oidc, which needs `python -m saldo.serve` to check the sender")
    projector: Projector = await app.held()
    try:
        await projector.take(of_cloud_event(event))
    except Exception as error:
        refusal = app.router.refusal(error)
        raise HTTPException(refusal.status_code, bytes(refusal.body).decode()) from error
