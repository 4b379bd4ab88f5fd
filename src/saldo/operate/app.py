"""Typer as Saldo's commands use it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, TypeVar

import typer
from confluent_kafka import KafkaException
from typer.core import TyperGroup

from saldo.operate.errors import CommandError
from saldo.operate.terminal import FAILED, INTERRUPTED, USAGE, fail
from saldo.project.rebuild import RebuildRefused
from saldo.serve.database import DRIVER_ERRORS
from saldo.serve.settings import BadSetting

Command = TypeVar("Command", bound=Callable[..., Any])

REPEATABLE = "interrupted: run the same command again, nothing is done twice"


class Commands(TyperGroup):
    """A group of commands. An expected failure becomes one line and an exit status here."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            fail(str(error), code=error.exit_status)
        except RebuildRefused as error:
            fail(str(error), code=FAILED)
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
