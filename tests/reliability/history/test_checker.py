"""The history checker: a good history passes, and each bad one is reported by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.reliability.history.checker import check, count
from tests.reliability.history.history import (
    Attempt,
    Balance,
    Event,
    Final,
    History,
    Line,
    PastRead,
    Read,
    Receipt,
    Span,
    read_log,
    write_log,
)
from tests.reliability.history.tags import ambiguous_tags
from tests.reliability.history.violations import CATEGORIES
from tests.support.controls import NOW

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.reliability.history.history import Kind, Outcome

ANA, BRUNO, DORA = "ana", "bruno", "dora"
EVA = "eva"  # whose answers have tags
NO_HASH = "0" * 16
# When the histories begin, in Unix time.
EPOCH_S = NOW.timestamp()


def utc(time_s: float) -> str:
    """Return a time of the history in the form of an event."""
    return (NOW + timedelta(seconds=time_s)).isoformat()


def at(event: Event) -> float:
    """Return when an event was recorded, as a time of the history."""
    recorded_at = datetime.fromisoformat(json.loads(event.public_text)["recordedAt"])
    return (recorded_at - NOW).total_seconds()


@dataclass(slots=True)
class Story:
    """A history in the making, with a clock that moves by one second an operation."""

    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    balances: dict[str, Balance] = field(default_factory=dict)
    topic: dict[str, str] = field(default_factory=dict)
    outbox_rows: int = 0
    now_s: float = 0.0
    past: list[PastRead] = field(default_factory=list)

    def record(
        self,
        account_id: str,
        kind: Kind,
        amount_minor: int,
        key: str,
        reverses: str | None = None,
    ) -> Event:
        """Add an event that is acknowledged, projected and published."""
        event = self.store(account_id, kind, amount_minor, key, reverses)
        self.attempt(event, "recorded")
        return event

    def store(
        self,
        account_id: str,
        kind: Kind,
        amount_minor: int,
        key: str,
        reverses: str | None = None,
    ) -> Event:
        own = [event for event in self.events if event.account_id == account_id]
        position = len(own) + 1
        previous = own[-1].hash if own else hashlib.sha256(account_id.encode()).hexdigest()
        event_id = f"{account_id}-{position}"
        time = utc(self.now_s)
        members = {"id": event_id, "amount": amount_minor, "reverses": reverses}
        text = json.dumps(members | {"occurredAt": time, "recordedAt": time})
        event = Event(
            account_id=account_id,
            position=position,
            event_id=event_id,
            kind=kind,
            amount_minor=amount_minor,
            key=key,
            public_text=text,
            hash=hashlib.sha256(bytes.fromhex(previous) + text.encode()).hexdigest(),
        )
        self.events.append(event)
        self.topic[event_id] = text
        self.balances[account_id] = Balance(
            account_id=account_id, position=position, balance_minor=self.balance(account_id)
        )
        return event

    def balance(self, account_id: str) -> int:
        signs = {"INCOME": 1, "EXPENSE": -1, "LIMIT": 0}
        own = [event for event in self.events if event.account_id == account_id]
        return sum(signs[event.kind] * (event.amount_minor or 0) for event in own)

    def attempt(self, event: Event, outcome: Outcome) -> None:
        """Add a request for ``event`` and its outcome."""
        receipt = Receipt(
            event_id=event.event_id,
            position=event.position,
            balance_minor=self.balance(event.account_id),
            hash=event.hash,
        )
        self.attempts.append(
            Attempt(
                client=1,
                account_id=event.account_id,
                key=event.key or "",
                kind=event.kind,
                amount_minor=event.amount_minor,
                invoked_s=self.now_s,
                completed_s=None if outcome == "unknown" else self.now_s + 0.5,
                outcome=outcome,
                receipt=receipt if outcome == "recorded" else None,
                said="503 store-unavailable" if outcome == "refused" else "",
            )
        )
        self.now_s += 1

    def refuse(
        self,
        key: str,
        *,
        reverses: str | None = None,
        not_found: bool = False,
        named: str | None = None,
        stated: tuple[int, int | None] | None = None,
    ) -> None:
        """Add a request on DORA's account that was refused because of what is stored."""
        self.attempts.append(
            Attempt(
                client=1,
                account_id=DORA,
                key=key,
                kind="EXPENSE",
                amount_minor=8,
                invoked_s=self.now_s,
                completed_s=self.now_s + 0.5,
                outcome="refused",
                reverses=reverses,
                not_found=not_found,
                named=named,
                stated=stated,
            )
        )
        self.now_s += 1

    def read(self, account_id: str, min_position: int = 0) -> None:
        own = [event for event in self.events if event.account_id == account_id]
        line = Line(
            position=own[-1].position,
            event_id=own[-1].event_id,
            balance_minor=self.balance(account_id),
        )
        read = Read(
            client=1,
            account_id=account_id,
            invoked_s=self.now_s,
            completed_s=self.now_s + 0.5,
            position=len(own),
            balance_minor=self.balance(account_id),
            min_position=min_position,
            lines=(line,),
        )
        self.reads.append(read)
        self.now_s += 1

    def record_tagged(self, key: str, amount_minor: int, expected: str = "") -> None:
        """Add an income of EVA's, recorded in the expected state."""
        event = self.record(EVA, "INCOME", amount_minor, key)
        self.attempts[-1] = replace(self.attempts[-1], tag=tag(event), expected=expected)

    def read_tagged(self, event: Event, client: int = 1, behind: int = 0) -> None:
        """Add a read of EVA's balance after ``event``, with its ETag."""
        own = [each for each in self.events if each.account_id == EVA]
        read = Read(
            client=client,
            account_id=EVA,
            invoked_s=self.now_s,
            completed_s=self.now_s + 0.5,
            position=event.position,
            balance_minor=sum(e.amount_minor or 0 for e in own if e.position <= event.position),
            tag=tag(event),
            behind=behind,
        )
        self.reads.append(read)
        self.now_s += 1

    def read_past(self, account_id: str, moment_s: float, *, final: bool) -> None:
        by_then = [e for e in self.events if e.account_id == account_id and at(e) <= moment_s]
        self.past.append(
            PastRead(
                client=1,
                account_id=account_id,
                invoked_s=self.now_s,
                completed_s=self.now_s + 0.5,
                moment=utc(moment_s),
                final=final,
                position=len(by_then),
                balance_minor=sum(e.amount_minor or 0 for e in by_then if e.kind == "INCOME"),
            )
        )

    def date(self, index: int, time_s: float, member: str = "recordedAt") -> None:
        """Give an event another time, and all after it another hash."""
        event = self.events[index]
        text = json.dumps(json.loads(event.public_text) | {member: utc(time_s)})
        self.events[index] = replace(event, public_text=text)
        self.topic[event.event_id] = text
        previous = hashlib.sha256(event.account_id.encode()).hexdigest()
        for number, each in enumerate(self.events):
            if each.account_id == event.account_id:
                chained = bytes.fromhex(previous) + each.public_text.encode()
                previous = hashlib.sha256(chained).hexdigest()
                self.events[number] = replace(each, hash=previous)
        hashes = {each.event_id: each.hash for each in self.events}
        for number, attempt in enumerate(self.attempts):
            if attempt.receipt is not None:
                receipt = replace(attempt.receipt, hash=hashes[attempt.receipt.event_id])
                self.attempts[number] = replace(attempt, receipt=receipt)

    def history(self) -> History:
        return History([*self.attempts, *self.reads, *self.past])

    def final(self) -> Final:
        return Final(
            events=tuple(self.events),
            balances=tuple(self.balances.values()),
            topic=self.topic,
            outbox_rows=self.outbox_rows,
            clock=(Span(from_s=0, to_s=1_000, ahead_s=EPOCH_S),),
        )

    def names(self) -> set[str]:
        return {violation.name for violation in check(self.history(), self.final())}


def tag(event: Event) -> str:
    """Return the tag of the state after an event."""
    return f"{event.position}-{event.hash[:16]}"


def good() -> Story:
    """Return a good history with retries, unknown outcomes, limits and reads."""
    story = Story()
    for bit in range(4):
        story.record(ANA, "INCOME", 1 << bit, f"a{bit}")
        story.read(ANA, min_position=bit + 1)
    story.read_past(ANA, at(story.events[1]), final=True)
    story.read_past(ANA, story.now_s, final=False)
    repeated = story.store(ANA, "INCOME", 16, "a4")
    story.attempt(repeated, "unknown")
    story.attempt(repeated, "recorded")
    never = replace(repeated, key="never", event_id="never")
    story.attempt(never, "unknown")
    story.attempt(replace(never, key="refused"), "refused")
    paid = story.record(DORA, "INCOME", 8, "d0")
    undone = story.record(DORA, "EXPENSE", 8, "d1", reverses=paid.event_id)
    story.refuse("undone already", reverses=paid.event_id, named=undone.event_id)
    story.refuse("never recorded", reverses="dora-9", not_found=True)
    story.refuse("beyond the limit", stated=(2, 0))
    story.refuse("another position", stated=(1, None))
    story.refuse("no position", stated=(0, None))
    story.record_tagged("e0", 5, expected="0")
    first = story.events[-1]
    story.read_tagged(first)
    story.record_tagged("e1", 7, expected=tag(first))
    story.read_tagged(first, client=2, behind=1)
    story.read_tagged(story.events[-1])
    story.read_tagged(story.events[-1])
    story.record(BRUNO, "LIMIT", 10, "b0")
    story.record(BRUNO, "EXPENSE", 10, "b1")
    story.read(BRUNO)
    story.read(ANA)
    return story


def lose_an_answered_event(story: Story) -> None:
    # The last of its stream, and the read model knows nothing of it either.
    event = story.events.pop(4)
    del story.topic[event.event_id]
    story.balances[ANA] = Balance(account_id=ANA, position=4, balance_minor=15)
    story.reads.pop()


def record_a_retry_again(story: Story) -> None:
    story.store(ANA, "INCOME", 16, "a4")


def answer_a_retry_otherwise(story: Story) -> None:
    again = story.attempts[0]
    assert again.receipt is not None
    story.attempts.append(replace(again, receipt=replace(again.receipt, balance_minor=9)))


def record_what_was_refused(story: Story) -> None:
    story.attempt(story.store(BRUNO, "INCOME", 1, "b2"), "refused")


def record_what_nobody_asked_for(story: Story) -> None:
    story.store(BRUNO, "INCOME", 1, "nobody's")


def record_another_amount(story: Story) -> None:
    story.attempts[0] = replace(story.attempts[0], amount_minor=3)


def leave_a_gap(story: Story) -> None:
    event = story.events.pop()
    story.events.append(replace(event, position=event.position + 1))


def break_the_chain(story: Story) -> None:
    story.events[1] = replace(story.events[1], public_text=story.events[1].public_text + " ")


def show_a_balance_without_an_income(story: Story) -> None:
    story.reads[-1] = replace(story.reads[-1], balance_minor=31 - 4 - 1)


def show_what_is_not_there(story: Story) -> None:
    story.reads[-1] = replace(story.reads[-1], position=6)


def go_back(story: Story) -> None:
    story.reads.append(replace(story.reads[0], invoked_s=story.now_s))


def answer_older_than_asked(story: Story) -> None:
    story.reads[0] = replace(story.reads[0], min_position=2)


def let_an_expense_pass_the_limit(story: Story) -> None:
    story.record(BRUNO, "EXPENSE", 1, "b2")


def project_one_too_few(story: Story) -> None:
    story.balances[ANA] = Balance(account_id=ANA, position=4, balance_minor=15)


def forget_a_balance_of_an_account_without_events(story: Story) -> None:
    story.balances["carla"] = Balance(account_id="carla", position=0, balance_minor=5)


def publish_too_few(story: Story) -> None:
    del story.topic["ana-3"]


def publish_what_was_rolled_back(story: Story) -> None:
    story.topic["ana-7"] = "{}"


def publish_another_amount(story: Story) -> None:
    story.topic["ana-3"] = '{"id": "ana-3", "amount": 5}'


def leave_rows_in_the_outbox(story: Story) -> None:
    story.outbox_rows = 3


def put_the_later_before_the_earlier(story: Story) -> None:
    # The second was asked for after the third had been answered.
    late = story.attempts[1]
    story.attempts[1] = replace(late, invoked_s=story.now_s, completed_s=story.now_s + 1)


def refuse_for_an_event_that_is_not_stored(story: Story) -> None:
    story.refuse("undone already, too", reverses="dora-1", named="dora-9")


def refuse_for_an_event_that_reverses_nothing(story: Story) -> None:
    story.refuse("undone already, too", reverses="dora-1", named="dora-1")


def refuse_for_a_balance_that_never_was(story: Story) -> None:
    story.refuse("beyond the limit, too", stated=(2, -8))


def let_a_recorded_time_go_back(story: Story) -> None:
    story.date(2, at(story.events[1]) - 0.5)


def record_by_a_clock_that_is_ahead(story: Story) -> None:
    story.date(4, at(story.events[4]) + 600)


def let_it_occur_when_it_is_recorded_at_last(story: Story) -> None:
    story.date(4, at(story.events[4]) + 600, "occurredAt")


def call_final_what_changes(story: Story) -> None:
    story.past[1] = replace(story.past[1], final=True)


def of_eva(story: Story) -> list[int]:
    """Return the indexes of EVA's tagged reads."""
    return [number for number, read in enumerate(story.reads) if read.account_id == EVA]


def answer_with_the_tag_of_another_event(story: Story) -> None:
    number = of_eva(story)[0]
    story.reads[number] = replace(story.reads[number], tag=f"1-{NO_HASH}")


def answer_one_tag_with_another_balance(story: Story) -> None:
    number = of_eva(story)[-1]
    story.reads[number] = replace(story.reads[number], balance_minor=13)


def record_in_another_state_than_expected(story: Story) -> None:
    [number] = [n for n, each in enumerate(story.attempts) if each.key == "e1"]
    story.attempts[number] = replace(story.attempts[number], expected=f"1-{NO_HASH}")


def hide_how_far_a_balance_is_behind(story: Story) -> None:
    number = of_eva(story)[1]
    story.reads[number] = replace(story.reads[number], behind=0)


BAD: dict[str, Callable[[Story], None]] = {
    "tag-of-another": answer_with_the_tag_of_another_event,
    "tag-ambiguous": answer_one_tag_with_another_balance,
    "expected-another": record_in_another_state_than_expected,
    "behind-understated": hide_how_far_a_balance_is_behind,
    "acknowledged-lost": lose_an_answered_event,
    "recorded-twice": record_a_retry_again,
    "answers-differ": answer_a_retry_otherwise,
    "refused-but-recorded": record_what_was_refused,
    "unasked": record_what_nobody_asked_for,
    "altered": record_another_amount,
    "gap": leave_a_gap,
    "chain-broken": break_the_chain,
    "wrong-balance": show_a_balance_without_an_income,
    "beyond-the-stream": show_what_is_not_there,
    "went-back": go_back,
    "stale-read": answer_older_than_asked,
    "limit-broken": let_an_expense_pass_the_limit,
    "not-projected": project_one_too_few,
    "sum-differs": forget_a_balance_of_an_account_without_events,
    "not-on-topic": publish_too_few,
    "uncommitted-on-topic": publish_what_was_rolled_back,
    "outbox-not-empty": leave_rows_in_the_outbox,
    "order-reversed": put_the_later_before_the_earlier,
    "refused-for-lost": refuse_for_an_event_that_is_not_stored,
    "refused-for-another": refuse_for_an_event_that_reverses_nothing,
    "refused-unfounded": refuse_for_a_balance_that_never_was,
    "recorded-back": let_a_recorded_time_go_back,
    "recorded-off": record_by_a_clock_that_is_ahead,
    "occurred-off": let_it_occur_when_it_is_recorded_at_last,
    "final-changed": call_final_what_changes,
}


def test_a_good_history_passes() -> None:
    story = good()
    assert check(story.history(), story.final()) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_reported_by_name(name: str) -> None:
    story = good()
    BAD[name](story)
    assert name in story.names()


def test_every_name_has_a_bad_history() -> None:
    assert BAD.keys() == CATEGORIES.keys()


# What follows from the named wrong and cannot be told apart from it.
FOLLOWS = {
    "tag-ambiguous": {"wrong-balance"},
    "answers-differ": {"wrong-balance"},
    "gap": {"altered", "not-projected", "beyond-the-stream", "wrong-balance"},
    "chain-broken": {"uncommitted-on-topic"},
    "not-projected": {"sum-differs"},
    "order-reversed": {"recorded-off", "occurred-off"},
    "recorded-back": {"recorded-off", "final-changed"},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_reported_by_no_other_name(name: str) -> None:
    story = good()
    BAD[name](story)
    assert story.names() <= {name} | FOLLOWS.get(name, set())


def test_a_wrong_balance_names_the_transactions_that_it_lacks() -> None:
    story = good()
    show_a_balance_without_an_income(story)
    [violation] = check(story.history(), story.final())
    assert violation.account_id == ANA
    assert violation.detail.endswith("it lacks the transactions at 1, 3")


def test_a_tag_of_lost_events_stands_for_one_state() -> None:
    """Nothing of them is stored: what was said of them is compared with itself."""
    lost = Read(
        client=1,
        account_id="lost",
        invoked_s=0,
        completed_s=1,
        position=3,
        balance_minor=70,
        tag=f"3-{NO_HASH}",
    )
    same, other = replace(lost, client=2), replace(lost, balance_minor=80)
    assert list(ambiguous_tags(History([lost, same]))) == []
    [violation] = ambiguous_tags(History([lost, other]))
    assert (violation.name, violation.account_id) == ("tag-ambiguous", "lost")
    [elsewhere] = ambiguous_tags(History([replace(lost, position=4)]))
    assert elsewhere.name == "tag-ambiguous"


@pytest.mark.parametrize("expected", ["0", "2", f"0-{NO_HASH}", f"2-{NO_HASH}"])
def test_an_event_follows_its_expected_state(expected: str) -> None:
    story = good()
    [number] = [n for n, each in enumerate(story.attempts) if each.key == "e1"]
    story.attempts[number] = replace(story.attempts[number], expected=expected)
    assert story.names() == {"expected-another"}


def test_a_stored_transaction_is_always_found() -> None:
    story = good()
    story.refuse("not found", reverses="dora-1", not_found=True)
    assert story.names() == {"refused-unfounded"}


def test_a_refusal_states_no_position_beyond_the_stream() -> None:
    story = good()
    story.refuse("another position", stated=(3, None))
    assert story.names() == {"refused-unfounded"}


def test_a_refusal_states_no_position_of_a_later_request() -> None:
    """It was that of an event which was never committed; another took its place afterwards."""
    story = good()
    story.refuse("another position", stated=(3, None))
    story.record(DORA, "INCOME", 5, "d2")
    assert story.names() == {"refused-unfounded"}


def test_a_replay_of_an_event_that_is_not_stored_is_lost() -> None:
    """The intent was recorded later, as another event than the first response said."""
    story = good()
    recorded = story.record(DORA, "INCOME", 5, "d2")
    story.attempt(replace(recorded, event_id="dora-9"), "recorded")
    assert story.names() == {"acknowledged-lost", "answers-differ"}


def test_another_amount_on_the_topic_is_reported() -> None:
    story = good()
    publish_another_amount(story)
    assert story.names() == {"uncommitted-on-topic"}


def test_a_statement_may_skip_limit_events_only() -> None:
    story = good()
    story.record(BRUNO, "LIMIT", 20, "b2")
    newest = story.record(BRUNO, "INCOME", 10, "b3")
    story.read(BRUNO)
    story.record(BRUNO, "LIMIT", 30, "b4")
    story.read(BRUNO)
    before = next(read for read in story.reads if read.account_id == BRUNO).lines
    top = Line(position=newest.position, event_id=newest.event_id, balance_minor=0)
    statement = replace(story.reads[-1], invoked_s=story.now_s, position=4, lines=(top, *before))
    story.reads.append(statement)
    assert story.names() == set()
    story.reads[-1] = replace(statement, lines=(replace(top, position=5), *before, *before))
    assert story.names() == {"altered", "gap"}


def test_recorded_time_may_be_held_but_occurred_time_may_not() -> None:
    """It occurred when it was asked for all the same."""
    story = good()
    ahead_s = at(story.events[4]) + 600
    story.date(4, ahead_s)
    clock = (Span(from_s=0, to_s=1_000, ahead_s=EPOCH_S),)
    for member, found in (("recordedAt", set()), ("occurredAt", {"occurred-off"})):
        story.record(ANA, "INCOME", 32, f"held-{member}")
        story.date(len(story.events) - 1, ahead_s)
        if member == "occurredAt":
            story.date(len(story.events) - 1, ahead_s, member)
        violations = check(story.history(), replace(story.final(), clock=clock))
        assert {each.name for each in violations} == {"recorded-off"} | found


def test_both_times_are_valid_while_a_clock_is_set() -> None:
    story = good()
    story.date(4, at(story.events[4]) + 600)
    story.date(4, at(story.events[4]), "occurredAt")
    spans = (
        Span(from_s=0, to_s=1_000, ahead_s=EPOCH_S),
        Span(from_s=7, to_s=20, ahead_s=EPOCH_S + 600),
    )
    assert check(story.history(), replace(story.final(), clock=spans)) == []


def test_an_event_past_the_retention_may_be_off_the_topic() -> None:
    story = good()
    publish_too_few(story)
    story.events[2] = replace(story.events[2], age_s=7_200.0)
    assert story.names() == set()


def test_a_suspended_account_need_not_be_projected_to_its_end() -> None:
    story = good()
    story.balances[ANA] = Balance(account_id=ANA, position=4, balance_minor=15, blocked=True)
    assert story.names() == set()


def test_violations_are_counted_by_the_columns_of_the_matrix() -> None:
    story = good()
    record_a_retry_again(story)
    publish_too_few(story)
    counted = count(check(story.history(), story.final()))
    assert counted == {"lost": 1, "doubled": 1, "stale": 0, "wrong": 0}


def test_a_log_is_read_back_unchanged(tmp_path: Path) -> None:
    story = good()
    file = tmp_path / "history.ndjson"
    write_log(file, story.history(), story.final())
    assert read_log(file) == (story.history(), story.final())
