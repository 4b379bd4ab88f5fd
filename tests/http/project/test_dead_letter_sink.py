"""The dead letter sink: every event that KafkaSource gives up on becomes one dead letter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local import postgres
from tests.support.live import fresh

if TYPE_CHECKING:
    from tests.support.live import Live

GIVEN_UP = {
    "specversion": "1.0",
    "source": "/other",
    "type": "some.thing",
    "knativeerrordest": "http://project-balance/",
    "knativeerrorcode": "400",
}
TEXTS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=300)


def park(live: Live, event: dict[str, Any]) -> None:
    answer = live.projector.post(
        "/",
        content=json.dumps(GIVEN_UP | event),
        headers={"content-type": "application/cloudevents+json"},
    )
    assert answer.status_code == 200, answer.text


def letters(live: Live, source: str) -> list[str]:
    """Return the ids of the dead letters of ``source``."""
    found = postgres.run_sql(
        live.database.dsn(),
        "SELECT json_agg(event_id ORDER BY event_id) FROM read_model.dead_letter"
        " WHERE attributes->>'source' = :'source'",
        source=source,
    )
    ids: list[str] = json.loads(found)
    return ids


@pytest.mark.parametrize(
    ("event_id", "parked"),
    [
        ("plain", "plain"),
        ("à la carte", "à la carte"),
        ("a\0b", r"a\u0000b"),
        ("\ud800", r"\ud800"),
        (r"a\u0000b", r"a\\u0000b"),
    ],
    ids=["ASCII", "accents", "NUL", "surrogate", "backslash"],
)
def test_a_dead_letter_is_parked_with_any_id(live: Live, event_id: str, parked: str) -> None:
    source = fresh("/source")
    for _ in range(2):  # delivered twice, parked once
        park(live, {"source": source, "id": event_id})
    assert letters(live, source) == [f"{source} {parked}"]


def test_one_id_from_two_sources_is_two_dead_letters(live: Live) -> None:
    source = fresh("/source")
    for ending, event_id in (("", "a b"), (" a", "b")):
        park(live, {"source": source + ending, "id": event_id})
    assert letters(live, source) == [f"{source} a b"]
    assert letters(live, f"{source} a") == [rf"{source}\u0020a b"]


def test_a_dead_letter_of_our_event_has_its_id(live: Live) -> None:
    event_id = fresh("event")
    park(live, {"source": event_id, "id": event_id, "type": "saldo.transaction.recorded"})
    assert letters(live, event_id) == [event_id]


def test_long_ids_with_a_common_start_are_two_dead_letters(live: Live) -> None:
    source = fresh("/source")
    for end in "ab":
        park(live, {"source": source, "id": "i" * 400 + end})
    first, second = letters(live, source)
    assert first != second
    assert len(first) == len(second) == 255


@settings(max_examples=50)
@given(
    ids=st.lists(TEXTS, min_size=1, max_size=3, unique=True),
    text=TEXTS,
    data=st.recursive(TEXTS, lambda of: st.dictionaries(TEXTS, of, max_size=2), max_leaves=4),
)
def test_no_dead_letter_text_is_lost_or_sent_forever(
    live: Live, ids: list[str], text: str, data: object
) -> None:
    """A sink that answers 500 gets the same letter for ever."""
    source = fresh("/source")
    names = ("subject", "sequence", "knativeerrorcode", "knativeerrordata", "extension")
    for event_id in ids:
        park(
            live,
            dict.fromkeys(names, text)
            | {"source": source, "id": event_id, "data": {"event": data}},
        )
    assert len(letters(live, source)) == len(ids)
