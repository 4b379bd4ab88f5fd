"""The command `python -m tests.reliability.simulation`: `--seeds 1000`, or `--seed 17 --trace`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.reliability.simulation.simulation import again, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.simulation")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print every step")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        chosen.first, chosen.seeds = chosen.seed, 1
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failed = 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        result = simulate(seed)
        counts += result.counts
        if chosen.trace:
            print("\n".join(result.lines))  # noqa: T201
        if chosen.seed is not None:
            print(f"seed {seed}: trace {result.trace_hash}")  # noqa: T201
        if result.wrong:
            failed += 1
            print(f"seed {seed} failed; again: {again(seed)}")  # noqa: T201
            print("\n".join(f"  {each}" for each in result.wrong))  # noqa: T201
    print(f"{chosen.seeds} seeds, {failed} failed, {time.monotonic() - began:.1f} s")  # noqa: T201
    for what, count in sorted(counts.items()):
        print(f"  {what:<28}{count:>9}")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
