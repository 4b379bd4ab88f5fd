"""The report as one HTML file: no script, no font and no picture from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from benchmarks.charts import STYLE, Line, bar_chart, line_chart
from benchmarks.report import beside_text, bound_text, number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.figures import Row
    from benchmarks.report import Report


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def bench_page(report: Report) -> str:
    """The page of one run of the benchmark."""
    met = sum(row.met for row in report.rows)
    rows = "\n".join(_row(row) for row in report.rows)
    table = (
        "<table><thead><tr><th>figure</th><th>measured</th><th>limit</th><th>median</th>"
        "<th>rounds, and what is to reach</th><th>to reach</th><th></th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    about = (
        f"<p>{met} of {len(report.rows)} figures are met. Commit {escape(report.commit)}, "
        f"{escape(report.taken_at)}. Each dot is one round; the bar is their median; the line is "
        "what is to reach.</p>"
    )
    return document(
        "Saldo against its limits",
        [
            about,
            table,
            "<h2>Where it was measured</h2>",
            facts(report.machine),
            "<h2>How long</h2>",
            facts(report.effort),
        ],
    )


def facts(values: dict[str, object]) -> str:
    """Names and values as a list."""
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>"


def _row(row: Row) -> str:
    figure = row.figure
    unit = figure.judged_unit()
    beside = beside_text(row)
    limit = (
        ""
        if row.limit is None or figure.limit is None
        else f"{number(row.limit, figure.unit)}<small>{escape(figure.limit)}</small>"
    )
    chart = bar_chart(
        [each.judged for each in row.rounds],
        median=row.median,
        bound=figure.bound,
        met=row.met,
        label=f"{figure.title}: {number(row.median, unit)}, to reach {bound_text(figure)}",
    )
    verdict = "met" if row.met else "not met"
    return (
        f"<tr><td>{escape(figure.title)}{f'<small>{escape(beside)}</small>' if beside else ''}</td>"
        f"<td>{number(row.measured, figure.unit)}</td><td>{limit}</td>"
        f"<td><b>{number(row.median, unit)}</b></td><td>{chart}</td>"
        f"<td>{escape(bound_text(figure))}</td>"
        f'<td class="{"met" if row.met else "missed"}">{verdict}</td></tr>'
    )


def curves_page(
    title: str,
    about: str,
    curves: list[tuple[str, str, str, list[Line]]],
    machine: dict[str, object],
) -> str:
    """A page of line charts: of each its title, where it is from, its x axis, and its lines."""
    parts = [f"<p>{escape(about)}</p>"]
    for name, origin, axis, lines in curves:
        parts += [f"<h2>{escape(name)}</h2>", f"<p>{escape(origin)}</p>"]
        parts += [line_chart(line, axis=axis) for line in lines]
    parts += ["<h2>Where it was measured</h2>", facts(machine)]
    return document(title, parts)
