"""The coverage figure at the end of `make test`: `python -m local.tasks.coverage_figure FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Print how many lines of src ran in the tests' own processes; always 0."""
    summary = json.loads(Path(sys.argv[1]).read_text())["summary"]
    lines = summary["covered_lines"] + summary["missing_lines"]
    print(
        f"coverage: {summary['percent_covered']:.1f} % of {lines:,} lines of src, "
        "in the tests' own processes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
