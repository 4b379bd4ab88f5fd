"""The command that writes the tables of the committed reports into the documents.

python -m benchmarks.documents
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks import capacity
from benchmarks.curves import as_markdown, read_long
from benchmarks.report import bound_text, number, read_report
from local import services

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.report import Report

PERFORMANCE = services.ROOT / "docs" / "performance.md"
README = services.ROOT / "README.md"
CAPACITY = services.ROOT / "docs" / "capacity.md"


def bench_table(report: Report) -> str:
    """Format the figures of a report as Markdown."""
    lines = ["| figure | measured | limit | ratio | target | |", "|---|---|---|---|---|---|"]
    for row in report.rows:
        figure = row.figure
        spread = f" ({number(row.low)} to {number(row.high)})" if len(row.rounds) > 1 else ""
        limit = "" if row.limit is None else number(row.limit, figure.unit)
        median = number(row.median, figure.judged_unit())
        lines.append(
            f"| {figure.title} | {number(row.measured, figure.unit)} | {limit} | "
            f"{median}{spread} | {bound_text(figure)} | {'met' if row.met else '**not met**'} |"
        )
    lines += [
        "",
        f"Commit {report.commit}, {report.taken_at[:10]}, {report.machine['cores']} cores.",
    ]
    return "\n".join(lines)


def tables() -> dict[Path, dict[str, str]]:
    """Return the tables of each document, by the name of their marks."""
    measured = capacity.read_measured()
    figures = bench_table(read_report(capacity.REPORTS / "bench.json"))
    curves = read_long(capacity.REPORTS / "long.json").curves
    # The README shows the figures where it has the marks for them.
    shown = [PERFORMANCE, *([README] if "<!-- bench -->" in README.read_text() else [])]
    named: dict[Path, dict[str, str]] = {document: {"bench": figures} for document in shown}
    named[PERFORMANCE]["long"] = "\n\n".join(as_markdown(curve) for curve in curves)
    return {
        **named,
        CAPACITY: {
            "measured": capacity.measured_table(measured),
            "plan": capacity.plan_table(measured),
        },
    }


def between_marks(text: str, name: str, table: str) -> str:
    """Return ``text`` with ``table`` between the marks ``name``; ValueError if they are missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the marks of {name} are missing")
    return f"{before}{begin}\n{table}\n\n{end}{after}"


def main() -> int:
    """Write the tables into the documents."""
    for document, named in tables().items():
        text = document.read_text()
        for name, table in named.items():
            text = between_marks(text, name, table)
        document.write_text(text)
        print(f"{document} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
