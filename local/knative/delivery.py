"""What a Knative KafkaSource makes of a record, as pure functions: no I/O, no clock, no randomness.

In the order in which a record meets them: the record becomes a CloudEvent, the event an HTTP
request, the answer a decision (delivered, again after a delay, given up), a given-up event a dead
letter, and the answered records of a partition an offset to commit. `kafka_source.py` does the
rest: it consumes, sends, waits and commits.

The rules are those of eventing-kafka-broker 1.23, each held against what the real dispatcher was
recorded to do (tests/fixtures/recorded_deliveries.json).
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A header of a record as the Kafka client gives it.
RecordHeader = tuple[str, bytes | None]

ERROR_DATA_BYTES_MAX = 1024
# Records bring the same few names again and again.
NAMES_REMEMBERED_MAX = 1_000
HTTP_REDIRECTION = 300
HTTP_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceName:
    """Namespace and name of the KafkaSource: they show in every plain record's `ce-source`."""

    namespace: str
    name: str

    @property
    def path(self) -> str:
        return f"/apis/v1/namespaces/{self.namespace}/kafkasources/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One Kafka record. `timestamp_ms` is since the epoch; a tombstone's `value` is None."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[RecordHeader]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A CloudEvent on its way: attributes and extensions by name, without the `ce-` of the wire."""

    attributes: Mapping[str, str]
    content_type: str | None
    body: bytes | None


# --- from record to event ---------------------------------------------------------------------


def event_from_record(record: Record, source: SourceName) -> Event:
    """Return the event of a record: a binary or structured CloudEvent, or made from another."""
    found = _structured_event(record) or _binary_event(record) or _plain_event(record, source)
    attributes, content_type, body = found
    attributes["knativekafkapartition"] = str(record.partition)
    attributes["knativekafkaoffset"] = str(record.offset)
    return Event(attributes=attributes, content_type=content_type, body=body)


# An event's parts: its attributes, which the caller adds to, its content type and its body.
_Parts = tuple[dict[str, str], str | None, bytes | None]


def _plain_event(record: Record, source: SourceName) -> _Parts:
    attributes = {
        "specversion": "1.0",
        "id": f"partition:{record.partition}/offset:{record.offset}",
        "source": f"{source.path}#{record.topic}",
        "type": "dev.knative.kafka.event",
        "subject": f"partition:{record.partition}#{record.offset}",
        "time": _from_milliseconds(record.timestamp_ms),
    }
    if record.key:  # An empty key is no key.
        attributes["key"] = attributes["partitionkey"] = _text(record.key)
    content_type = None
    for name, value in record.headers:
        if name.lower() == "content-type":
            content_type = _text(value).lower()
        else:
            # The last of the headers that end up with one name wins.
            attributes[f"kafkaheader{_NOT_IN_NAMES.sub('', name.lower())}"] = _text(value)
    return attributes, content_type, record.value


def _binary_event(record: Record) -> _Parts | None:
    """Return the CloudEvent of a record in binary mode, or None if it holds no valid one.

    The record's key and its headers without `ce_` are dropped. That is why a producer must write
    `ce_partitionkey` itself.
    """
    if _last_header(record, "ce_specversion") != "1.0":
        return None
    attributes = {}
    content_type = None
    for name, value in record.headers:
        if name == "content-type":
            content_type = _text(value)
        elif (attribute := _attribute_of_header(name)) is not None:
            attributes[attribute] = _text(value)
    content_type = attributes.pop("datacontenttype", content_type)
    # An empty value is no data: such a request has no Content-Length.
    return _checked(attributes, content_type, record.value or None)


@functools.lru_cache(maxsize=NAMES_REMEMBERED_MAX)
def _attribute_of_header(name: str) -> str | None:
    """Return the attribute in a record's header in binary mode, or None."""
    if name.startswith("ce_") and len(name) > len("ce_"):
        return name.removeprefix("ce_").lower()
    return None


def _structured_event(record: Record) -> _Parts | None:
    """Return the CloudEvent of a JSON envelope, or None if it holds no valid one."""
    content_type = _last_header(record, "content-type") or ""
    media_type = content_type.partition(";")[0].strip()
    if media_type != "application/cloudevents+json" or record.value is None:
        return None
    try:
        envelope = json.loads(record.value, parse_constant=_refuse_constant)
        if not isinstance(envelope, dict):
            return None
        content_type_of_data = _popped_text(envelope, "datacontenttype")
        body = _popped_data(envelope, content_type_of_data)
        attributes = {name: _attribute(name, value) for name, value in envelope.items()}
    except (_NotAnEvent, ValueError, RecursionError):
        return None
    return _checked(attributes, content_type_of_data, body)


class _NotAnEvent(Exception):
    """The envelope breaks a rule of the JSON format; the record is a plain one then."""


def _popped_text(envelope: dict[str, object], name: str) -> str | None:
    value = envelope.pop(name, None)
    if not isinstance(value, str | None):
        raise _NotAnEvent(name)
    return value


def _popped_data(envelope: dict[str, object], content_type: str | None) -> bytes | None:
    """Return the bytes of `data` or `data_base64`; JSON data are rewritten without spaces."""
    if "data" in envelope and "data_base64" in envelope:
        raise _NotAnEvent("data twice")
    if "data_base64" in envelope:
        return base64.b64decode(_popped_text(envelope, "data_base64") or "", validate=True)
    if "data" not in envelope:
        return None
    data = envelope.pop("data")
    if content_type is None or _JSON_MEDIA_TYPE.match(content_type):
        return _compact_json(data).encode(errors="replace")
    if not isinstance(data, str):
        raise _NotAnEvent("data")
    return data.encode(errors="replace")


def _attribute(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if name in _ATTRIBUTES:
        raise _NotAnEvent(name)
    return _compact_json(value)


def _checked(
    attributes: dict[str, str], content_type: str | None, body: bytes | None
) -> _Parts | None:
    """Return the event, with its time in the form of the wire; None if it is not valid."""
    if not attributes.keys() >= _REQUIRED or attributes["specversion"] != "1.0":
        return None
    if not all(map(_is_name, attributes)):
        return None
    for name in ("source", "dataschema"):
        if _NOT_IN_URIS.search(attributes.get(name, "")):
            return None
    if "time" in attributes:
        time = _canonical_time(attributes["time"])
        if time is None:
            return None
        attributes["time"] = time
    return attributes, content_type, body


@functools.lru_cache(maxsize=NAMES_REMEMBERED_MAX)
def _is_name(name: str) -> bool:
    """Return whether an attribute may be called so."""
    return _NOT_IN_NAMES.search(name) is None


_REQUIRED = frozenset({"specversion", "id", "source", "type"})
_ATTRIBUTES = _REQUIRED | {"subject", "time", "dataschema"}
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")
_NOT_IN_URIS = re.compile(r'[\s<>"{}|\\^`]')
_JSON_MEDIA_TYPE = re.compile(r"[^;]*[/+]json\s*(;|$)", re.IGNORECASE)
_TIME = re.compile(
    r"(?P<minute>\d{4}-\d\d-\d\d[Tt]\d\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>[Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def _canonical_time(text: str) -> str | None:
    """Return a time as the dispatcher writes it, without trailing zeros; None if it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    minute, second = match["minute"].upper(), match["second"] or "00"
    try:
        datetime.fromisoformat(f"{minute}:{second}")
    except ValueError:
        return None
    fraction = (match["fraction"] or "").rstrip("0")
    zone = match["zone"].upper().replace("+00:00", "Z").replace("-00:00", "Z")
    return f"{minute}:{second}{'.' if fraction else ''}{fraction}{zone}"


def _from_milliseconds(timestamp_ms: int) -> str:
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{milliseconds:03d}".rstrip("0").rstrip(".")
    return f"{whole}{fraction}Z"


def _last_header(record: Record, wanted: str) -> str | None:
    for name, value in reversed(record.headers):
        if name == wanted:
            return _text(value)
    return None


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# --- from event to request --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go. `url` is the text that a dead letter names as `knativeerrordest`."""

    url: str
    host: str
    port: int
    authority: str
    path: str


class BadTarget(ValueError):
    """Not an absolute http URL."""


def parse_target(url: str) -> Target:
    """Take an http URL apart (https is what a cluster's ingress is for). BadTarget otherwise."""
    parts = urlsplit(url)
    if (
        parts.scheme != "http"
        or not parts.hostname
        or not url.isascii()
        or _NOT_IN_URIS.search(url)
    ):
        raise BadTarget(f"{url!r} is no absolute http:// URL")
    try:
        port = parts.port or 80
    except ValueError as error:
        raise BadTarget(f"{url!r} has a bad port") from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(
        url=url,
        host=parts.hostname,
        port=port,
        authority=parts.netloc.rpartition("@")[2],
        path=path,
    )


class UnsendableEvent(Exception):
    """A value of the event holds a character that no HTTP header can carry."""


def request_head(
    target: Target, event: Event, *, namespace: str, further: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return the request's bytes up to the body; UnsendableEvent for an attribute with controls.

    `further` are headers that are not the event's: Authorization, traceparent.
    """
    lines = [f"POST {target.path} HTTP/1.1\r\nhost: {target.authority}"]
    lines.append(f"Prefer: reply\r\nKn-Namespace: {namespace}")
    # One search for all of them: hardly an event has one that must not go.
    if _NOT_IN_HEADERS.search("".join(event.attributes.values())):
        for name, value in event.attributes.items():
            if _NOT_IN_HEADERS.search(value):
                raise UnsendableEvent(f"ce-{name} of {event.attributes['id']!r}")
    lines += [f"ce-{name}: {value}" for name, value in event.attributes.items()]
    if event.content_type is not None:
        if _NOT_IN_HEADERS.search(event.content_type):
            raise UnsendableEvent(f"content-type of {event.attributes['id']!r}")
        lines.append(f"content-type: {event.content_type}")
    # A tombstone is a request with neither a body nor a length; an empty value has length 0.
    if event.body is not None:
        lines.append(f"content-length: {len(event.body)}")
    lines += [f"{name}: {value}" for name, value in further]
    return _to_wire("\r\n".join(lines) + "\r\n\r\n")


_NOT_IN_HEADERS = re.compile(r"[\x00\x0b\x0c\r\n]")
_BEYOND_UTF16_UNITS = re.compile(r"[\U00010000-\U0010ffff]")


def _to_wire(head: str) -> bytes:
    """Encode one byte per character, `?` for a UTF-16 unit above U+00FF; nothing is escaped."""
    if head.isascii():
        return head.encode("ascii")
    return _BEYOND_UTF16_UNITS.sub("??", head).encode("latin-1", "replace")


def child_traceparent(headers: Sequence[RecordHeader], span_id: str) -> list[tuple[str, str]]:
    """Return the trace headers of a request: the record's trace continues, none is started.

    `span_id` is 16 hexadecimal digits, new for each request.
    """
    trace = {name: _text(value) for name, value in headers if name in _TRACE_HEADERS}
    match = _TRACEPARENT.fullmatch(trace.get("traceparent", ""))
    if match is None:
        return []
    child = [("traceparent", f"00-{match['trace']}-{span_id}-{match['flags']}")]
    tracestate = trace.get("tracestate", "")
    if tracestate and not _NOT_IN_HEADERS.search(tracestate):
        child.append(("tracestate", tracestate))
    return child


_TRACE_HEADERS = frozenset({"traceparent", "tracestate"})
_TRACEPARENT = re.compile(
    r"00-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})"
)


# --- from answer to decision ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOptions:
    """`spec.delivery` of the source: `retry` counts the requests after the first."""

    retry: int
    backoff_policy: Literal["exponential", "linear"]
    backoff_delay_ms: int
    timeout_ms: int


# Without `spec.delivery`, the control plane fills these in. A bad event then blocks an ordered
# partition for about 614 s: 0.3 s x (2 + 4 + ... + 1024).
DELIVERY_DEFAULT = DeliveryOptions(
    retry=10, backoff_policy="exponential", backoff_delay_ms=300, timeout_ms=600_000
)
# With a `spec.delivery` that says anything at all, what it leaves out is this instead.
DELIVERY_UNSAID = DeliveryOptions(
    retry=0, backoff_policy="exponential", backoff_delay_ms=0, timeout_ms=600_000
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a sink answered. `body` is cut after its first ERROR_DATA_BYTES_MAX bytes."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A status below 300: the record is done. What the answer says is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAfter:
    """The same request again, after this delay."""

    delay_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """To the dead letter sink, with what the last answer was; None: there was none to tell of."""

    answer: Answer | None


Decision = Delivered | RetryAfter | GivenUp


def is_retried(status: int) -> bool:
    """Return whether a failure's status is retried. Others go straight to the dead letter sink."""
    return status >= HTTP_SERVER_ERROR or status in _RETRIED


_RETRIED = frozenset({404, 408, 409, 429})


def decide(options: DeliveryOptions, retries: int, answer: Answer | None) -> Decision:
    """Decide what follows an attempt after `retries`; None is a failure below HTTP."""
    if answer is not None and answer.status < HTTP_REDIRECTION:
        return Delivered()
    if retries >= options.retry or not (answer is None or is_retried(answer.status)):
        return GivenUp(answer=answer)
    delay_ms = backoff_ms(options, retries + 1)
    if delay_ms < 1:
        # The dispatcher's timer refuses a delay of zero, and the refusal takes the answer's place:
        # without a backoff delay nothing is retried, and the dead letter names no status.
        return GivenUp(answer=None)
    return RetryAfter(delay_ms=delay_ms)


def backoff_ms(options: DeliveryOptions, retry: int) -> int:
    """Return the delay before a retry (1, 2, ...): twice the delay, four times, eight times.

    Not the delay itself first, as Knative's documentation has it for exponential backoff.
    """
    if options.backoff_policy == "linear":
        return options.backoff_delay_ms * retry
    return options.backoff_delay_ms << retry


def dead_letter(event: Event, sink: Target, answer: Answer | None) -> Event:
    """Return the event for the dead letter sink, with the failure in its extensions.

    An answer's header `Kne-foo: x` becomes the extension `foo`. A name that no CloudEvent can have
    is left out; the real dispatcher's record would stay unanswered for good.
    """
    failure = {"knativeerrordest": sink.url}
    if answer is not None:
        failure["knativeerrorcode"] = str(answer.status)
        for name, value in answer.headers:
            extension = name.lower().removeprefix("kne-")
            if extension == name.lower() or extension in _ATTRIBUTES:
                continue
            if extension and not _NOT_IN_NAMES.search(extension):
                failure[extension] = value
        if answer.body:
            cut = answer.body[:ERROR_DATA_BYTES_MAX]
            failure["knativeerrordata"] = base64.b64encode(cut).decode("ascii")
    return replace(event, attributes={**event.attributes, **failure})


# --- from answers to the offset to commit -----------------------------------------------------


class OffsetLedger:
    """Which records of one assigned partition are done, and up to where that may be committed.

    Records are done in any order; only what lies before the first one that is not is committable.
    Kafka's offsets may have gaps (compaction, aborted transactions): the ledger steps over them,
    where the real dispatcher's commits stop for good.
    """

    def __init__(self) -> None:
        self._open: deque[int] = deque()
        self._done: set[int] = set()
        self._next: int | None = None
        self._committed: int | None = None

    def received(self, offset: int) -> None:
        """Take in a record before it is sent; offsets rise."""
        last = self._open[-1] if self._open else (self._next or 0) - 1
        assert offset > last, "offsets of a partition rise"  # noqa: S101 - the caller's error
        self._open.append(offset)

    def done(self, offset: int) -> None:
        """Note that a received record was delivered, dead-lettered or dropped."""
        self._done.add(offset)
        while self._open and self._open[0] in self._done:
            first = self._open.popleft()
            self._done.discard(first)
            self._next = first + 1

    def committable(self) -> int | None:
        """Return the offset of the first unfinished record, unless it is already committed."""
        return None if self._next == self._committed else self._next

    def committed(self, offset: int) -> None:
        """Note what Kafka has."""
        self._committed = offset

    def open_count(self) -> int:
        """Return how many received records are not committable yet."""
        return len(self._open)


# --- durations --------------------------------------------------------------------------------


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds of a duration such as `PT0.3S`; raise ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no ISO 8601 duration")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return round(((days * 24 + hours) * 60 + minutes) * 60_000 + seconds * 1000)


_DURATION = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,4})D)?(?:T(?=\d)(?:(\d{1,4})H)?(?:(\d{1,6})M)?(?:(\d{1,8}(?:\.\d{1,3})?)S)?)?",
    re.ASCII,
)
