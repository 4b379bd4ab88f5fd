"""The tests' proxy: it cuts, delays, refuses and holds connections, and counts its hits.

It runs in front of the functions (HTTP), and between each function and PostgreSQL. It parses
PostgreSQL's protocol far enough to recognise a COMMIT or the outbox's DELETE.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from saldo.record.postgres import APPEND

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK_BYTES = 65_536
CONNECT_TIMEOUT_S = 5.0  # short: the next upstream is tried then

# A port of 127.0.0.1, or the path of a Unix socket.
Upstream: TypeAlias = "int | Path"


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """What happens to a statement whose text begins with ``begins``, ``hits_max`` times.

    So it does to one that begins with ``alone`` outside of a database transaction, and commits by
    itself. hold: it waits for ``release``, and so does the rest of its connection. cut-before: the
    connection is cut instead. cut-after: it is carried out, and the connection cut instead of the
    answer; only what the server did carry out counts as a hit. cut-late: the connection is cut, and
    the statement carried out after ``release`` all the same; ``carried_out`` says when. With
    ``outage`` the proxy then refuses connections and cuts all others, before the client can know.
    """

    begins: str
    action: Literal["hold", "cut-before", "cut-after", "cut-late"]
    hits_max: int
    alone: str | None = None
    outage: bool = False
    hits: int = 0
    hit: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    carried_out: asyncio.Event = field(default_factory=asyncio.Event)

    def takes(self, text: str, *, in_transaction: bool) -> bool:
        """Return whether ``text`` is such a statement."""
        alone = self.alone is not None and not in_transaction and text.startswith(self.alone)
        return alone or text.startswith(self.begins)

    def note(self) -> None:
        self.hits += 1
        self.hit.set()


@dataclass(slots=True, kw_only=True, eq=False)
class Link:
    """One connection through the proxy."""

    upstream: Upstream
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    awaits_answer: bool = False
    in_transaction: bool = False
    cutting: Rule | None = None
    late: Rule | None = None

    def cut(self) -> None:
        """End it at once on both sides."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """A proxy on a separate port, which rotates connections over the upstreams that are up.

    With ``postgres`` it reads the requests of PostgreSQL's protocol, and its rules apply to them.
    """

    def __init__(self, *upstreams: Upstream, postgres: bool = False) -> None:
        self.upstreams = list(upstreams)
        self.port = 0
        self.links: set[Link] = set()
        self.rules: list[Rule] = []
        self.refusing = False
        self.delay_s = 0.0
        # Connections that ended while a request was unanswered, by who ended it.
        self.cut_by_server = 0
        self.cut_by_client = 0
        self._postgres = postgres
        self._round = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; ``port`` is known afterwards."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=4_096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything and listen no more."""
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CONNECT_TIMEOUT_S * 2)

    def in_flight(self, upstream: Upstream | None = None) -> int:
        """Return how many connections await an answer."""
        return sum(link.awaits_answer and upstream in {None, link.upstream} for link in self.links)

    def cut(self) -> int:
        """Cut all connections; how many of them awaited an answer."""
        cut = self.in_flight()
        for link in tuple(self.links):
            link.cut()
        return cut

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        opened = None if self.refusing else await self._connect()
        if opened is None:
            writer.transport.abort()
            return
        upstream, server_reader, server_writer = opened
        link = Link(upstream=upstream, client=writer, server=server_writer)
        self.links.add(link)
        requests = self._read_postgres if self._postgres else self._read_requests
        pumps = [
            asyncio.create_task(requests(link, reader)),
            asyncio.create_task(self._read_answers(link, server_reader)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if link.awaits_answer:
                self.cut_by_client += pumps[0] in done
                self.cut_by_server += pumps[0] not in done
        finally:
            for pump in pumps:
                pump.cancel()
            self.links.discard(link)
            link.cut()
            await asyncio.wait(pumps)

    async def _connect(
        self,
    ) -> tuple[Upstream, asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._round)
        for further in range(len(self.upstreams)):
            upstream = self.upstreams[(first + further) % len(self.upstreams)]
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    opened = (
                        await asyncio.open_connection("127.0.0.1", upstream)
                        if isinstance(upstream, int)
                        else await asyncio.open_unix_connection(str(upstream))
                    )
                return upstream, *opened
        return None

    async def _read_requests(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._forward(link, data)

    async def _forward(self, link: Link, data: bytes) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        link.awaits_answer = True
        link.server.write(data)
        await link.server.drain()

    async def _read_answers(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if link.late is not None:
                    link.late.carried_out.set()
                    return
                if link.cutting is not None:
                    rule, link.cutting = link.cutting, None
                    # The tag of a command that was carried out; a COMMIT that was none is ROLLBACK.
                    if rule.begins.encode() in data or (rule.alone and ALONE_TAG in data):
                        self._note(rule)
                        link.cut()
                        return
                link.awaits_answer = False
                link.client.write(data)
                await link.client.drain()

    async def _read_postgres(self, link: Link, reader: asyncio.StreamReader) -> None:
        """Forward message by message: each a letter, its length, and its body."""
        statements: dict[bytes, str] = {}
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._forward_unlettered(link, reader)
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
                text = _statement_of(head[:1], body, statements)
                rule = self._rule_of(link, text)
                if rule is not None and not await self._apply(rule, link):
                    return
                await self._forward(link, head + body)
                if text in TRANSACTION:
                    link.in_transaction = TRANSACTION[text]
        if link.late is not None:
            await link.late.carried_out.wait()

    async def _forward_unlettered(self, link: Link, reader: asyncio.StreamReader) -> None:
        """Forward the first messages, which have no letter: a TLS request (declined), the start."""
        for _ in range(2):
            length = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(length) - 4)
            await self._forward(link, length + body)
            if body[:4] != TLS_WISH:
                return

    def _rule_of(self, link: Link, text: str | None) -> Rule | None:
        if text is None:
            return None
        for rule in self.rules:
            taken = rule.hits + sum(each.cutting is rule for each in self.links)
            if taken < rule.hits_max and rule.takes(text, in_transaction=link.in_transaction):
                return rule
        return None

    def _note(self, rule: Rule) -> None:
        rule.note()
        if rule.outage:
            self.refusing = True
            for link in tuple(self.links):
                if link.late is None:
                    link.cut()

    async def _apply(self, rule: Rule, link: Link) -> bool:
        """Return whether the statement goes on to the server."""
        if rule.action == "cut-after":
            link.cutting = rule
            return True
        if rule.action == "cut-late":
            link.late = rule
        self._note(rule)
        if rule.action == "hold":
            link.awaits_answer = True
            await rule.release.wait()
            return True
        if rule.action == "cut-late":
            link.client.transport.abort()
            await rule.release.wait()
            return True  # what the client has sent with it goes on, too
        link.cut()
        return False


# Recording commits by COMMIT, or by the append itself where that is outside of a transaction; its
# tag is that of the UPDATE it ends with.
APPENDS = APPEND.lstrip().splitlines()[0]
ALONE_TAG = b"UPDATE "
TRANSACTION = {"BEGIN": True, "COMMIT": False, "ROLLBACK": False}
TLS_WISH = (80_877_103).to_bytes(4)


def _statement_of(letter: bytes, body: bytes, statements: dict[bytes, str]) -> str | None:
    """Return the statement that a Query or Bind message runs; note that of a Parse."""
    if letter == b"Q":
        return body[:-1].decode().lstrip()
    if letter == b"P":
        name, text, _ = body.split(b"\0", 2)
        statements[name] = text.decode().lstrip()
    elif letter == b"B":
        _, name, _ = body.split(b"\0", 2)
        return statements.get(name)
    return None


async def until(condition: Callable[[], object], deadline_s: float, what: str) -> None:
    """Wait until ``condition`` holds; AssertionError, naming ``what``, when it does not in time."""
    try:
        async with asyncio.timeout(deadline_s):
            while not condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:.0f} s: {what}") from None
