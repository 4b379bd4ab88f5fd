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
SHOWN_CHARACTERS_MAX = 80

TRANSACTION_FIELDS = frozenset(
    {"accountId", "type", "value", "currency", "description", "metadata", "occurredAt"}
)
BULK_LINE_FIELDS = TRANSACTION_FIELDS | {"idempotencyKey"}
LIMIT_FIELDS = frozenset({"overdraftLimit", "currency"})
REVERSAL_FIELDS = frozenset({"description", "occurredAt"})
BAD_ACCOUNT_ID = (
    "must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ - and start with a letter or digit"
)
NO_VALUE = Value(coefficient=0, scale=0)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_transaction(
    members: object, fields: frozenset[str] = TRANSACTION_FIELDS
) -> RecordTransaction:
    """Return the command of one transaction's JSON object; raises Invalid naming wrong fields."""
    read = _Members(members, fields, "must be a JSON object, or an array of them")
    account_id, kind, value = read.account_id(), read.kind(), read.value("value")
    currency, description = read.currency(), read.text("description", DESCRIPTION_CHARACTERS_MAX)
    metadata, occurred_at = read.metadata(), read.time("occurredAt")
    read.end()
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
    """Return the commands of a bulk request, each with its own idempotency key if it has one.

    Raises Invalid naming every wrong field of every bad line.
    """
    if not 1 <= len(items) <= BULK_LINES_MAX:
        raise Invalid([FieldError("body", f"must hold 1 to {BULK_LINES_MAX} transactions")])
    parsed: list[tuple[RecordTransaction, str | None]] = []
    errors: list[FieldError] = []
    for number, members in enumerate(items, start=1):
        key = None
        wrong: list[FieldError] = []
        try:
            key = _line_key(members)
        except Invalid as invalid:
            wrong += invalid.errors
        try:
            parsed.append((parse_transaction(members, BULK_LINE_FIELDS), key))
        except Invalid as invalid:
            wrong += invalid.errors
        errors += [FieldError(each.field, each.message, line=number) for each in wrong]
    if errors:
        raise Invalid(errors)
    return parsed


def _line_key(members: object) -> str | None:
    key = members.get("idempotencyKey") if isinstance(members, dict) else None
    if key is None:
        return None
    if not isinstance(key, str) or isinstance(key, Number):
        raise Invalid([FieldError("idempotencyKey", "must be a string")])
    return read_idempotency_key(key, "idempotencyKey")


def read_ndjson(body: bytes) -> list[Any]:
    """Return the values of a newline-delimited body; raises Invalid by line.

    Blank lines are not counted: a line's number is its transaction's place in the response.
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
    """Return the command of ``PUT /accounts/{id}/limit``; raises Invalid."""
    read = _Members(members, LIMIT_FIELDS, 'must be a JSON object such as {"overdraftLimit": 100}')
    limit: Value | None = None
    if "overdraftLimit" not in read.members:
        read.wrong("overdraftLimit", "is missing: give a number, or null for none")
    elif read.members["overdraftLimit"] is not None:
        limit = read.value("overdraftLimit", zero_allowed=True)
    currency = read.currency()
    read.end()
    return SetOverdraftLimit(account_id=account_id, limit=limit, currency=currency)


def parse_reversal(members: object) -> tuple[str | None, datetime | None]:
    """Return description and time of a reversal; raises Invalid."""
    read = _Members(members, REVERSAL_FIELDS, "must be empty or a JSON object")
    description = read.text("description", DESCRIPTION_CHARACTERS_MAX)
    occurred_at = read.time("occurredAt")
    read.end()
    return description, occurred_at


def check_account_id(text: str) -> None:
    """Raise Invalid unless `text` is an account id."""
    if not ACCOUNT_ID.fullmatch(text):
        raise Invalid([FieldError("accountId", BAD_ACCOUNT_ID)])


class _Members:
    """Reads the members of a JSON object and gathers what is wrong with them.

    The value of a wrong field is never used: end() raises.
    """

    def __init__(self, members: object, fields: frozenset[str], fault: str) -> None:
        if not isinstance(members, dict):
            raise Invalid([FieldError("body", fault)])
        self.members: dict[str, Any] = members
        self._fields = fields
        self._errors: list[FieldError] = []

    def wrong(self, field: str, message: str) -> None:
        """Note that a field is wrong."""
        self._errors.append(FieldError(field, message))

    def end(self) -> None:
        """Raise Invalid if anything is wrong. Only the first unknown member is named."""
        unknown = next((name for name in self.members if name not in self._fields), None)
        if unknown is not None:
            known = ", ".join(sorted(self._fields))
            self.wrong(_shown(unknown), f"is not known; the fields are {known}")
        if self._errors:
            raise Invalid(self._errors)

    def account_id(self) -> str:
        text = self.members.get("accountId")
        if isinstance(text, str) and not isinstance(text, Number) and ACCOUNT_ID.fullmatch(text):
            return text
        self.wrong("accountId", "is missing" if text is None else BAD_ACCOUNT_ID)
        return ""

    def kind(self) -> Kind:
        try:
            return Kind(self.members.get("type"))
        except ValueError:
            self.wrong("type", "must be INCOME or EXPENSE")
            return Kind.INCOME

    def value(self, field: str, *, zero_allowed: bool = False) -> Value:
        text = self.members.get(field)
        if not isinstance(text, str):
            fault = "is missing" if text is None else "must be a decimal number such as 10.50"
            self.wrong(field, fault)
            return NO_VALUE
        try:
            return parse_value(text, zero_allowed=zero_allowed)
        except BadValue as bad:
            self.wrong(field, str(bad))
            return NO_VALUE

    def currency(self) -> str | None:
        code: Any = self.members.get("currency")
        if code is None or (isinstance(code, str) and code in CURRENCY_DIGITS):
            return code
        self.wrong("currency", "must be an ISO 4217 code such as BRL")
        return None

    def text(self, field: str, characters_max: int) -> str | None:
        text: str | None = self.members.get(field)
        fault = None if text is None else _text_fault(text, characters_max)
        if fault is not None:
            self.wrong(field, fault)
        return text

    def metadata(self) -> dict[str, str]:
        metadata: Any = self.members.get("metadata")
        if metadata is None:
            return {}
        if not isinstance(metadata, dict):
            self.wrong("metadata", "must be a JSON object of strings")
            return {}
        if len(metadata) > METADATA_KEYS_MAX:
            self.wrong("metadata", f"must have at most {METADATA_KEYS_MAX} members")
            return {}
        for name, text in metadata.items():
            fault = _text_fault(text, METADATA_CHARACTERS_MAX)
            name_fault = _text_fault(name, METADATA_CHARACTERS_MAX)
            if name_fault is not None or not name:
                fault = "its name " + (name_fault or "must not be empty")
            if fault is not None:
                self.wrong(f"metadata.{_shown(name)}", fault)
        return metadata

    def time(self, field: str) -> datetime | None:
        text = self.members.get(field)
        if text is None:
            return None
        moment = parse_time(text) if isinstance(text, str) else None
        if moment is None:
            self.wrong(field, TIME_FAULT)
        return moment


def _text_fault(text: object, characters_max: int) -> str | None:
    """Return what is wrong with a text, or None."""
    if not isinstance(text, str) or isinstance(text, Number):
        return "must be a string"
    if len(text) > characters_max:
        return f"must have at most {characters_max} characters"
    # isprintable is quick and stricter: it refuses some spaces too.
    if not text.isprintable() and _UNPRINTABLE.search(text):
        return "must not hold control characters or lone surrogates"
    return None


def _shown(name: str) -> str:
    return name[:SHOWN_CHARACTERS_MAX].encode("utf-8", "replace").decode()
