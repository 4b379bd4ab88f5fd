"""The terminal: tables and progress bars for a person, JSON for a script."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

FAILED = 1
USAGE = 2
INTERRUPTED = 130
PIPE = "-"

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]

# Standard output holds results only, so that it can be piped.
notes = Console(stderr=True, highlight=False)
answers = Console(highlight=False)


def fail(message: str, *, code: int = FAILED) -> NoReturn:
    """End the command with one line on standard error."""
    notes.print(f"saldo: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def progress_bar(title: str, *, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error, none for scripts and pipes. Yield its update(done, total)."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = as_json or not notes.is_terminal
    with Progress(*columns, console=notes, transient=True, disable=hidden) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def respond(
    result: object, show: Callable[[], None], *, as_json: bool, failed: bool = False
) -> None:
    """Print ``result`` as JSON for a script, else by ``show``. Exit 1 if it ``failed``."""
    if as_json:
        print_json(result)
    else:
        show()
    if failed:
        raise typer.Exit(FAILED)


def print_json(result: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(result, default=_plain, ensure_ascii=False) + "\n")


def json_line(members: dict[str, Any]) -> str:
    """Return a line of NDJSON without spaces, bytes in hex."""
    return json.dumps(members, default=_plain, ensure_ascii=False, separators=(",", ":")) + "\n"


def _plain(value: Any) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table on standard output, numbers to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        right = column in {"value", "balance", "position", "behind", "count"}
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    answers.print(table)


@contextlib.contextmanager
def written(file: Path) -> Iterator[TextIO]:
    """Write a file that is replaced only when it is whole; - is standard output."""
    if str(file) == PIPE:
        yield sys.stdout
        return
    unfinished = file.with_name(file.name + ".new")
    with unfinished.open("w") as out:
        yield out
    unfinished.replace(file)


def opened(file: Path) -> contextlib.AbstractContextManager[TextIO]:
    """Open a file to read; - is standard input."""
    return contextlib.nullcontext(sys.stdin) if str(file) == PIPE else file.open()
