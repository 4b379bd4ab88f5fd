"""The violations that the checker reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Category = Literal["lost", "doubled", "stale", "wrong"]
# Every name under which the checker reports, and the column of the matrix that counts it.
CATEGORIES: dict[str, Category] = {
    "acknowledged-lost": "lost",
    "refused-for-lost": "lost",
    "not-projected": "lost",
    "not-on-topic": "lost",
    "recorded-twice": "doubled",
    "answers-differ": "doubled",
    "stale-read": "stale",
    "went-back": "stale",
    "order-reversed": "stale",
    "final-changed": "stale",
    "behind-understated": "stale",
    "recorded-back": "wrong",
    "recorded-off": "wrong",
    "occurred-off": "wrong",
    "refused-but-recorded": "wrong",
    "refused-for-another": "wrong",
    "refused-unfounded": "wrong",
    "unasked": "wrong",
    "altered": "wrong",
    "gap": "wrong",
    "chain-broken": "wrong",
    "wrong-balance": "wrong",
    "beyond-the-stream": "wrong",
    "tag-of-another": "wrong",
    "tag-ambiguous": "wrong",
    "expected-another": "wrong",
    "limit-broken": "wrong",
    "sum-differs": "wrong",
    "uncommitted-on-topic": "wrong",
    "outbox-not-empty": "wrong",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something that must not be: its name among CATEGORIES, and what a person needs to find it."""

    name: str
    account_id: str
    detail: str

    @property
    def category(self) -> Category:
        """The column of the matrix that counts it."""
        return CATEGORIES[self.name]
