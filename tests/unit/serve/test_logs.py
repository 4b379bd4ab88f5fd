"""Log lines: JSON with the trace, and without personal data."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext

from saldo.serve.telemetry.logs import JsonLines, account_hash, described
from saldo.serve.telemetry.tracing import TRACE, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
SECRET = bytes.fromhex("5a" * 32)
# What a client may send, long enough that it cannot be in a line by chance.
TEXTS = st.text(min_size=6).filter(lambda text: text.strip() == text)


def line(say: Callable[[logging.Logger], None]) -> tuple[dict[str, Any], str]:
    """Return the one logged line, parsed and as text."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines("get_balance", SECRET))
    logger = logging.getLogger("saldo.tested")
    logger.addHandler(handler)
    try:
        say(logger)
    finally:
        logger.removeHandler(handler)
    [text] = written.getvalue().splitlines()
    return json.loads(text), text


def test_a_line_has_its_trace() -> None:
    context = SpanContext(TRACE_ID, SPAN_ID, is_remote=True)
    token = TRACE.set(Trace(NonRecordingSpan(context)))
    try:
        members, _ = line(lambda logger: logger.warning("said"))
    finally:
        TRACE.reset(token)
    assert members["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert members["span_id"] == "b7ad6b7169203331"
    assert (members["function"], members["message"]) == ("get_balance", "said")


def test_a_line_outside_a_request_has_no_trace() -> None:
    members, _ = line(lambda logger: logger.warning("said"))
    assert "trace_id" not in members


@given(TEXTS)
def test_an_error_is_logged_without_its_data(text: str) -> None:
    """Errors repeat values: a key, a row, a number that is none."""

    def fail() -> None:
        try:
            {}[text]  # type: ignore[index]
        except KeyError as error:
            raise ValueError(text) from error

    def say(logger: logging.Logger) -> None:
        try:
            fail()
        except ValueError:
            logger.exception("unexpected error")

    members, whole = line(say)
    assert [each["type"] for each in members["exception"]] == [
        "builtins.ValueError",
        "builtins.KeyError",
    ]
    assert any("fail" in frame for frame in members["exception"][0]["at"])
    found = json.dumps(text)[1:-1]
    # The words of the line itself, and of where it was raised, may hold a short text by chance.
    assert found not in whole or found in json.dumps(
        {**members, "exception": described(ValueError())}
    )


@given(TEXTS, TEXTS)
def test_framework_errors_are_logged_without_path_and_text(path: str, text: str) -> None:
    said = f"Exception on /accounts/{path}/limit [PUT]\nTraceback\nValueError: {text}"
    members, _ = line(lambda logger: logger.error(said))
    assert members["message"] == "unexpected error outside of the function"


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{5,127}", fullmatch=True))
def test_an_account_is_logged_as_a_keyed_hash(account_id: str) -> None:
    hashed = account_hash(account_id, SECRET)
    assert len(hashed) == 16
    assert hashed == account_hash(account_id, SECRET)
    assert hashed != account_hash(account_id, SECRET[::-1] + b"other")
    assert account_id not in hashed


def test_a_line_about_an_account_has_the_hash_of_its_id() -> None:
    members, whole = line(lambda logger: logger.error("said", extra={"account_id": "wesley"}))
    assert members["account"] == account_hash("wesley", SECRET)
    assert "wesley" not in whole
    members, _ = line(lambda logger: logger.error("said"))
    assert "account" not in members
