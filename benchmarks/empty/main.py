"""The limit: functions that return a constant, served by functions-framework alone."""

import functions_framework.aio
from cloudevents.http import CloudEvent
from starlette.requests import Request


@functions_framework.aio.http
async def empty(_request: Request) -> str:
    """Answer a constant."""
    return "OK"


@functions_framework.aio.cloud_event
async def empty_event(_event: CloudEvent) -> None:
    """Take an event and do nothing with it."""
