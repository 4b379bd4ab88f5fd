"""From the wire to commands. Every wrong field of a request is named at once, with its fix."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from saldo.domain.commands import (
    ACCOUNT_ID,
    DESCRIPTION_CHARACTERS_MAX,
    METADATA_CHARACTERS_MAX,
    METADATA_KEYS_MAX,
    Kind,
    RecordTransaction,
    SetOverdraftLimit,
)
from saldo.domain.money import CURRENCY_DIGITS, BadValue, Value, parse_value
from saldo.serve.http import TIME_FAULT, parse_time, read_idempotency_key
from saldo.serve.json_body import Malformed, Number, read_json
from saldo.serve.problems import FieldError, Invalid

if TYPE_CHECKING:
    from datetime import datetime

BULK_LINES_MAX = 10_000
BULK_BYTES_MAX = 8 * 1024 * 1024

_TRANSACTION_FIELDS = frozenset(
    {"accountId", "type", "value", "currency", "description", "metadata", "occurredAt"}
)
_BULK_LINE_FIELDS = _TRANSACTION_FIELDS | {"idempotencyKey"}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_KINDS = {kind.value: kind for kind in Kind}


# A transaction that the typed decoder takes; a larger one has something that it does not.
PLAIN_BYTES_MAX = 4_096
_NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,9})?")


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A transaction as nearly all are sent. ``value`` is kept as its bytes: money is no float."""

    accountId: str  # noqa: N815 - the wire's names
    type: Kind
    value: msgspec.Raw
    description: str | None = None
    currency: str | None = None


class _PlainLine(_Plain):
    """A line of a bulk request: as an import sends it, too."""

    occurredAt: str | None = None  # noqa: N815 - as above
    metadata: dict[str, str] | None = None
    idempotencyKey: str | None = None  # noqa: N815 - as above


class _Unusual(ValueError):  # noqa: N818 - it is what the body is
    """The body is for the general reader."""


_NOT_PLAIN = (ValueError, Invalid, msgspec.DecodeError, RecursionError)


_read_plain = msgspec.json.Decoder(_Plain).decode
_read_plain_line = msgspec.json.Decoder(_PlainLine).decode
_read_plain_lines = msgspec.json.Decoder(list[_PlainLine]).decode


def read_plain(body: bytes) -> RecordTransaction | None:
    """The command of ``body`` where it is a plain and valid transaction, in a quarter of the time.

    None says nothing about ``body``: the general reader must look at it. This one only takes what
    that one would take, and makes the same of it.
    """
    if len(body) > PLAIN_BYTES_MAX or _may_hide_colons(body):
        return None
    try:
        command, colons = _plain_command(_read_plain(body))
    except _NOT_PLAIN:
        return None
    return command if colons == body.count(b":") else None


def read_plain_bulk(
    body: bytes, *, ndjson: bool = False
) -> list[tuple[RecordTransaction, str | None]] | None:
    """The commands of a bulk ``body`` and each line's own key, where all lines are plain and valid.

    As read_plain: what is not taken here, as a whole, is for the general reader, with its errors.
    """
    if _may_hide_colons(body):
        return None
    try:
        if ndjson:
            texts = _lines_of(body)
            lines = [_read_plain_line(text) for text in texts[: BULK_LINES_MAX + 1]]
        else:
            lines = _read_plain_lines(body)
        if not 1 <= len(lines) <= BULK_LINES_MAX:
            return None
        parsed: list[tuple[RecordTransaction, str | None]] = []
        colons_expected = 0
        for line in lines:
            command, colons = _plain_command(line)
            key, metadata, occurred_at = line.idempotencyKey, line.metadata, line.occurredAt
            if key is not None:
                colons += 1 + key.count(":")
                key = read_idempotency_key(key, "idempotencyKey")
            if metadata is not None or occurred_at is not None:
                command, more = _with_import_members(command, metadata, occurred_at)
                colons += more
            parsed.append((command, key))
            colons_expected += colons
    except _NOT_PLAIN:
        return None
    # No line has fewer colons than are expected of it, so that none can make up for another's.
    return parsed if colons_expected == body.count(b":") else None


def _may_hide_colons(body: bytes) -> bool:
    """Whether a text in ``body`` may have a colon that is written as an escape."""
    return b"\\u003" in body


def _plain_command(plain: _Plain) -> tuple[RecordTransaction, int]:
    """The command of the members that both kinds have, and the colons that they take.

    A member that stands twice is refused, and the decoder does not tell of it. So the colons are
    counted: one for each member, and those in texts, where none is hidden behind an escape. A null
    has one that is not expected here: it is for the general reader, too.
    """
    account_id, currency, description = plain.accountId, plain.currency, plain.description
    colons = 3 + account_id.count(":")
    if description is not None:
        colons += 1 + description.count(":")
        if len(description) > DESCRIPTION_CHARACTERS_MAX or not description.isprintable():
            raise _Unusual
    if currency is not None:
        colons += 1
        if currency not in CURRENCY_DIGITS:
            raise _Unusual
    number = bytes(plain.value).strip(b'"')
    if not _NUMBER.fullmatch(number) or not ACCOUNT_ID.fullmatch(account_id):
        raise _Unusual
    command = RecordTransaction(
        account_id=account_id,
        kind=plain.type,
        value=parse_value(number.decode()),
        currency=currency,
        description=description,
    )
    return command, colons


def _with_import_members(
    command: RecordTransaction, metadata: dict[str, str] | None, occurred_at: str | None
) -> tuple[RecordTransaction, int]:
    """``command`` with what an import says beside, and the colons that this takes."""
    colons = 0
    moment = None
    if occurred_at is not None:
        colons += 1 + occurred_at.count(":")
        moment = parse_time(occurred_at)
        if moment is None:
            raise _Unusual
    if metadata is not None:
        colons += 1 + len(metadata)
        if len(metadata) > METADATA_KEYS_MAX:
            raise _Unusual
        for name, text in metadata.items():
            colons += name.count(":") + text.count(":")
            if (
                not name
                or max(len(name), len(text)) > METADATA_CHARACTERS_MAX
                or not name.isprintable()
                or not text.isprintable()
            ):
                raise _Unusual
    extended = msgspec.structs.replace(command, metadata=metadata or {}, occurred_at=moment)
    return extended, colons


def parse_transaction(
    members: object, fields: frozenset[str] = _TRANSACTION_FIELDS
) -> RecordTransaction:
    """The command of one transaction's JSON object; raises Invalid naming every wrong field."""
    if not isinstance(members, dict):
        raise Invalid([FieldError("body", "must be a JSON object, or an array of them")])
    errors: list[FieldError] = []
    account_id = _account_id(members, errors)
    kind = _KINDS.get(members.get("type", "")) if isinstance(members.get("type"), str) else None
    if kind is None:
        errors.append(FieldError("type", "must be INCOME or EXPENSE"))
    value = _value(members, "value", errors)
    currency = description = occurred_at = None
    metadata: dict[str, str] = {}
    if len(members) > 3 or errors:  # noqa: PLR2004 - most requests have the three fields above alone
        currency = _currency(members, errors)
        description = text_field(members, "description", DESCRIPTION_CHARACTERS_MAX, errors)
        metadata = _metadata(members, errors)
        occurred_at = _time(members, "occurredAt", errors)
        _unknown(members, fields, errors)
    if errors or account_id is None or kind is None or value is None:
        raise Invalid(errors)
    return RecordTransaction(
        account_id=account_id,
        kind=kind,
        value=value,
        currency=currency,
        description=description,
        metadata=metadata,
        occurred_at=occurred_at,
    )


def parse_bulk(items: list[Any]) -> list[tuple[RecordTransaction, str | None]]:
    """The commands of a bulk request with each line's own idempotency key, if it has one.

    Raises Invalid naming every wrong field of every bad line.
    """
    if not 1 <= len(items) <= BULK_LINES_MAX:
        raise Invalid([FieldError("body", f"must hold 1 to {BULK_LINES_MAX} transactions")])
    parsed: list[tuple[RecordTransaction, str | None]] = []
    errors: list[FieldError] = []
    for number, members in enumerate(items, start=1):
        try:
            key = _line_key(members, errors, number)
            parsed.append((parse_transaction(members, _BULK_LINE_FIELDS), key))
        except Invalid as invalid:
            errors += [FieldError(e.field, e.message, line=number) for e in invalid.errors]
    if errors:
        raise Invalid(errors)
    return parsed


def _line_key(members: object, errors: list[FieldError], number: int) -> str | None:
    key = members.get("idempotencyKey") if isinstance(members, dict) else None
    if key is None:
        return None
    if not isinstance(key, str) or isinstance(key, Number):
        errors.append(FieldError("idempotencyKey", "must be a string", line=number))
        return None
    try:
        return read_idempotency_key(key, "idempotencyKey")
    except Invalid as invalid:
        errors += [FieldError(e.field, e.message, line=number) for e in invalid.errors]
        return None


def read_ndjson(body: bytes) -> list[Any]:
    """The values of a newline-delimited body; raises Invalid by line.

    Blank lines are left out, of the counting too: a line's number is its transaction's place in the
    answer, in whichever form it was sent.
    """
    items: list[Any] = []
    errors: list[FieldError] = []
    lines = _lines_of(body)
    if len(lines) > BULK_LINES_MAX:
        # Before they are read: each malformed one would become an error that is kept.
        raise Invalid([FieldError("body", f"must hold 1 to {BULK_LINES_MAX} transactions")])
    for number, line in enumerate(lines, start=1):
        try:
            items.append(read_json(line))
        except Malformed as malformed:
            fault = str(malformed).replace(" at line 1, column", " at column")
            errors.append(FieldError("body", fault, line=number))
    if errors:
        raise Invalid(errors)
    return items


def _lines_of(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]


def parse_limit(members: object, account_id: str) -> SetOverdraftLimit:
    """The command of ``PUT /accounts/{id}/limit``; raises Invalid."""
    if not isinstance(members, dict):
        raise Invalid([FieldError("body", 'must be a JSON object such as {"overdraftLimit": 100}')])
    errors: list[FieldError] = []
    limit: Value | None = None
    if "overdraftLimit" not in members:
        errors.append(FieldError("overdraftLimit", "is missing: give a number, or null for none"))
    elif members["overdraftLimit"] is not None:
        limit = _value(members, "overdraftLimit", errors, zero_allowed=True)
    currency = _currency(members, errors)
    _unknown(members, frozenset({"overdraftLimit", "currency"}), errors)
    if errors:
        raise Invalid(errors)
    return SetOverdraftLimit(account_id=account_id, limit=limit, currency=currency)


def parse_reversal(members: object) -> tuple[str | None, datetime | None]:
    """Return description and time of a reversal; raises Invalid."""
    if not isinstance(members, dict):
        raise Invalid([FieldError("body", "must be empty or a JSON object")])
    errors: list[FieldError] = []
    description = text_field(members, "description", DESCRIPTION_CHARACTERS_MAX, errors)
    occurred_at = _time(members, "occurredAt", errors)
    _unknown(members, frozenset({"description", "occurredAt"}), errors)
    if errors:
        raise Invalid(errors)
    return description, occurred_at


def checked_account_id(text: str) -> str:
    """``text`` if it is an account id; raises Invalid."""
    if not ACCOUNT_ID.fullmatch(text):
        raise Invalid([_BAD_ACCOUNT_ID])
    return text


_BAD_ACCOUNT_ID = FieldError(
    "accountId",
    "must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ - and start with a letter or digit",
)


def _account_id(members: dict[str, Any], errors: list[FieldError]) -> str | None:
    text = members.get("accountId")
    if isinstance(text, str) and not isinstance(text, Number) and ACCOUNT_ID.fullmatch(text):
        return text
    errors.append(FieldError("accountId", "is missing") if text is None else _BAD_ACCOUNT_ID)
    return None


def _value(
    members: dict[str, Any],
    field: str,
    errors: list[FieldError],
    *,
    zero_allowed: bool = False,
) -> Value | None:
    text = members.get(field)
    if not isinstance(text, str):
        message = "is missing" if text is None else "must be a decimal number such as 10.50"
        errors.append(FieldError(field, message))
        return None
    try:
        return parse_value(text, zero_allowed=zero_allowed)
    except BadValue as bad:
        errors.append(FieldError(field, str(bad)))
        return None


def _currency(members: dict[str, Any], errors: list[FieldError]) -> str | None:
    code = members.get("currency")
    if code is None:
        return None
    if not isinstance(code, str) or code not in CURRENCY_DIGITS:
        errors.append(FieldError("currency", "must be an ISO 4217 code such as BRL"))
        return None
    return code


def text_field(
    members: dict[str, Any], field: str, characters_max: int, errors: list[FieldError]
) -> str | None:
    """A member that is a text of printable characters, or absent."""
    text = members.get(field)
    if text is None:
        return None
    message = text_fault(text, characters_max)
    if message is not None:
        errors.append(FieldError(field, message))
        return None
    return str(text)


def text_fault(text: object, characters_max: int) -> str | None:
    """What is wrong with a text, or None."""
    if not isinstance(text, str) or isinstance(text, Number):
        return "must be a string"
    if len(text) > characters_max:
        return f"must have at most {characters_max} characters"
    # isprintable is quick and stricter (it refuses some spaces too), so what fails it is looked at.
    if not text.isprintable() and _UNPRINTABLE.search(text):
        return "must not hold control characters or lone surrogates"
    return None


def _metadata(members: dict[str, Any], errors: list[FieldError]) -> dict[str, str]:
    metadata = members.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        errors.append(FieldError("metadata", "must be a JSON object of strings"))
        return {}
    if len(metadata) > METADATA_KEYS_MAX:
        errors.append(FieldError("metadata", f"must have at most {METADATA_KEYS_MAX} members"))
        return {}
    for name, text in metadata.items():
        fault = text_fault(text, METADATA_CHARACTERS_MAX)
        name_fault = text_fault(name, METADATA_CHARACTERS_MAX)
        if name_fault is not None or not name:
            fault = "its name " + (name_fault or "must not be empty")
        if fault is not None:
            shown = name.encode("utf-8", "replace").decode()[:80]
            errors.append(FieldError(f"metadata.{shown}", fault))
    return metadata


def _time(members: dict[str, Any], field: str, errors: list[FieldError]) -> datetime | None:
    text = members.get(field)
    if text is None:
        return None
    moment = parse_time(text) if isinstance(text, str) else None
    if moment is None:
        errors.append(FieldError(field, TIME_FAULT))
    return moment


def _unknown(members: dict[str, Any], fields: frozenset[str], errors: list[FieldError]) -> None:
    for name in members.keys() - fields:
        shown = name.encode("utf-8", "replace").decode()[:80]
        known = ", ".join(sorted(fields))
        errors.append(FieldError(shown, f"is not known; the fields are {known}"))
