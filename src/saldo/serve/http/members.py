"""Types of JSON members that responses share, named as in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec

from saldo.domain.money import format_minor


def any_of(*schemas: str) -> msgspec.Meta:
    """Return what makes a member's schema a choice of the document's schemas, or null."""
    choices = [_ref(name) if name != "null" else {"type": "null"} for name in schemas]
    return msgspec.Meta(extra_json_schema={"anyOf": choices})


def _schema(name: str) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema=_ref(name))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


AccountId = Annotated[str, _schema("AccountId")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Currency = Annotated[str, _schema("Currency")]
Hash = Annotated[str, _schema("Hash")]
Kind = Annotated[str, _schema("Kind")]
Metadata = Annotated[msgspec.Raw, _schema("Metadata")]
Money = Annotated[msgspec.Raw, _schema("Money")]
MoneyOrNull = Annotated[msgspec.Raw, any_of("Money", "null")]
MoneyText = Annotated[str, _schema("MoneyText")]
Position = Annotated[int, _schema("Position")]
TextOrNull = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": ["string", "null"]})]
Time = Annotated[str, _schema("Time")]
TransactionId = Annotated[UUID, _schema("TransactionId")]


class Body(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A JSON object of a response; the OpenAPI document's schema of it is made from its fields."""


def money(amount_minor: int, currency: str) -> msgspec.Raw:
    """Return the amount as an exact JSON number."""
    return msgspec.Raw(format_minor(amount_minor, currency))
