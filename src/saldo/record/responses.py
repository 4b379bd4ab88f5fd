"""What a recorded event looks like to a client: JSON made of the stored texts themselves.

A first answer and a repeated one are made by the same function from the same row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from saldo.domain.money import format_minor, value_members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.domain.account import Account
    from saldo.record.intent import Recorded, StoredEvent


class _Public(msgspec.Struct):
    type: Literal["transaction-recorded", "limit-set"]
    currency: str
    recordedAt: str  # noqa: N815 - the stored text's own names
    kind: str | None = None
    amountMinor: int = 0  # noqa: N815
    limitMinor: int | None = None  # noqa: N815
    occurredAt: str | None = None  # noqa: N815


class _Private(msgspec.Struct):
    description: msgspec.Raw = msgspec.Raw(b"null")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


_read_public = msgspec.json.Decoder(_Public).decode
_read_private = msgspec.json.Decoder(_Private).decode
_ERASED = _Private()


def transaction_members(stored: StoredEvent) -> str:
    """The members of a recorded event's object, without its braces."""
    public = _read_public(stored.public_text)
    head = f'"id":"{stored.event_id!s}","accountId":"{stored.account_id}",'
    tail = (
        f'"currency":"{public.currency}","position":{stored.position},'
        f'"balance":{format_minor(stored.balance_minor, public.currency)},'
        f'"hash":"{stored.hash.hex()}","recordedAt":"{public.recordedAt}"'
    )
    if public.type == "limit-set":
        limit = public.limitMinor
        shown = "null" if limit is None else format_minor(limit, public.currency)
        return f'{head}"overdraftLimit":{shown},{tail}'
    private = _ERASED
    if stored.private_text is not None:
        private = _read_private(stored.private_text)
    reverses = "" if stored.reverses is None else f',"reverses":"{stored.reverses}"'
    return (
        f'{head}"type":"{public.kind}",'
        f"{value_members(public.amountMinor, public.currency)},"
        f'"description":{str(private.description, "utf-8")},'
        f'"metadata":{str(private.metadata, "utf-8")},'
        f'{tail},"occurredAt":"{public.occurredAt}"{reverses}'
    )


def transaction_json(stored: StoredEvent) -> bytes:
    """One recorded event as a JSON object."""
    return f"{{{transaction_members(stored)}}}".encode()


def bulk_json(recorded: Sequence[Recorded]) -> bytes:
    """A bulk request's answer, in the order of its lines."""
    lines = [
        f"{{{transaction_members(each.stored)}{REPLAYED if each.replayed else ''}}}"
        for each in recorded
    ]
    return f'{{"transactions":[{",".join(lines)}]}}'.encode()


REPLAYED = ',"replayed":true'


def found_json(stored: StoredEvent, previous_hash: str | None, reversed_by: str | None) -> bytes:
    """An event read by its id: what it was answered with, and what proves it."""
    text = msgspec.json.encode(stored.public_text).decode()
    by = "null" if reversed_by is None else f'"{reversed_by}"'
    erased = "true" if stored.private_text is None else "false"
    return (
        f'{{{transaction_members(stored)},"reversedBy":{by},"erased":{erased},'
        f'"previousHash":"{previous_hash}","event":{text}}}'
    ).encode()


def limit_json(account: Account, currency: str) -> bytes:
    """The overdraft limit of an account as it stands."""
    limit_minor = account.overdraft_limit_minor
    shown = "null" if limit_minor is None else format_minor(limit_minor, currency)
    return (
        f'{{"accountId":"{account.account_id}","overdraftLimit":{shown},'
        f'"currency":"{currency}","position":{account.position},'
        f'"balance":{format_minor(account.balance_minor, currency)}}}'
    ).encode()


def events_json(events: Sequence[StoredEvent], previous_hash: str | None) -> bytes:
    """A page of an account's chain: the exact texts, and the hash that each must come to.

    No ``previous_hash``: the position asked for is beyond the end of the chain.
    """
    previous = "null" if previous_hash is None else f'"{previous_hash}"'
    lines = ",".join(
        f'{{"position":{e.position},"id":"{e.event_id}","hash":"{e.hash.hex()}",'
        f'"event":{msgspec.json.encode(e.public_text).decode()}}}'
        for e in events
    )
    return f'{{"previousHash":{previous},"events":[{lines}]}}'.encode()
