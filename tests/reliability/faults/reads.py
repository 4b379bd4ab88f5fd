"""The reads of a load's client: present and past balances, and statements."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import aiohttp

from tests.reliability.faults.intents import minor
from tests.reliability.history.history import Line, PastRead, Read

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from tests.reliability.faults.driver import Load
    from tests.reliability.history.history import Receipt

MOMENTS_KEPT = 200
STREAM_S = 1.0  # a part of the load, not a wait
EVENTS_MAX = 1_000
NOT_MODIFIED = 304

# By position and by tag: at least it, or unless it is held.
Way = Literal["plainly", "from-position", "from-tag", "unless-position", "unless-tag", "as-stream"]
WAYS: tuple[Way, ...] = (
    *("plainly", "plainly", "from-position", "from-position", "from-tag"),
    *("unless-position", "unless-tag", "unless-tag", "as-stream"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The state of an account that a client was last told: the ETag without quotes, and what of."""

    tag: str
    position: int
    balance_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a GET was answered with, if it showed something."""

    status: int
    tag: str
    behind: int | None
    content: dict[str, Any]


class Reads:
    """The reads of one client, and what it remembers of what it was told."""

    def __init__(
        self, load: Load, session: aiohttp.ClientSession, number: int, chance: random.Random
    ) -> None:
        self._load = load
        self._session = session
        self._number = number
        self._chance = chance
        self.held: dict[str, Held] = {}
        self._seen: dict[str, int] = {}
        # Accounts and times of the last events.
        self._moments: deque[tuple[str, str]] = deque(maxlen=MOMENTS_KEPT)

    def remember(self, account_id: str, receipt: Receipt, tag: str, recorded_at: str) -> None:
        """Remember what a recorded request was answered with; no tag: a line of a bulk request."""
        self._seen[account_id] = max(self._seen.get(account_id, 0), receipt.position)
        if tag:
            self._moments.append((account_id, recorded_at))
            self.held[account_id] = Held(
                tag=tag, position=receipt.position, balance_minor=receipt.balance_minor
            )

    async def balance(self) -> None:
        """Read an account in one of the ways."""
        account_id = self._chance.choice(sorted(self._seen) or self._load.accounts)
        way = self._chance.choice(WAYS)
        held = self.held.get(account_id)
        if way == "from-position" and account_id in self._seen:
            minimum = self._seen[account_id]
            query = {"minPosition": str(minimum)}
            await self.read_balance(account_id, query, {"Prefer": "wait=2"}, minimum=minimum)
        elif held is None or way in {"plainly", "from-position"}:
            await self.read_balance(account_id)
        elif way == "as-stream":
            await self.stream(account_id, held.tag, STREAM_S)
        elif way == "from-tag":
            query = {"minPosition": held.tag}
            minimum = held.position
            await self.read_balance(account_id, query, {"Prefer": "wait=2"}, minimum=minimum)
        else:
            text = held.tag if way == "unless-tag" else str(held.position)
            await self.read_balance(account_id, headers={"If-None-Match": f'"{text}"'})

    async def read_balance(
        self,
        account_id: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        minimum: int = 0,
    ) -> Answer | None:
        """Read a balance and log it; a 304 shows what the client holds of that tag."""
        query, headers = {"accountId": account_id, **(query or {})}, headers or {}
        held = self.held.get(account_id)
        invoked_s = time.monotonic()
        answer = await self._get("/balances", query, headers)
        if answer is None:
            return None
        if answer.status == NOT_MODIFIED:
            # Of a bare position nothing is held; and it is answered for no other tag than was sent.
            assert held is not None
            assert headers["If-None-Match"] == f'"{answer.tag}"' == f'"{held.tag}"', answer
            shown = held
        else:
            shown = self.held[account_id] = Held(
                tag=answer.tag,
                position=answer.content["position"],
                balance_minor=minor(answer.content["value"]),
            )
        self._log(account_id, invoked_s, shown, minimum=minimum, behind=answer.behind)
        return answer

    async def stream(
        self, account_id: str, last_tag: str, seconds: float, events_max: int = EVENTS_MAX
    ) -> list[str]:
        """Follow an account for a while; the ids of the events."""
        headers = {"Last-Event-ID": last_tag}
        query = {"accountId": account_id}
        timeout = aiohttp.ClientTimeout(total=seconds)
        invoked_s = time.monotonic()
        tags: list[str] = []
        try:
            async with self._session.get(
                f"{self._load.balance_url}/balances/stream",
                params=query,
                headers=headers,
                timeout=timeout,
            ) as answer:
                assert answer.status in {200, 404, 503}, await answer.text()
                if answer.status != 200:
                    self._load.refused_reads += 1
                    return tags
                async for line in answer.content:
                    name, _, text = line.decode().rstrip("\n").partition(": ")
                    if name == "id":
                        tags.append(text)
                    elif name == "data":
                        content = json.loads(text, parse_float=str)
                        shown = self.held[account_id] = Held(
                            tag=tags[-1],
                            position=content["position"],
                            balance_minor=minor(content["value"]),
                        )
                        self._log(account_id, invoked_s, shown)
                        invoked_s = time.monotonic()
                        if len(tags) == events_max:
                            break
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass  # as long as it was to be followed, or cut
        return tags

    async def past(self) -> None:
        """Read a balance as of the very moment of an event, or of a few seconds ago."""
        if not self._moments:
            return
        account_id, moment = self._chance.choice(self._moments)
        if self._chance.random() < 0.5:
            ago = timedelta(seconds=self._chance.random() * 5)
            moment = (datetime.now(UTC) - ago).isoformat()
        invoked_s = time.monotonic()
        answer = await self._get("/balances", {"accountId": account_id, "asOf": moment}, {})
        if answer is not None:
            self._load.history.operations.append(
                PastRead(
                    client=self._number,
                    account_id=account_id,
                    invoked_s=invoked_s,
                    completed_s=time.monotonic(),
                    moment=moment,
                    final=answer.content["final"],
                    position=answer.content["position"],
                    balance_minor=minor(answer.content["value"]),
                )
            )

    async def statement(self) -> None:
        """Read the newest lines of an account."""
        account_id = self._chance.choice(sorted(self._seen) or self._load.accounts)
        invoked_s = time.monotonic()
        query = {"accountId": account_id, "limit": "20"}
        answer = await self._get("/transactions", query, {})
        if answer is None:
            return
        lines = tuple(
            Line(position=t["position"], event_id=t["id"], balance_minor=minor(t["balance"]))
            for t in answer.content["transactions"]
        )
        if lines:
            shown = Held(tag="", position=lines[0].position, balance_minor=lines[0].balance_minor)
            self._log(account_id, invoked_s, shown, lines=lines)

    def _log(  # noqa: PLR0913 - the parts of one read
        self,
        account_id: str,
        invoked_s: float,
        shown: Held,
        *,
        minimum: int = 0,
        behind: int | None = None,
        lines: tuple[Line, ...] = (),
    ) -> None:
        self._load.history.operations.append(
            Read(
                client=self._number,
                account_id=account_id,
                invoked_s=invoked_s,
                completed_s=time.monotonic(),
                position=shown.position,
                balance_minor=shown.balance_minor,
                min_position=minimum,
                lines=lines,
                tag=shown.tag,
                behind=behind,
            )
        )

    async def _get(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Answer | None:
        """Return the response, or None if nothing is shown."""
        try:
            async with self._session.get(
                f"{self._load.balance_url}{path}", params=query, headers=headers
            ) as answer:
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._load.refused_reads += 1
            return None
        if status not in {200, NOT_MODIFIED}:
            # Behind, unavailable, or an account that has no event yet: no balance was shown.
            assert status in {404, 503}, text
            self._load.refused_reads += 1
            return None
        behind = answer.headers.get("Saldo-Behind")
        return Answer(
            status=status,
            tag=answer.headers.get("ETag", "").strip('"'),
            behind=None if behind is None else int(behind),
            content=json.loads(text, parse_float=str) if text else {},
        )
