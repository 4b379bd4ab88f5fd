"""The pure half of the local KafkaSource: from records to events, from responses to decisions."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.knative.delivery import (
    DELIVERY_DEFAULT,
    DELIVERY_UNSAID,
    Answer,
    BadTarget,
    Delivered,
    DeliveryOptions,
    Event,
    GivenUp,
    OffsetLedger,
    Record,
    RetryAfter,
    SourceName,
    UnsendableEvent,
    backoff_ms,
    child_traceparent,
    dead_letter,
    decide,
    event_from_record,
    parse_duration_ms,
    parse_target,
    request_head,
)
from local.knative.kafka_source import SourceError, TokenFile, parse_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from local.knative.delivery import RecordHeader

SOURCE = SourceName(namespace="ns1", name="ks")
SINK = parse_target("http://127.0.0.1:8082/sink")
BINARY: list[RecordHeader] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"i1"),
    ("ce_source", b"/s"),
    ("ce_type", b"t"),
]
WHEREABOUTS = {"knativekafkapartition": "3", "knativekafkaoffset": "7"}


def record(
    value: bytes | None = b"v",
    *,
    key: bytes | None = b"k",
    headers: Sequence[RecordHeader] = (),
    timestamp_ms: int = 1_700_000_000_120,
) -> Record:
    return Record(
        topic="t",
        partition=3,
        offset=7,
        timestamp_ms=timestamp_ms,
        key=key,
        value=value,
        headers=headers,
    )


def made_from(taken: Record) -> Event:
    return event_from_record(taken, SOURCE)


def is_plain(event: Event) -> bool:
    return event.attributes["type"] == "dev.knative.kafka.event"


def options(
    *,
    retry: int = 2,
    backoff_policy: Literal["exponential", "linear"] = "exponential",
    backoff_delay_ms: int = 100,
) -> DeliveryOptions:
    return DeliveryOptions(
        retry=retry,
        backoff_policy=backoff_policy,
        backoff_delay_ms=backoff_delay_ms,
        timeout_ms=1000,  # short: nothing is sent
    )


def answer(status: int, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()) -> Answer:
    return Answer(status=status, headers=headers, body=body)


# --- records ----------------------------------------------------------------------------------


def test_a_plain_record_becomes_an_event_with_its_offset() -> None:
    """Partition and offset are its id; key and time come along."""
    event = made_from(record())

    assert event.body == b"v"
    assert event.content_type is None
    assert event.attributes == {
        "specversion": "1.0",
        "id": "partition:3/offset:7",
        "source": "/apis/v1/namespaces/ns1/kafkasources/ks#t",
        "type": "dev.knative.kafka.event",
        "subject": "partition:3#7",
        "time": "2023-11-14T22:13:20.12Z",
        "key": "k",
        "partitionkey": "k",
        **WHEREABOUTS,
    }


def test_an_empty_key_is_no_key() -> None:
    """As with no key at all, neither `key` nor `partitionkey` is there."""
    assert "partitionkey" not in made_from(record(key=b"")).attributes
    assert "key" not in made_from(record(key=None)).attributes


def test_content_type_of_a_plain_record_ignores_case() -> None:
    """Nor is it a `kafkaheader` besides."""
    event = made_from(record(headers=[("Content-TYPE", b"Application/JSON")]))

    assert event.content_type == "application/json"
    assert not any(name.startswith("kafkaheader") for name in event.attributes)


def test_a_binary_event_keeps_only_its_attributes() -> None:
    """The key too: a producer writes ce_partitionkey, or there is none."""
    headers = [*BINARY, ("ce_Ext", b"e"), ("other", b"x"), ("ce_", b"y"), ("content-type", b"A/b")]

    event = made_from(record(headers=headers))

    assert event.content_type == "A/b"
    assert event.attributes == {
        "specversion": "1.0",
        "id": "i1",
        "source": "/s",
        "type": "t",
        "ext": "e",
        **WHEREABOUTS,
    }


def test_a_binary_event_without_data_has_no_body() -> None:
    """An empty value too, where a plain record's is an empty body."""
    assert made_from(record(b"", headers=BINARY)).body is None
    assert made_from(record(None, headers=BINARY)).body is None
    assert made_from(record(b"")).body == b""
    assert made_from(record(None)).body is None


@pytest.mark.parametrize(
    "broken",
    [
        BINARY[:-1],
        [("ce_specversion", b"0.9"), *BINARY[1:]],
        [*BINARY, ("ce_time", b"yesterday")],
        [*BINARY, ("ce_time", b"2026-13-01T00:00:00Z")],
        [*BINARY, ("ce_not-a-name", b"x")],
        [*BINARY[:2], ("ce_source", b"not a uri"), BINARY[3]],
    ],
)
def test_an_invalid_cloudevent_is_a_plain_record(broken: list[RecordHeader]) -> None:
    """It is delivered all the same, its attributes as Kafka headers."""
    event = made_from(record(headers=broken))

    assert is_plain(event)
    assert event.attributes["kafkaheaderceid"] == "i1"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("2026-11-24T06:00:00.000000Z", "2026-11-24T06:00:00Z"),
        ("2026-11-24T06:00:00.120300Z", "2026-11-24T06:00:00.1203Z"),
        ("2026-11-24t06:00:00z", "2026-11-24T06:00:00Z"),
        ("2026-11-24T06:00:00+00:00", "2026-11-24T06:00:00Z"),
        ("2026-11-24T06:00:00.5-03:00", "2026-11-24T06:00:00.5-03:00"),
    ],
)
def test_a_time_is_rewritten_in_one_form(written: str, sent: str) -> None:
    """The dispatcher parses it: what arrives is the same moment, not always the same text."""
    event = made_from(record(headers=[*BINARY, ("ce_time", written.encode())]))

    assert event.attributes["time"] == sent


def structured(**envelope: object) -> Record:
    required = {"specversion": "1.0", "id": "i", "source": "/s", "type": "t"}
    value = json.dumps({**required, **envelope}).encode()
    headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    return record(value, headers=headers)


@pytest.mark.parametrize(
    ("envelope", "content_type", "body"),
    [
        ({}, None, None),
        ({"data": {"a": [1, "é"]}}, None, '{"a":[1,"é"]}'.encode()),
        ({"data": "x", "datacontenttype": "application/json"}, "application/json", b'"x"'),
        ({"data": "x", "datacontenttype": "text/plain"}, "text/plain", b"x"),
        ({"data": 1, "datacontenttype": "a/b+json"}, "a/b+json", b"1"),
        ({"data_base64": "AAE="}, None, b"\x00\x01"),
        ({"data": "\ud800", "datacontenttype": "text/plain"}, "text/plain", b"?"),
    ],
)
def test_a_structured_event_is_unpacked(
    envelope: dict[str, Any], content_type: str | None, body: bytes | None
) -> None:
    """It is delivered in binary mode: attributes to headers, data to the body."""
    event = made_from(structured(**envelope, n=5, b=True))

    assert not is_plain(event)
    assert (event.content_type, event.body) == (content_type, body)
    assert (event.attributes["n"], event.attributes["b"]) == ("5", "true")


@pytest.mark.parametrize(
    "envelope",
    [
        {"id": 5},
        {"id": None},
        {"datacontenttype": 5},
        {"data": 1, "data_base64": "AAE="},
        {"data_base64": "?"},
        {"data": {}, "datacontenttype": "text/plain"},
        {"data": float("nan")},
    ],
)
def test_an_invalid_envelope_is_a_plain_record(envelope: dict[str, Any]) -> None:
    """Delivered as it is, with the content type that it came with."""
    taken = structured(**envelope)

    event = made_from(taken)

    assert is_plain(event)
    assert event.body == taken.value
    assert event.content_type == "application/cloudevents+json; charset=utf-8"


@pytest.mark.parametrize(
    "value", [b"[]", b"{", b"\xff", b'"x"', pytest.param(b"[" * 100_000, id="deep")]
)
def test_a_value_without_an_envelope_is_a_plain_record(value: bytes) -> None:
    """No such value stops the source."""
    assert is_plain(
        made_from(record(value, headers=[("content-type", b"application/cloudevents+json")]))
    )


@given(
    value=st.none() | st.binary(max_size=50),
    key=st.none() | st.binary(max_size=20),
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["ce_id", "ce_source", "ce_specversion", "ce_type", "content-type", "ce_time"]
            )
            | st.text(max_size=10),
            st.none()
            | st.binary(max_size=30)
            | st.sampled_from([b"1.0", b"application/cloudevents+json"]),
        ),
        max_size=8,
    ),
)
def test_every_record_is_sent_or_refused_as_unsendable(
    value: bytes | None, key: bytes | None, headers: list[RecordHeader]
) -> None:
    """No record raises anything else, and no attribute ever ends its header."""
    event = made_from(record(value, key=key, headers=headers))
    try:
        head = request_head(SINK, event, namespace="ns1")
    except UnsendableEvent:
        return

    assert head.endswith(b"\r\n\r\n")
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    has_length, has_type = event.body is not None, event.content_type is not None
    assert len(lines) == 4 + len(event.attributes) + has_length + has_type


def test_a_record_cannot_forge_its_offset() -> None:
    """Partition and offset are those of the record, even if its producer sets such attributes."""
    claims: list[RecordHeader] = [(f"ce_{name}", b"99") for name in WHEREABOUTS]
    assert WHEREABOUTS.items() <= made_from(record(headers=[*BINARY, *claims])).attributes.items()


# --- requests ---------------------------------------------------------------------------------


@given(
    values=st.lists(
        st.text("az \r\n\0\x0b\x0c\t\x1f", max_size=4),
        min_size=1,
        max_size=8,
    ),
    content_type=st.none() | st.sampled_from(["a/b", "a/b\nx: y"]),
)
def test_unencodable_header_value_is_refused(values: list[str], content_type: str | None) -> None:
    """Of the values, and then of the content type; with none of them it is made."""
    attributes = {f"a{number}": value for number, value in enumerate(values)} | {"id": "i"}
    event = Event(attributes=attributes, content_type=content_type, body=None)
    fields = {f"ce-{name}": value for name, value in attributes.items()}
    fields["content-type"] = content_type or ""
    refused = [name for name, value in fields.items() if set(value) & set("\r\n\0\x0b\x0c")]

    if refused:
        with pytest.raises(UnsendableEvent, match=f"^{refused[0]} of 'i'$"):
            request_head(SINK, event, namespace="ns1")
    else:
        head = request_head(SINK, event, namespace="ns1")
        assert head.count(b"\r\n") == len(attributes) + (content_type is not None) + 5


def test_a_request_is_the_event_in_binary_mode() -> None:
    """All but the trace and the token, which are not the event's."""
    event = Event(attributes={"specversion": "1.0", "id": "i"}, content_type="a/b", body=b"xyz")

    head = request_head(SINK, event, namespace="ns1", further=[("Authorization", "Bearer t")])

    assert head == (
        b"POST /sink HTTP/1.1\r\nhost: 127.0.0.1:8082\r\nPrefer: reply\r\nKn-Namespace: ns1\r\n"
        b"ce-specversion: 1.0\r\nce-id: i\r\ncontent-type: a/b\r\ncontent-length: 3\r\n"
        b"Authorization: Bearer t\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("value", "sent"), [("é", b"\xe9"), ("ключ", b"????"), ("😀", b"??"), ("\ud800", b"?")]
)
def test_a_header_is_encoded_as_latin_1(value: str, sent: bytes) -> None:
    """Latin-1 or a question mark: that is why attributes should be ASCII."""
    event = Event(attributes={"id": value}, content_type=None, body=None)

    assert b"ce-id: " + sent + b"\r\n" in request_head(SINK, event, namespace="ns1")


TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_records_trace_continues_in_a_new_span() -> None:
    """With its flags and its state."""
    headers = [("traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode()), ("tracestate", b"a=1")]

    assert child_traceparent(headers, "00f067aa0ba902b7") == [
        ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
        ("tracestate", "a=1"),
    ]


@pytest.mark.parametrize(
    "written", [b"", b"00-0-0-0", f"00-{'0' * 32}-b7ad6b7169203331-01".encode()]
)
def test_a_malformed_trace_is_ignored(written: bytes) -> None:
    """Nor is one begun."""
    assert child_traceparent([("traceparent", written)], "00f067aa0ba902b7") == []


@pytest.mark.parametrize(
    "url",
    ["", "/x", "127.0.0.1:80", "https://a/", "http://", "http://a:x/", "http://a/ b", "http://é/"],
)
def test_a_sink_is_an_absolute_http_url(url: str) -> None:
    """Anything else is refused at the start."""
    with pytest.raises(BadTarget):
        parse_target(url)


def test_a_sink_keeps_its_query() -> None:
    """And port 80 goes without saying."""
    target = parse_target("http://localhost?a=b")

    assert (target.host, target.port, target.authority, target.path) == (
        "localhost",
        80,
        "localhost",
        "/?a=b",
    )


# --- decisions --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_a_status_below_300_is_delivered(status: int) -> None:
    """With every response."""
    assert decide(options(), 0, answer(status, b"no!")) == Delivered()


@pytest.mark.parametrize("status", [404, 408, 409, 429, 500, 501, 502, 503, 504, 599])
def test_these_statuses_are_retried(status: int) -> None:
    """As often as `retry` says, and given up then."""
    failure = answer(status)

    assert decide(options(), 0, failure) == RetryAfter(delay_ms=200)
    assert decide(options(), 1, failure) == RetryAfter(delay_ms=400)
    assert decide(options(), 2, failure) == GivenUp(answer=failure)


@pytest.mark.parametrize("status", [300, 301, 304, 400, 401, 403, 405, 410, 413, 415, 422, 499])
def test_all_other_failures_are_not_retried(status: int) -> None:
    """They go straight to the dead letter sink; redirects are not followed."""
    failure = answer(status)

    assert decide(options(), 0, failure) == GivenUp(answer=failure)


def test_a_missing_response_is_retried() -> None:
    """Refused, reset or timed out: there is no last response to report."""
    assert decide(options(), 0, None) == RetryAfter(delay_ms=200)
    assert decide(options(), 2, None) == GivenUp(answer=None)


def test_without_a_delay_nothing_is_retried_or_reported() -> None:
    """Unless there was none to make, or the failure was final."""
    assert decide(options(backoff_delay_ms=0), 0, answer(500)) == GivenUp(answer=None)
    assert decide(options(backoff_delay_ms=0, retry=0), 0, answer(500)) == GivenUp(
        answer=answer(500)
    )
    assert decide(options(backoff_delay_ms=0), 0, answer(400)) == GivenUp(answer=answer(400))


def test_the_backoff_doubles_or_adds() -> None:
    """The first exponential delay is twice the setting."""
    exponential, linear = options(), options(backoff_policy="linear")

    assert [backoff_ms(exponential, retry) for retry in (1, 2, 3)] == [200, 400, 800]
    assert [backoff_ms(linear, retry) for retry in (1, 2, 3)] == [100, 200, 300]


def test_default_delivery_blocks_a_partition_for_10_minutes() -> None:
    """What makes `spec.delivery` worth writing."""
    delays = [backoff_ms(DELIVERY_DEFAULT, retry) for retry in range(1, DELIVERY_DEFAULT.retry + 1)]

    assert sum(delays) == 613_800


# --- dead letters -----------------------------------------------------------------------------

EVENT = Event(attributes={"id": "i", "type": "t"}, content_type="a/b", body=b"x")


def test_a_dead_letter_holds_the_response_of_the_sink() -> None:
    """Beside the event as it was."""
    failure = answer(
        422, b"no", [("KNE-Reason", "x"), ("kne-", "y"), ("kne-a_b", "z"), ("reason", "w")]
    )

    letter = dead_letter(EVENT, SINK, failure)

    assert (letter.content_type, letter.body) == ("a/b", b"x")
    assert letter.attributes == {
        "id": "i",
        "type": "t",
        "knativeerrordest": "http://127.0.0.1:8082/sink",
        "knativeerrorcode": "422",
        "knativeerrordata": base64.b64encode(b"no").decode(),
        "reason": "x",
    }


def test_a_dead_letter_without_a_response_names_the_sink_only() -> None:
    """No code, no data."""
    assert dead_letter(EVENT, SINK, None).attributes == {
        "id": "i",
        "type": "t",
        "knativeerrordest": SINK.url,
    }


def test_a_dead_letters_data_is_bounded_and_absent_when_empty() -> None:
    """1024 bytes before base64."""
    long = dead_letter(EVENT, SINK, answer(500, b"x" * 2000)).attributes["knativeerrordata"]

    assert len(base64.b64decode(long)) == 1024
    assert "knativeerrordata" not in dead_letter(EVENT, SINK, answer(500)).attributes


def test_response_headers_cannot_replace_event_attributes() -> None:
    """`Kne-type` would."""
    assert (
        dead_letter(EVENT, SINK, answer(500, headers=[("Kne-Type", "x")])).attributes["type"] == "t"
    )


# --- offsets ----------------------------------------------------------------------------------


@given(
    gaps=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    start=st.integers(0, 2**40),
    data=st.data(),
)
def test_only_offsets_before_the_first_open_one_are_committable(
    gaps: list[int], start: int, data: st.DataObject
) -> None:
    """In any order of answers, over any gaps; at the end everything is."""
    offsets = [start + sum(gaps[:index]) for index in range(len(gaps))]
    order = data.draw(st.permutations(offsets))
    ledger = OffsetLedger()
    received: list[int] = []
    done: set[int] = set()
    committed = None
    waiting = list(offsets)
    for offset in order:
        # Records are received in order, any number of them before the next one is done.
        upto = offsets.index(offset)
        while not received or received[-1] < offsets[upto]:
            received.append(waiting.pop(0))
            ledger.received(received[-1])
        ledger.done(offset)
        done.add(offset)
        first_open = next((taken for taken in received if taken not in done), None)
        before = [taken for taken in received if first_open is None or taken < first_open]
        expected = before[-1] + 1 if before else None

        assert ledger.committable() == (None if expected == committed else expected)
        assert ledger.open_count() == len(received) - len(before)
        if data.draw(st.booleans()) and expected is not None:
            ledger.committed(expected)
            committed = expected
            assert ledger.committable() is None
    assert ledger.open_count() == 0


def test_an_offset_given_twice_is_refused() -> None:
    """A consumer that goes back without a new assignment is a programmer's error."""
    ledger = OffsetLedger()
    ledger.received(5)
    with pytest.raises(AssertionError):
        ledger.received(5)
    ledger.done(5)
    with pytest.raises(AssertionError):
        ledger.received(5)
    ledger.received(6)


# --- the command line -------------------------------------------------------------------------

REQUIRED = [
    "--bootstrap",
    "h:1",
    "--topic",
    "t",
    "--group",
    "g",
    "--name",
    "n",
    "--sink",
    "http://h/",
]


def test_a_partial_delivery_option_drops_the_defaults() -> None:
    """As `spec.delivery` does: a dead letter sink alone means no retry at all."""
    assert parse_arguments(REQUIRED).delivery == DELIVERY_DEFAULT
    partly = parse_arguments([*REQUIRED, "--dead-letter-sink", "http://h/d"])
    assert partly.delivery == DELIVERY_UNSAID
    assert partly.delivery.retry == 0


def test_a_complete_delivery_option_is_used_unchanged() -> None:
    """A timeout of zero is the dispatcher's limit."""
    given_all = ["--retry", "3", "--backoff-policy", "linear", "--backoff-delay", "PT1S"]

    assert parse_arguments(
        [*REQUIRED, *given_all, "--timeout", "PT0S"]
    ).delivery == DeliveryOptions(
        retry=3, backoff_policy="linear", backoff_delay_ms=1000, timeout_ms=600_000
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ["--sink", "ftp://h/"],
        ["--backoff-delay", "5"],
        ["--consumers", "0"],
        ["--retry", "-1"],
        ["--sink-audience", "a"],
        ["--ordering", "some"],
        ["--initial-offset", "7"],
    ],
)
def test_a_wrong_option_stops_the_start(wrong: list[str]) -> None:
    """Before anything is consumed."""
    with pytest.raises(SystemExit):
        parse_arguments([*REQUIRED, *wrong])


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("PT0.3S", 300), ("PT30S", 30_000), ("PT10M", 600_000), ("P1DT1H", 90_000_000), ("PT0S", 0)],
)
def test_a_duration_is_iso_8601(text: str, milliseconds: int) -> None:
    """As in the resource."""
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["", "P", "PT", "30", "PT30", "P1D2H", "-PT1S", "PT1S ", "PT1e9S"])
def test_other_text_is_no_duration(text: str) -> None:
    """ValueError, which the command line tells."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration_ms(text)


def token_for(audience: object) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"aud": audience}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


@pytest.mark.parametrize("audience", ["saldo", ["other", "saldo"]])
def test_a_token_for_the_audience_is_sent(tmp_path: Path, audience: object) -> None:
    """Without the file's closing newline."""
    path = tmp_path / "token"
    path.write_text(token_for(audience) + "\n", encoding="ascii")

    assert TokenFile(path, "saldo").authorization() == f"Bearer {token_for(audience)}"


@pytest.mark.parametrize("text", ["", "a.b.c", token_for("other"), token_for(None), "e30.e30.x"])
def test_a_token_for_another_audience_stops_the_start(tmp_path: Path, text: str) -> None:
    """As a cluster would not have issued it."""
    path = tmp_path / "token"
    path.write_text(text, encoding="ascii")
    with pytest.raises(SourceError):
        TokenFile(path, "saldo")


def test_a_renewed_token_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a broken renewal leaves the one before."""
    monkeypatch.setattr("local.knative.kafka_source.TOKEN_CHECK_S", 0.0)
    path = tmp_path / "token"
    path.write_text(token_for("saldo"), encoding="ascii")
    token = TokenFile(path, "saldo")
    path.write_text("broken", encoding="ascii")
    assert token.authorization() == f"Bearer {token_for('saldo')}"
    path.write_text(token_for(["saldo"]), encoding="ascii")
    assert token.authorization() == f"Bearer {token_for(['saldo'])}"
