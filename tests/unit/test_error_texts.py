"""The texts of all error classes: sentences with their values, never Python tuples."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from uuid import UUID

import pytest

import saldo
from saldo.bank_import.errors import (
    CurrencyUnknownError,
    ImportFailedError,
    StatementError,
)
from saldo.domain import errors
from saldo.domain.tag import Tag
from saldo.operate.verification.findings import FaultError
from saldo.project.errors import ReadModelRefused
from saldo.query.errors import ProjectionBehind
from saldo.record.errors import Contradicted, LinesRefused, OutcomeUnknown
from saldo.serve.http.problems import (
    INTERNAL,
    FieldError,
    Invalid,
    Problem,
    problem_response,
)
from saldo.serve.settings import BadSetting

WHICH = UUID("019ab3f2-7b1e-7c3a-9d55-0f6a3c1b2d4e")
ID = str(WHICH)
# One of each class that is made of values, and the words that its sentence must hold.
SAMPLES: list[tuple[Exception, tuple[str, ...]]] = [
    (errors.AlreadyReversed(reversed_by=WHICH), (ID,)),
    (errors.BalanceOutOfRange(position=41), ("41",)),
    (errors.CurrencyMismatch(stated="USD", held="BRL"), ("USD", "BRL")),
    (
        errors.InsufficientFunds(
            balance_minor=-1050, limit_minor=2000, currency="BRL", position=41
        ),
        ("-10.50", "20", "BRL", "41"),
    ),
    (
        errors.PositionConflict(
            expected=Tag(7, "1a2b3c4d5e6f7081"), position=7, state_hash=bytes(32)
        ),
        ("7-1a2b3c4d5e6f7081", "7-0000000000000000"),
    ),
    (errors.TooManyDigits(currency="BRL", digits=2), ("BRL", "2")),
    (BadSetting("AUTH", "is missing"), ("AUTH", "is missing")),
    (Contradicted("stream_position"), ("stream_position",)),
    (CurrencyUnknownError("give --currency", number=41), ("give --currency", "41")),
    (ImportFailedError("a.csv: line 41: it is empty", line=41), ("line 41: it is empty",)),
    (Invalid([FieldError("value", "is missing")]), ("value is missing",)),
    (LinesRefused([(41, errors.NotReversible())]), ("41",)),
    (OutcomeUnknown(transaction_id=WHICH), (ID,)),
    (Problem(INTERNAL, "The error was logged."), ("The error was logged.",)),
    (ProjectionBehind(position=7, wanted=41), ("7", "41")),
    (ProjectionBehind(position=0), ()),
    (ReadModelRefused("statement_pkey"), ("statement_pkey",)),
    (StatementError("it is empty", number=41), ("it is empty", "41")),
    (FaultError("event", "hash", "it is another"), ("event", "hash", "it is another")),
]


def error_classes() -> set[type[Exception]]:
    """Yield every exception class that a module of the library defines."""
    return {
        each
        for module in pkgutil.walk_packages(saldo.__path__, "saldo.")
        if not module.name.endswith("__main__")
        for each in vars(importlib.import_module(module.name)).values()
        if inspect.isclass(each) and issubclass(each, Exception) and each.__module__ == module.name
    }


def has_values(each: type[Exception]) -> bool:
    """Return whether it has values: it defines its own constructor."""
    return inspect.isfunction(each.__init__)


def test_every_error_class_with_values_has_a_sample() -> None:
    classes = error_classes()
    assert len(classes) > 40
    assert {type(error) for error, _ in SAMPLES} == {each for each in classes if has_values(each)}


@pytest.mark.parametrize(
    ("error", "words"), SAMPLES, ids=[type(error).__name__ for error, _ in SAMPLES]
)
def test_error_message_includes_its_values(error: Exception, words: tuple[str, ...]) -> None:
    sentence = errors.detail_of(error)
    assert [word for word in words if word not in sentence] == []
    assert " " in sentence
    # No repr of a value.
    assert re.search(r"\('|\w\(|\[|None|'[^' ]*', ", sentence) is None
    assert str(error) in {sentence, ""}


@pytest.mark.parametrize(
    "each",
    sorted((each for each in error_classes() if not has_values(each)), key=str),
    ids=lambda each: each.__name__,
)
def test_error_without_values_shows_its_docstring(each: type[Exception]) -> None:
    sentence = errors.detail_of(each())
    assert sentence
    assert sentence == (each.__doc__ or "").partition("\n")[0]


def test_detail_with_an_unpaired_surrogate_is_sent() -> None:
    """A structured CloudEvent's type can hold one, and the projector's refusal repeats it."""
    response = problem_response(Problem(INTERNAL, "the type \ud800 is not known"), {})
    assert response is not None
    assert b"the type ? is not known" in bytes(response.body)
