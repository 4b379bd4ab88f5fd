"""Logs: one JSON object a line, to standard error.

No personal data: no description, and of an account only a keyed hash of its id. An error is told by
its type, where it was raised, and by what PostgreSQL says of itself (its SQLSTATE, the constraint),
but not by its text: errors repeat the values that they stumbled over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import traceback
from datetime import UTC, datetime
from typing import Any

from saldo.serve.settings import BadSetting, read_hash_secret
from saldo.serve.telemetry.tracing import log_members

FIELDS = "saldo"
ACCOUNT_HASH_BYTES = 8
CAUSES_MAX = 8
FRAMES_MAX = 20
# How the framework begins its own line on an error that a function let through. The path and the
# error's text follow.
FRAMEWORK_ERROR = "Exception on "


def account_hash(account_id: str, secret: bytes) -> str:
    """What stands for an account in the logs: the same one always has the same."""
    return hashlib.blake2b(
        account_id.encode(),
        key=secret[:64],
        digest_size=ACCOUNT_HASH_BYTES,
        person=b"saldo-log",
    ).hexdigest()


def about_account(account_id: str) -> dict[str, dict[str, str]]:
    """``extra`` of a log line that is about an account."""
    try:
        secret = read_hash_secret(os.environ)
    except BadSetting:
        return {}
    return {FIELDS: {"account": account_hash(account_id, secret)}}


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, function: str = "") -> None:
        super().__init__()
        self._function = function

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
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            members["exception"] = told(record.exc_info[1])
        return json.dumps(members)


def told(error: BaseException) -> list[dict[str, Any]]:
    """An error and its causes, the first that was raised last, without any of their texts."""
    chain: list[dict[str, Any]] = []
    each: BaseException | None = error
    while each is not None and len(chain) < CAUSES_MAX:
        frames = traceback.extract_tb(each.__traceback__)[-FRAMES_MAX:]
        entry: dict[str, Any] = {
            "type": f"{type(each).__module__}.{type(each).__qualname__}",
            "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }
        for name in ("sqlstate", "constraint_name", "errno"):
            said = getattr(each, name, None)
            if said is not None:
                entry[name] = said
        chain.append(entry)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return chain


def log_config(level: str, function: str) -> dict[str, Any]:
    """A configuration for logging.config.dictConfig."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {"()": "saldo.serve.telemetry.logs.JsonLines", "function": function}
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stderr",
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
    }
