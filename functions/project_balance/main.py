"""project_balance: takes the events that KafkaSource delivers, and keeps the balances.

Its route and the retry policy are in saldo.project.routes.
"""

import functions_framework.aio
from cloudevents.http import CloudEvent

from saldo.project.routes import app, take_cloud_event

__all__ = ["app", "project_balance"]


@functions_framework.aio.cloud_event
async def project_balance(event: CloudEvent) -> None:
    """Take one delivery; returning means that it needs no other."""
    await take_cloud_event(event)
