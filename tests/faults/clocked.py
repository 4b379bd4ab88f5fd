"""`python -m tests.faults.clocked`: a function whose wall clock can be set, and nothing else of it.

CLOCK_FILE holds the seconds by which the clock is off; the process reads it at every look.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

from saldo.record import handler
from saldo.serve.__main__ import main

CLOCK_FILE = Path(os.environ["CLOCK_FILE"])
_time = time.time


def offset_s() -> float:
    """By how many seconds the clock is off now."""
    return float(CLOCK_FILE.read_text())


class SetClock(datetime):
    """datetime whose now() looks at the clock that was set."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        now: Self = super().now(tz) + timedelta(seconds=offset_s())
        return now


if __name__ == "__main__":
    time.time = lambda: _time() + offset_s()
    # The one name by which the recorder looks at it.
    setattr(handler, "datetime", SetClock)  # noqa: B010 - an assignment would not be to its type
    sys.exit(main())
