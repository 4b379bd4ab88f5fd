"""Logs: one JSON object a line, to standard error.

No personal data: no description, and of an account only a keyed hash of its id. An error is
described by its type, where it was raised and what PostgreSQL says of itself (its SQLSTATE, the
constraint), but not by its text: errors repeat the values that they refuse.
"""

from __future__ import annotations

import hashlib
import json
import logging
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from saldo.serve.telemetry.tracing import log_members

if TYPE_CHECKING:
    from saldo.serve.settings import Settings

ACCOUNT_HASH_BYTES = 8
CAUSES_MAX = 8
FRAMES_MAX = 20
# How the framework begins its own line on an error that a function let through. The path and the
# error's text follow.
FRAMEWORK_ERROR = "Exception on "


def account_hash(account_id: str, secret: bytes) -> str:
    """Return what stands for an account in the logs: always the same for the same account."""
    return hashlib.blake2b(
        account_id.encode(),
        key=secret[:64],
        digest_size=ACCOUNT_HASH_BYTES,
        person=b"saldo-log",
    ).hexdigest()


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON.

    A record with ``extra={"account_id": ...}`` is about an account. Its id is hashed here.
    """

    def __init__(self, function: str, hash_secret: bytes) -> None:
        super().__init__()
        self._function = function
        self._hash_secret = hash_secret

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if message.startswith(FRAMEWORK_ERROR):
            message = "unexpected error outside of the function"
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "function": self._function,
            "message": message,
            **log_members(),
        }
        account_id = getattr(record, "account_id", None)
        if account_id is not None:
            members["account"] = account_hash(account_id, self._hash_secret)
        if record.exc_info and record.exc_info[1] is not None:
            members["exception"] = described(record.exc_info[1])
        return json.dumps(members)


def described(error: BaseException) -> list[dict[str, Any]]:
    """Return an error and its causes, the first that was raised last, without their texts."""
    chain: list[dict[str, Any]] = []
    each: BaseException | None = error
    while each is not None and len(chain) < CAUSES_MAX:
        frames = traceback.extract_tb(each.__traceback__)[-FRAMES_MAX:]
        entry: dict[str, Any] = {
            "type": f"{type(each).__module__}.{type(each).__qualname__}",
            "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }
        for name in ("sqlstate", "constraint_name", "errno"):
            value = getattr(each, name, None)
            if value is not None:
                entry[name] = value
        chain.append(entry)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return chain


def log_json(settings: Settings) -> None:
    """Write all logs of the process as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(settings.function, settings.hash_secret))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
