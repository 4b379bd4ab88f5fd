"""The header `Prefer: wait=S`, read by RFC 7240."""

from __future__ import annotations

from time import process_time

import pytest

from saldo.query.prefer import WAIT_MAX_S, wait_asked_for


@pytest.mark.parametrize(
    "headers",
    [
        ["wait=2"],
        ["Wait=2"],
        ["WAIT=2"],
        ["wait = 2"],
        [" wait\t=\t2 "],
        ['wait="2"'],
        ["wait=02"],
        ["wait=2; foo=bar"],
        ["wait=2;foo"],
        ["respond-async, wait=2"],
        ["respond-async,wait=2,handling=lenient"],
        ["respond-async", "wait=2"],
        ['foo="a, wait=9", wait=2'],
        ['foo="a\\", wait=9, b", wait=2'],
        ['foo=bar; a="wait=9", wait=2'],
        ["wait=2, wait=9"],  # the first counts
        [",, wait=2"],
    ],
)
def test_wait_is_read_in_every_form(headers: list[str]) -> None:
    assert wait_asked_for(headers) == 2


@pytest.mark.parametrize(
    "headers",
    [[], [""], ["wait"], ["wait="], ["wait=x"], ["wait=-1"], ["wait=1.5"], ["wait=\u0662"]]
    + [["wait=1 2"], ["waits=2"], ["foo=wait"], ['foo="wait=2'], ['foo=", wait=2"']],
)
def test_other_preferences_are_ignored(headers: list[str]) -> None:
    assert wait_asked_for(headers) is None


@pytest.mark.parametrize(
    "text", ["31", "1000", "0030", "9" * 5000, "0" * 5000 + "99"], ids=lambda text: text[:5]
)
def test_long_wait_is_clamped(text: str) -> None:
    assert wait_asked_for([f"wait={text}"]) == WAIT_MAX_S


@pytest.mark.parametrize("text", ['"' * 50_000, '"\\' * 30_000, "," * 60_000, '=;"' * 20_000])
def test_hostile_header_is_read_in_linear_time(text: str) -> None:
    began = process_time()
    wait_asked_for([text])
    assert process_time() - began < 0.5
