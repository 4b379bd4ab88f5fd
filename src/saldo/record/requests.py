"""From the wire to commands. Every wrong field of a request is named at once, with its fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
from saldo.domain.value import Value, parse_value
from saldo.serve.http.json_reader import Malformed, Number, bound_values, read_json
from saldo.serve.http.problems import FieldError, Invalid
from saldo.serve.http.request import TIME_FAULT, parse_time, read_idempotency_key

if TYPE_CHECKING:
    from datetime import datetime

BULK_LINES_MAX = 10_000
BULK_BYTES_MAX = 8 * 1024 * 1024
SHOWN_CHARACTERS_MAX = 80
BULK_SIZE = f"must hold 1 to {BULK_LINES_MAX} transactions"
BAD_ACCOUNT_ID = (
    "must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ - and start with a letter or digit"
)
# What stands for an overdraft limit that is not given: null lifts the limit.
NOT_GIVEN = object()
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_transaction(members: object) -> RecordTransaction:
    """Return the command of one transaction's JSON object; raises Invalid naming wrong fields."""
    return RecordTransaction(**_read(members, TRANSACTION, "a JSON object, or an array of them"))


def parse_bulk(items: list[Any]) -> list[tuple[RecordTransaction, str | None]]:
    """Return the commands of a bulk request, each with its own idempotency key if it has one."""
    if not 1 <= len(items) <= BULK_LINES_MAX:
        raise Invalid([FieldError("body", BULK_SIZE)])
    return _each_line(items, _parse_bulk_line)


def _parse_bulk_line(members: object) -> tuple[RecordTransaction, str | None]:
    values = _read(members, BULK_LINE, "a JSON object, or an array of them")
    key = values.pop("idempotency_key")
    return RecordTransaction(**values), key


def read_ndjson(body: bytes) -> list[Any]:
    """Return the values of a newline-delimited body.

    Blank lines are not counted: a line's number is its transaction's place in the response.
    """
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > BULK_LINES_MAX:
        # Before they are read: each malformed one would become an error that is kept.
        raise Invalid([FieldError("body", BULK_SIZE)])
    bound_values(body)  # of all lines, which are kept until the last is read
    return _each_line(lines, read_json)


def _each_line(items: list[Any], read: Callable[[Any], Any]) -> list[Any]:
    """Return what `read` makes of each line; raises Invalid naming every fault of every line."""
    results: list[Any] = []
    errors: list[FieldError] = []
    for number, item in enumerate(items, start=1):
        try:
            results.append(read(item))
        except Malformed as malformed:
            fault = str(malformed).replace(" at line 1, column", " at column")
            errors.append(FieldError("body", fault, line=number))
        except Invalid as invalid:
            errors += [FieldError(e.field, e.message, line=number) for e in invalid.errors]
    if errors:
        raise Invalid(errors)
    return results


def parse_limit(members: object, account_id: str) -> SetOverdraftLimit:
    """Return the command of ``PUT /accounts/{id}/limit``; raises Invalid."""
    if isinstance(members, dict):
        members = {"overdraftLimit": NOT_GIVEN, **members}
    values = _read(members, LIMIT, 'a JSON object such as {"overdraftLimit": 100}')
    return SetOverdraftLimit(account_id=account_id, **values)


def parse_reversal(members: object) -> dict[str, Any]:
    """Return description and time of a reversal, by their names in its command; raises Invalid."""
    return _read(members, REVERSAL, "empty or a JSON object")


def check_account_id(text: str) -> None:
    """Raise Invalid unless `text` is an account id."""
    if not ACCOUNT_ID.fullmatch(text):
        raise Invalid([FieldError("accountId", BAD_ACCOUNT_ID)])


# For each field its name in the command, and what reads it. A reader raises ValueError with the
# fault, or Invalid if the field has several.
Fields = Mapping[str, tuple[str, Callable[[Any], Any]]]


def _read(members: object, fields: Fields, expected: str) -> dict[str, Any]:
    """Return the values of a JSON object by their names in the command.

    Of unknown members only the first is named: a body may hold hundreds of thousands.
    """
    if not isinstance(members, dict):
        raise Invalid([FieldError("body", f"must be {expected}")])
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for field, (name, read) in fields.items():
        try:
            values[name] = read(members.get(field))
        except ValueError as fault:
            errors.append(FieldError(field, str(fault)))
        except Invalid as invalid:
            errors += invalid.errors
    unknown = next((name for name in members if name not in fields), None)
    if unknown is not None:
        known = ", ".join(sorted(fields))
        errors.append(FieldError(_shown(unknown), f"is not known; the fields are {known}"))
    if errors:
        raise Invalid(errors)
    return values


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def _account_id(text: Any) -> Any:
    if not _is_text(text) or not ACCOUNT_ID.fullmatch(text):
        raise ValueError("is missing" if text is None else BAD_ACCOUNT_ID)
    return text


def _kind(text: Any) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        raise ValueError("must be INCOME or EXPENSE") from None


def _value(text: Any) -> Value:
    if text is None:
        raise ValueError("is missing")
    return parse_value(text if isinstance(text, str) else "")


def _limit(text: Any) -> Value | None:
    if text is NOT_GIVEN:
        raise ValueError("is missing: give a number, or null for none")
    if text is None:
        return None
    return parse_value(text if isinstance(text, str) else "", zero_allowed=True)


def _currency(code: Any) -> Any:
    if code is not None and not (_is_text(code) and code in CURRENCY_DIGITS):
        raise ValueError("must be an ISO 4217 code such as BRL")
    return code


def _description(text: Any) -> Any:
    fault = None if text is None else _text_fault(text, DESCRIPTION_CHARACTERS_MAX)
    if fault is not None:
        raise ValueError(fault)
    return text


def _metadata(members: Any) -> Any:
    if members is None:
        return {}
    if type(members) is not dict:
        raise ValueError("must be a JSON object of strings")
    if len(members) > METADATA_KEYS_MAX:
        raise ValueError(f"must have at most {METADATA_KEYS_MAX} members")
    errors: list[FieldError] = []
    for name, text in members.items():
        fault = _text_fault(text, METADATA_CHARACTERS_MAX)
        name_fault = _text_fault(name, METADATA_CHARACTERS_MAX)
        if name_fault is not None or not name:
            fault = "its name " + (name_fault or "must not be empty")
        if fault is not None:
            errors.append(FieldError(f"metadata.{_shown(name)}", fault))
    if errors:
        raise Invalid(errors)
    return members


def _text_fault(text: Any, characters_max: int) -> str | None:
    if not _is_text(text):
        return "must be a string"
    if len(text) > characters_max:
        return f"must have at most {characters_max} characters"
    # isprintable is quick and stricter: it refuses some spaces too.
    if not text.isprintable() and _UNPRINTABLE.search(text):
        return "must not hold control characters or lone surrogates"
    return None


def _time(text: Any) -> datetime | None:
    moment = parse_time(text) if isinstance(text, str) else None
    if moment is None and text is not None:
        raise ValueError(TIME_FAULT)
    return moment


def _own_key(key: Any) -> str | None:
    if key is not None and not _is_text(key):
        raise ValueError("must be a string")
    return None if key is None else read_idempotency_key(key, "idempotencyKey")


def _shown(name: str) -> str:
    return name[:SHOWN_CHARACTERS_MAX].encode("utf-8", "replace").decode()


REVERSAL: Fields = {
    "description": ("description", _description),
    "occurredAt": ("occurred_at", _time),
}
LIMIT: Fields = {"overdraftLimit": ("limit", _limit), "currency": ("currency", _currency)}
TRANSACTION: Fields = {
    "accountId": ("account_id", _account_id),
    "type": ("kind", _kind),
    "value": ("value", _value),
    "currency": ("currency", _currency),
    "metadata": ("metadata", _metadata),
    **REVERSAL,
}
BULK_LINE: Fields = {**TRANSACTION, "idempotencyKey": ("idempotency_key", _own_key)}
