"""How a command starts, shows its results and ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperGroup

from saldo.operate.errors import CommandError
from saldo.project.errors import RebuildRefused
from saldo.serve.database import DRIVER_ERRORS
from saldo.serve.settings import BadSetting

FAILED = 1
USAGE = 2
INTERRUPTED = 130
PIPE = "-"
REPEATABLE = "interrupted: run the same command again, nothing is done twice"

Command = TypeVar("Command", bound=Callable[..., Any])
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
OutputFile = Annotated[Path, typer.Argument(help="- is standard output.", allow_dash=True)]

# Standard output holds results only, so that it can be piped.
notes = Console(stderr=True, highlight=False)
results = Console(highlight=False)


class Commands(TyperGroup):
    """A group of commands. An expected failure becomes one line and an exit status here."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, RebuildRefused) as error:
            fail(str(error), code=getattr(error, "exit_status", FAILED))
        except BadSetting as error:
            fail(str(error), code=USAGE)
        except BrokenPipeError:
            raise  # the reader of standard output has enough: typer ends quietly
        except DRIVER_ERRORS as error:
            file = error.filename if isinstance(error, OSError) else None
            fail(f"{file or 'the database'}: {str(error) or type(error).__name__}")
        except KafkaException as error:
            fail(f"Kafka: {error.args[0]}")


class App(typer.Typer):
    """A group whose commands may be coroutines and take options as dataclasses.

    Each field of such a parameter is an option.
    """

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Command], Command]:
        def register(command: Command) -> Command:
            super(App, self).command(name, **settings)(_adapted(command))
            return command

        return register


def _adapted(command: Callable[..., Any]) -> Callable[..., None]:
    """Return ``command`` as typer takes it."""
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters += inspect.signature(groups[name], eval_str=True).parameters.values()
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def adapted(**given: Any) -> None:
        for name, group in groups.items():
            fields = inspect.signature(group).parameters
            given[name] = group(**{field: given.pop(field) for field in fields})
        result = command(**given)
        if inspect.iscoroutine(result):
            try:
                asyncio.run(result)
            except KeyboardInterrupt:
                fail(REPEATABLE, code=INTERRUPTED)

    adapted.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters, key=lambda each: each.kind)
    )
    adapted.__annotations__ = {each.name: each.annotation for each in parameters}
    return adapted


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
    result: object, shown: str | Callable[[], None], *, as_json: bool, failed: bool = False
) -> None:
    """Print ``result`` as JSON for a script, else what is ``shown``. Exit 1 if it ``failed``."""
    if as_json:
        print_json(result)
    elif isinstance(shown, str):
        results.print(shown, soft_wrap=True)
    else:
        shown()
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
    results.print(table)


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
