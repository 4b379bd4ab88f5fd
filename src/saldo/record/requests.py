"""From the wire to commands. Every wrong field of a request is named at once, with its fix."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from saldo.domain.commands import (
    ACCOUNT_ID,
    DESCRIPTION_CHARACTERS_MAX,
    METADATA_CHARACTERS_MAX,
    METADATA_KEYS_MAX,
    Kind,
    RecordTransaction,
    SetOverdraftLimit,
)
from saldo.domain.money import CURRENCY_DIGITS
from saldo.domain.value import BadValue, Value, parse_value
from saldo.serve.http.json_reader import Malformed, Number, bound_values, read_json
from saldo.serve.http.problems import FieldError, Invalid
from saldo.serve.http.request import TIME_FAULT, parse_time, read_idempotency_key

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
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > BULK_LINES_MAX:
        # Before they are read: each malformed one would become an error that is kept.
        raise Invalid([FieldError("body", f"must hold 1 to {BULK_LINES_MAX} transactions")])
    bound_values(body)  # of all lines, which are kept until the last is read
    for number, line in enumerate(lines, start=1):
        try:
            items.append(read_json(line))
        except Malformed as malformed:
            fault = str(malformed).replace(" at line 1, column", " at column")
            errors.append(FieldError("body", fault, line=number))
    if errors:
        raise Invalid(errors)
    return items


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
    """Name the first member that is not known: a body may hold hundreds of thousands."""
    unknown = next((name for name in members if name not in fields), None)
    if unknown is not None:
        shown = unknown[:80].encode("utf-8", "replace").decode()
        known = ", ".join(sorted(fields))
        errors.append(FieldError(shown, f"is not known; the fields are {known}"))
