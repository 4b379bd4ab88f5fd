"""The terminal: tables and bars for a person, JSON for a script, and how a command ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from uuid import UUID

import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperGroup

from saldo.operate.errors import CommandError
from saldo.project.rebuild import RebuildRefused
from saldo.serve.database import DRIVER_ERRORS
from saldo.serve.settings import BadSetting

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO, TypeVar

    Result = TypeVar("Result")

FAILED = 1
USAGE = 2
INTERRUPTED = 130
PIPE = "-"

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]

# Standard output holds results only, so that it can be piped.
notes = Console(stderr=True, highlight=False)
answers = Console(highlight=False)


class Commands(TyperGroup):
    """All commands. The one place where an expected failure becomes a line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            fail(str(error), code=error.exit_status)
        except RebuildRefused as error:
            fail(str(error))
        except BadSetting as error:
            fail(str(error), code=USAGE)
        except BrokenPipeError:
            raise  # the reader of standard output has enough: typer ends quietly
        except DRIVER_ERRORS as error:
            file = error.filename if isinstance(error, OSError) else None
            fail(f"{file or 'the database'}: {str(error) or type(error).__name__}")
        except KafkaException as error:
            fail(f"Kafka: {error.args[0]}")


def run(work: Coroutine[Any, Any, Result], *, resumes: str = "") -> Result:
    """Run ``work``. On Ctrl-C, say ``resumes``: how to go on."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        fail("; ".join(filter(None, ("interrupted", resumes))), code=INTERRUPTED)


def fail(message: str, *, code: int = FAILED) -> NoReturn:
    """End the command with one line on standard error."""
    notes.print(f"saldo: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def progress_bar(title: str, *, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error, none for scripts and pipes. Yield its update(done, total)."""
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


def respond(result: object, show: Callable[[], None], *, as_json: bool) -> None:
    """Print ``result`` as JSON for a script; else let ``show`` print it for a person."""
    if as_json:
        print_json(result)
    else:
        show()


def print_json(result: object) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(result, default=_plain, ensure_ascii=False) + "\n")


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


@contextlib.contextmanager
def opened(file: Path) -> Iterator[TextIO]:
    """Open a file to read; - is standard input."""
    if str(file) == PIPE:
        yield sys.stdin
        return
    with file.open() as lines:
        yield lines
