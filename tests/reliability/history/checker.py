"""The history checker: compares what clients saw with a sequential model.

It is pure, and uses no code of the product: it computes hashes, folds and limits itself, so that
a mistake in one is found by the other. The final state resolves an attempt of unknown outcome: it
may have recorded its event or not, but not twice and not another event.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.reliability.history.tags import check_tags
from tests.reliability.history.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.reliability.history.history import (
        Attempt,
        Balance,
        Event,
        Final,
        History,
        Read,
        Receipt,
        Span,
    )
    from tests.reliability.history.violations import Category

# A machine's clocks are not read at one moment, and are kept in time by a little.
TOLERANCE_S = 1.0


def check(history: History, final: Final) -> list[Violation]:
    """Return everything that is wrong with ``history``, given its final state."""
    streams = _streams(final)
    return [
        *_check_attempts(history, streams),
        *_check_refusals(history, streams),
        *(each for account in streams.values() for each in account.check_stream()),
        *_check_order(history),
        *_check_times(history, final, streams),
        *_check_reads(history, streams),
        *check_tags(history, final.events),
        *_check_past_reads(history, streams),
        *_check_balances(final.balances, streams),
        *_check_topic(final),
    ]


def count(violations: Sequence[Violation]) -> dict[Category, int]:
    """Return how many there are of each category."""
    counted = Counter(each.category for each in violations)
    return {category: counted[category] for category in ("lost", "doubled", "stale", "wrong")}


# --- the model --------------------------------------------------------------------------------


class _Stream:
    """One account's events, folded one after another."""

    def __init__(self, account_id: str, events: Sequence[Event]) -> None:
        self.account_id = account_id
        self.events = sorted(events, key=lambda event: event.position)
        self.limits = {event.position for event in events if event.kind == "LIMIT"}
        self.balances = {0: 0}  # by position
        balance = 0
        for event in self.events:
            balance += _signed(event)
            self.balances[event.position] = balance
        self.end = self.events[-1].position if self.events else 0
        texts = {event.position: json.loads(event.public_text) for event in self.events}
        self.recorded_at = {at: _epoch_s(text["recordedAt"]) for at, text in texts.items()}
        self.occurred_at = {
            at: _epoch_s(text["occurredAt"]) for at, text in texts.items() if "occurredAt" in text
        }

    def event_at(self, position: int) -> Event | None:
        """Return the event at ``position``, or None."""
        own = [event for event in self.events if event.position == position]
        return own[0] if own else None

    def check_stream(self) -> Iterator[Violation]:
        """Check a stream for gaps, its chain, and limits."""
        previous = hashlib.sha256(self.account_id.encode()).hexdigest()
        limit: int | None = None
        for expected, event in enumerate(self.events, start=1):
            if event.position != expected:
                yield self.wrong("gap", f"position {expected} is missing")
                return
            text = bytes.fromhex(previous) + event.public_text.encode()
            if hashlib.sha256(text).hexdigest() != event.hash:
                yield self.wrong("chain-broken", f"at position {event.position}")
            previous = event.hash
            if event.kind == "LIMIT":
                limit = event.amount_minor
            elif event.kind == "EXPENSE" and limit is not None:
                balance = self.balances[event.position]
                if balance < -limit:
                    detail = f"{balance} at position {event.position}, the limit was {limit}"
                    yield self.wrong("limit-broken", detail)

    def check_balance(self, position: int, balance_minor: int, who: str) -> Iterator[Violation]:
        """Check that the balance at ``position`` is the fold of the events up to it."""
        expected = self.balances.get(position)
        if expected is None:
            detail = f"{who} shows position {position}, the stream ends at {self.end}"
            yield self.wrong("beyond-the-stream", detail)
        elif expected != balance_minor:
            detail = f"{who} shows {balance_minor} at position {position}, it is {expected}"
            yield self.wrong("wrong-balance", detail + self._explain(position, balance_minor))

    def _explain(self, position: int, balance_minor: int) -> str:
        """Return the transactions that a wrong balance lacks, if each amount is a different bit."""
        amounts = {e.amount_minor or 0: e for e in self.events if e.position <= position}
        incomes = [e for e in self.events if e.position <= position and e.kind == "INCOME"]
        binary = len(amounts) == len(incomes) and all(a.bit_count() == 1 for a in amounts)
        if not binary or balance_minor < 0:
            return ""
        lacking = [str(e.position) for a, e in amounts.items() if not balance_minor & a]
        unknown = balance_minor & ~sum(amounts)
        return f"; it lacks the transactions at {', '.join(lacking) or 'no position'}" + (
            f" and holds {unknown} that nobody recorded" if unknown else ""
        )

    def wrong(self, name: str, detail: str) -> Violation:
        """Return a violation of this account."""
        return Violation(name=name, account_id=self.account_id, detail=detail)


def _streams(final: Final) -> dict[str, _Stream]:
    events: defaultdict[str, list[Event]] = defaultdict(list)
    for event in final.events:
        events[event.account_id].append(event)
    return {account_id: _Stream(account_id, own) for account_id, own in events.items()}


def _signed(event: Event) -> int:
    amount = event.amount_minor or 0
    return {"INCOME": amount, "EXPENSE": -amount, "LIMIT": 0}[event.kind]


# --- what was recorded ------------------------------------------------------------------------


def _check_attempts(history: History, streams: dict[str, _Stream]) -> Iterator[Violation]:
    """Check that a 201 has one event, an intent at most one, and an event a request."""
    intents: defaultdict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in history.attempts():
        intents[attempt.account_id, attempt.key].append(attempt)
    recorded: defaultdict[tuple[str, str | None], list[Event]] = defaultdict(list)
    for stream in streams.values():
        for event in stream.events:
            recorded[event.account_id, event.key].append(event)
    for (account_id, key), events in recorded.items():
        if key is None or (account_id, key) not in intents:
            detail = f"positions {', '.join(str(event.position) for event in events)}"
            yield Violation(name="unasked", account_id=account_id, detail=detail)
    for (account_id, key), attempts in intents.items():
        yield from _check_intent(
            account_id, attempts, recorded.get((account_id, key), []), streams.get(account_id)
        )


def _check_intent(
    account_id: str, attempts: Sequence[Attempt], events: Sequence[Event], stream: _Stream | None
) -> Iterator[Violation]:
    key = attempts[0].key

    def wrong(name: str, detail: str) -> Violation:
        return Violation(name=name, account_id=account_id, detail=f"key {key}: {detail}")

    receipts = [each.receipt for each in attempts if each.receipt is not None]
    if len(events) > 1:
        yield wrong("recorded-twice", f"positions {[event.position for event in events]}")
    if events and all(attempt.outcome == "refused" for attempt in attempts):
        yield wrong("refused-but-recorded", f"{attempts[-1].said}, position {events[0].position}")
    if len(set(receipts)) > 1:
        yield wrong("answers-differ", "; ".join(str(receipt) for receipt in receipts))
    for receipt in dict.fromkeys(receipts):
        own = [event for event in events if event.event_id == receipt.event_id]
        if not own:
            yield wrong("acknowledged-lost", f"position {receipt.position} was answered")
        elif stream is not None:
            yield from _check_receipt(stream, receipt, own[0], attempts[0])


def _check_receipt(
    stream: _Stream, receipt: Receipt, event: Event, asked: Attempt
) -> Iterator[Violation]:
    said = (receipt.position, receipt.hash, asked.kind, asked.amount_minor)
    stored = (event.position, event.hash, event.kind, event.amount_minor)
    if said != stored:
        detail = f"key {asked.key}: stored {stored}, asked and answered {said}"
        yield Violation(name="altered", account_id=stream.account_id, detail=detail)
    elif asked.kind != "LIMIT":
        who = f"the answer to key {asked.key}"
        yield from stream.check_balance(receipt.position, receipt.balance_minor, who)


def _check_refusals(history: History, streams: dict[str, _Stream]) -> Iterator[Violation]:
    """Check that refusals name only events that are stored and were requested by then."""
    first_asked = _first_asked(history)
    by_id = {event.event_id: event for stream in streams.values() for event in stream.events}
    for attempt in history.attempts():
        account_id, who = attempt.account_id, f"key {attempt.key}: {attempt.said}"
        if attempt.named is not None:
            event = by_id.get(attempt.named)
            if event is None:
                detail = f"{who} names {attempt.named}, which is not stored"
                yield Violation(name="refused-for-lost", account_id=account_id, detail=detail)
            elif json.loads(event.public_text).get("reverses") != attempt.reverses:
                detail = f"{who} names {attempt.named}, which does not reverse {attempt.reverses}"
                yield Violation(name="refused-for-another", account_id=account_id, detail=detail)
        if attempt.not_found and attempt.reverses in by_id:
            detail = f"{who}: {attempt.reverses} is stored"
            yield Violation(name="refused-unfounded", account_id=account_id, detail=detail)
        if attempt.stated is None or attempt.stated[0] == 0:
            continue
        position, balance_minor = attempt.stated
        stream = streams.get(account_id)
        event = None if stream is None else stream.event_at(position)
        if (
            stream is None
            or event is None
            or balance_minor not in {None, stream.balances[position]}
            or first_asked.get((account_id, event.key), 0) > (attempt.completed_s or 0)
        ):
            detail = f"{who} states {balance_minor} at position {position}, which never was"
            yield Violation(name="refused-unfounded", account_id=account_id, detail=detail)


def _first_asked(history: History) -> dict[tuple[str, str | None], float]:
    """Return when each intent was first requested."""
    asked: dict[tuple[str, str | None], float] = {}
    for attempt in sorted(history.attempts(), key=lambda each: each.invoked_s):
        asked.setdefault((attempt.account_id, attempt.key), attempt.invoked_s)
    return asked


def _check_order(history: History) -> Iterator[Violation]:
    """Check that an event acknowledged before another was requested precedes it."""
    by_account: defaultdict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    first_asked = _first_asked(history)
    for attempt in history.attempts():
        asked = first_asked[attempt.account_id, attempt.key]
        if attempt.receipt is not None and attempt.completed_s is not None:
            position = attempt.receipt.position
            _, known = by_account[attempt.account_id].get(position, (asked, attempt.completed_s))
            by_account[attempt.account_id][position] = (asked, min(known, attempt.completed_s))
    for account_id, answered in by_account.items():
        first_answer_s, of_position = float("inf"), 0  # among the positions after the one at hand
        for position in sorted(answered, reverse=True):
            asked_s, answered_s = answered[position]
            if first_answer_s < asked_s:
                detail = f"{of_position} was answered before {position} was asked for"
                yield Violation(name="order-reversed", account_id=account_id, detail=detail)
            if answered_s < first_answer_s:
                first_answer_s, of_position = answered_s, position


def _check_times(
    history: History, final: Final, streams: dict[str, _Stream]
) -> Iterator[Violation]:
    """Check that each time is the store's at recording; only recordedAt may be held back.

    No client of the histories says when its transaction occurred.
    """
    asked: defaultdict[tuple[str, str | None], float] = defaultdict(lambda: float("inf"))
    answered: defaultdict[str, float] = defaultdict(lambda: float("inf"))
    for attempt in history.attempts():
        intent = attempt.account_id, attempt.key
        asked[intent] = min(asked[intent], attempt.invoked_s)
        if attempt.receipt is not None and attempt.completed_s is not None:
            event_id = attempt.receipt.event_id
            answered[event_id] = min(answered[event_id], attempt.completed_s)
    for stream in streams.values():
        previous_s = float("-inf")
        for event in stream.events:
            key = event.account_id, event.key
            recorded_s = stream.recorded_at[event.position]
            if recorded_s < previous_s:
                yield stream.wrong("recorded-back", f"at position {event.position}")
            if final.clock and key in asked:
                spans = _shown(final.clock, asked[key], answered[event.event_id])
                # Held up at the time of the event before, while the clock is behind that.
                held = recorded_s == previous_s and any(since < recorded_s for since, _ in spans)
                if not held and not _within(recorded_s, spans):
                    yield stream.wrong("recorded-off", f"{recorded_s} at {event.position}, {spans}")
                occurred_s = stream.occurred_at.get(event.position)
                if occurred_s is not None and not _within(occurred_s, spans):
                    yield stream.wrong("occurred-off", f"{occurred_s} at {event.position}, {spans}")
            previous_s = recorded_s


def _shown(clock: Sequence[Span], from_s: float, to_s: float) -> list[tuple[float, float]]:
    """Return what the store's clock showed between two times of the history."""
    return [
        (max(span.from_s, from_s) + span.ahead_s, min(span.to_s, to_s) + span.ahead_s)
        for span in clock
        if span.from_s <= to_s and from_s <= span.to_s
    ]


def _within(time_s: float, spans: Sequence[tuple[float, float]]) -> bool:
    return any(
        since_s - TOLERANCE_S <= time_s <= until_s + TOLERANCE_S for since_s, until_s in spans
    )


def _epoch_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- what was read ----------------------------------------------------------------------------


def _check_reads(history: History, streams: dict[str, _Stream]) -> Iterator[Violation]:
    by_client: defaultdict[tuple[int, str], list[Read]] = defaultdict(list)
    for read in history.reads():
        by_client[read.client, read.account_id].append(read)
        stream = streams.get(read.account_id)
        who = f"client {read.client}"
        if stream is None:
            detail = f"{who} shows position {read.position}, there is no stream"
            yield Violation(name="beyond-the-stream", account_id=read.account_id, detail=detail)
            continue
        yield from stream.check_balance(read.position, read.balance_minor, who)
        yield from _check_lines(stream, read)
        if _reach(read, stream) < read.min_position:
            detail = f"{who} asked for {read.min_position} and was shown {read.position}"
            yield Violation(name="stale-read", account_id=read.account_id, detail=detail)
    for (client, account_id), reads in by_client.items():
        stream = streams.get(account_id)
        for before, after in pairwise(sorted(reads, key=lambda read: read.invoked_s)):
            if _reach(after, stream) < before.position:
                detail = f"client {client} saw {before.position}, then {after.position}"
                yield Violation(name="went-back", account_id=account_id, detail=detail)


def _check_past_reads(history: History, streams: dict[str, _Stream]) -> Iterator[Violation]:
    """Check that a past balance shows nothing later, and a final one everything before."""
    for read in history.past_reads():
        stream = streams.get(read.account_id)
        if stream is None:
            continue
        moment_s = _epoch_s(read.moment)
        by_then = [at for at, recorded_s in stream.recorded_at.items() if recorded_s <= moment_s]
        last = max(by_then, default=0)
        who = f"client {read.client}, as of {read.moment},"
        if read.position > last or (read.final and read.position < last):
            detail = f"{who} was shown {read.position}, it is {last}"
            yield stream.wrong("final-changed" if read.final else "beyond-the-stream", detail)
        else:
            yield from stream.check_balance(read.position, read.balance_minor, who)


def _reach(read: Read, stream: _Stream | None) -> int:
    """Return the position that a read surely saw; a statement has no line for a limit."""
    reach = read.position
    if read.lines and stream is not None:
        while reach + 1 in stream.limits:
            reach += 1
    return reach


def _check_lines(stream: _Stream, read: Read) -> Iterator[Violation]:
    ids = {event.position: event.event_id for event in stream.events}
    for newer, older in pairwise(read.lines):
        between = set(range(older.position + 1, newer.position))
        if older.position >= newer.position or not between <= stream.limits:
            detail = f"a statement has {older.position} after {newer.position}"
            yield Violation(name="gap", account_id=read.account_id, detail=detail)
    for line in read.lines:
        yield from stream.check_balance(line.position, line.balance_minor, "a statement")
        if ids.get(line.position, line.event_id) != line.event_id:
            detail = f"a statement has another event at {line.position}"
            yield Violation(name="altered", account_id=read.account_id, detail=detail)


# --- how it ended -----------------------------------------------------------------------------


def _check_balances(
    balances: Sequence[Balance], streams: dict[str, _Stream]
) -> Iterator[Violation]:
    """Check that the read model is at the streams' ends and both sides have equal sums."""
    blocked = {balance.account_id for balance in balances if balance.blocked}
    shown = {balance.account_id: balance for balance in balances}
    for account_id in sorted((streams.keys() | shown.keys()) - blocked):
        balance, stream = shown.get(account_id), streams.get(account_id)
        end = stream.end if stream is not None else 0
        position = balance.position if balance is not None else 0
        if position != end:
            detail = f"the balance stands at {position}, the stream at {end}"
            yield Violation(name="not-projected", account_id=account_id, detail=detail)
        if balance is not None and stream is not None:
            yield from stream.check_balance(position, balance.balance_minor, "the read model")
    sum_shown = sum(b.balance_minor for b in balances if not b.blocked)
    sum_events = sum(
        _signed(event)
        for account_id, stream in streams.items()
        if account_id not in blocked
        for event in stream.events
    )
    if sum_shown != sum_events:
        detail = f"the balances sum up to {sum_shown}, the events to {sum_events}"
        yield Violation(name="sum-differs", account_id="", detail=detail)


def _check_topic(final: Final) -> Iterator[Violation]:
    if final.outbox_rows:
        detail = f"{final.outbox_rows} rows wait"
        yield Violation(name="outbox-not-empty", account_id="", detail=detail)
    if final.topic is None:
        return
    committed = {event.event_id: event for event in final.events}
    for event_id, text in final.topic.items():
        event = committed.get(event_id)
        if event is None or json.loads(text) != json.loads(event.public_text):
            account_id = "" if event is None else event.account_id
            detail = f"event {event_id}"
            yield Violation(name="uncommitted-on-topic", account_id=account_id, detail=detail)
    if final.outbox_rows == 0:
        for event in final.events:
            if event.age_s < final.retention_s and event.event_id not in final.topic:
                detail = f"position {event.position}"
                yield Violation(name="not-on-topic", account_id=event.account_id, detail=detail)
