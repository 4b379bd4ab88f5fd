"""The PingSource of the local stack: posts a CloudEvent to each sink, at an interval.

Knative's takes a cron line and one sink; the local stack's sweeps need an interval and two. A ping
that fails is not sent again: the next one does its work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import uvloop

from local.knative.delivery import HTTP_REDIRECTION, Target, parse_duration_ms, parse_target
from local.knative.sink_client import NoAnswer, SinkClient

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("local.knative.ping_source")

TYPE = "dev.knative.sources.ping"
DATA = b'{"sweep":true}'
TIMEOUT_S = 120.0


def ping_head(target: Target, source: str, event_id: str, now: datetime) -> bytes:
    """Return the request's bytes up to the body DATA."""
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.authority}",
        f"Content-Length: {len(DATA)}",
        f"Ce-Id: {event_id}",
        f"Ce-Source: {source}",
        "Ce-Specversion: 1.0",
        f"Ce-Time: {now.isoformat().replace('+00:00', 'Z')}",
        f"Ce-Type: {TYPE}",
        "Content-Type: application/json",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def run(sinks: Sequence[Target], source: str, interval_s: float) -> None:
    """Ping every sink after each interval, until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    pinging = asyncio.create_task(_ping_forever(sinks, source, interval_s))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, pinging.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await pinging


async def _ping_forever(sinks: Sequence[Target], source: str, interval_s: float) -> None:
    due = asyncio.get_running_loop().time()
    while True:
        due += interval_s
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        await asyncio.gather(*(_ping(sink, source) for sink in sinks))


async def _ping(sink: Target, source: str) -> None:
    # A connection for each: the next ping is minutes away.
    client = SinkClient(sink)
    try:
        head = ping_head(sink, source, str(uuid.uuid4()), datetime.now(UTC))
        answer = await client.post(head, DATA, TIMEOUT_S)
    except NoAnswer as error:
        log.warning("ping of %s: %s", sink.url, error)
    else:
        if answer.status >= HTTP_REDIRECTION:
            log.warning("ping of %s: %d", sink.url, answer.status)
    finally:
        await client.close()


def main(arguments: Sequence[str]) -> int:
    """Run until a signal ends it."""
    parser = argparse.ArgumentParser(
        prog="python -m local.knative.ping_source", description="Ping sinks as PingSources do."
    )
    parser.add_argument("--interval", required=True, type=parse_duration_ms, metavar="DURATION")
    parser.add_argument("--sink", required=True, action="append", type=parse_target, metavar="URL")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--name", default="sweep")
    given = parser.parse_args(arguments)
    if given.interval < 1:
        parser.error("--interval is longer than nothing")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    source = f"/apis/v1/namespaces/{given.namespace}/pingsources/{given.name}"
    uvloop.run(run(given.sink, source, given.interval / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
