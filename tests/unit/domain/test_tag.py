"""Tags: what names a state, and what does not."""

from __future__ import annotations

import pytest

from saldo.domain.tag import Tag, read_tag


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("5", Tag(5)),
        ("5-1a2b3c4d5e6f7081", Tag(5, "1a2b3c4d5e6f7081")),
        # The ETag of a suspended balance.
        ("5-1a2b3c4d5e6f7081-blocked", Tag(5, "1a2b3c4d5e6f7081")),
        ("0--blocked", Tag(0)),
        ("5-", None),
        ("5-blocked", None),
        ("5-1a2b", None),
        ("x", None),
    ],
)
def test_tag_of_any_balance_is_read_back(text: str, tag: Tag | None) -> None:
    assert read_tag(text) == tag
