"""How the operator's commands speak: tables and bars for a person, JSON for a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from uuid import UUID

import asyncpg
import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from saldo.serve.settings import BadSetting

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

FAILED = 1
USAGE = 2
INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]

# What is no answer goes to standard error, so that standard output can be piped.
notes = Console(stderr=True, highlight=False)
answers = Console(highlight=False)


def run(work: Coroutine[Any, Any, Any], *, resumes: str = "") -> Any:  # noqa: ANN401 - what work returns
    """Run a command; its expected failures end in one line. ``resumes`` is told on Ctrl-C."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        fail(f"interrupted{'; ' if resumes else ''}{resumes}", code=INTERRUPTED)
    except BadSetting as error:
        fail(str(error), code=USAGE)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        fail(f"the database: {str(error) or type(error).__name__}")
    except KafkaException as error:
        fail(f"Kafka: {error.args[0]}")


def fail(message: str, *, code: int = FAILED) -> NoReturn:
    """End with one line on standard error."""
    notes.print(f"saldo: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def progress_bar(title: str, *, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, told (done, in all); none for scripts and pipes."""
    shown = notes.is_terminal and not as_json
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notes, transient=True, disable=not shown) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_json(answer: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(answer, default=_plain, ensure_ascii=False) + "\n")


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; columns that end in a number's name stand to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        right = column in {"value", "balance", "position", "behind", "count"}
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    answers.print(table)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[TextIO]:
    """Open a file to read; - is standard input."""
    if str(file) == "-":
        yield sys.stdin
        return
    with file.open() as lines:
        yield lines
