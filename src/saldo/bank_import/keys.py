"""Idempotency keys of imported lines, so that what two files share is recorded once.

A line is known by what the bank will say about it in every file that shows it: its reference, day
and amount; or, where the bank gives no reference, its day, amount and description. Neither its
place in the file nor the file itself takes part.

Several lines may be equal in all of that: two coffees on one day. They are numbered, 1, 2, 3, so
a file with two of them has the keys 1 and 2, and a file with three adds the key 3. Hence **of equal
lines of one day the account holds as many as the file that shows most of them**: files may overlap
in any way, and even cut a day, as long as one of them shows the whole of that day.

Two things that suggest themselves are left out on purpose:

- A reference is not trusted alone. Banks use one twice (a batch, a document number, a fee), so day
  and amount stand beside it, and lines that are equal even then are numbered all the same.
- The running balance of a CSV file. Many banks print it on the last line of a day only, or post a
  line to an earlier day later on: the next file then shows other balances beside lines that are
  already recorded, and each of them would be recorded twice. Without it the worst case is the
  opposite and rarer one: two files that cut a day between equal lines, neither showing all of
  them, lack one; the comparison with the closing balance shows it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.bank_import.statement import StatementLine

# One for each account, whatever the file: an opening balance stands for all that was before, so a
# second one would count the same past again.
OPENING_KEY = "import:opening-balance"

# Part of what is hashed: another way of telling lines apart must not meet the keys of this one.
KEY_VERSION = "1"
KEY_DIGEST_BYTES = 20


def idempotency_keys(lines: Sequence[StatementLine]) -> list[str]:
    """Return the key of each line, in their order. Give all lines of a file at once."""
    keys: list[str] = []
    seen: dict[str, int] = {}
    for line in lines:
        day = line.occurred_on.isoformat()
        if line.reference is not None:
            known_by = f"reference\0{line.reference}\0{day}\0{line.amount_minor}"
        else:
            known_by = f"content\0{line.description}\0{day}\0{line.amount_minor}"
        occurrence = seen.get(known_by, 0) + 1
        seen[known_by] = occurrence
        text = f"{KEY_VERSION}\0{known_by}\0{occurrence}"
        digest = hashlib.blake2b(text.encode(), digest_size=KEY_DIGEST_BYTES).hexdigest()
        keys.append(f"import:{digest}")
    return keys
