"""A function whose wall clock can be set: `python -m tests.reliability.faults.clocked`.

CLOCK_FILE holds the seconds by which the clock is off; the process reads it at every look.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from pathlib import Path
from typing import Any

CLOCK_FILE = Path(os.environ["CLOCK_FILE"])
_datetime = dt.datetime
_time, _time_ns = time.time, time.time_ns


def offset_s() -> float:
    """Return the present offset of the clock in seconds."""
    return float(CLOCK_FILE.read_text())


class _Kind(type):
    """The type of a class that makes plain datetimes and counts them as its instances."""

    def __call__(cls, *args: Any, **kwargs: Any) -> _datetime:
        return _datetime(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)


class SetClock(_datetime, metaclass=_Kind):
    """datetime whose now() looks at the clock that was set."""

    fromisoformat = staticmethod(_datetime.fromisoformat)  # type: ignore[assignment]
    fromtimestamp = staticmethod(_datetime.fromtimestamp)  # type: ignore[assignment]
    strptime = staticmethod(_datetime.strptime)  # type: ignore[assignment]
    combine = staticmethod(_datetime.combine)  # type: ignore[assignment]

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> _datetime:  # type: ignore[override]
        return _datetime.now(tz) + dt.timedelta(seconds=offset_s())


if __name__ == "__main__":
    # Before anything of the product is imported: whichever of its modules looks, looks here.
    time.time = lambda: _time() + offset_s()
    time.time_ns = lambda: _time_ns() + int(offset_s() * 1e9)
    setattr(dt, "datetime", SetClock)  # noqa: B010 - an assignment would not be to its type
    from saldo.serve.__main__ import main

    sys.exit(main())
