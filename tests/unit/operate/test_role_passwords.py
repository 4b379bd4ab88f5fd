"""The passwords of the functions' roles as `saldo migrate` reads them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from saldo.operate.role_passwords import read_role_passwords, scram_verifier
from saldo.serve.settings import BadSetting

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct-horse-battery"  # noqa: S105 - the test's own


def test_a_password_is_read_from_environment_or_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    found = read_role_passwords(
        {"ROLE_PASSWORD_RECORD": "x" * 16, "ROLE_PASSWORD_QUERY_FILE": str(file)}
    )
    assert found == {"saldo_record": "x" * 16, "saldo_query": PASSWORD}


def test_no_password_is_required() -> None:
    """Locally the socket's permissions decide, in AWS it is IAM."""
    assert read_role_passwords({}) == {}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"ROLE_PASSWORD_RECORD": "short"},
            "ROLE_PASSWORD_RECORD must have at least 16 characters",
        ),
        ({"ROLE_PASSWORD_RECORD": "é" * 20}, "ROLE_PASSWORD_RECORD must be printable ASCII"),
        ({"ROLE_PASSWORD_RECORD": "a\nb" * 20}, "ROLE_PASSWORD_RECORD must be printable ASCII"),
        (
            {"ROLE_PASSWORD_RECORD_FILE": "/nowhere/password"},
            "ROLE_PASSWORD_RECORD_FILE cannot be read: No such file or directory",
        ),
        (
            {"ROLE_PASSWORD_RECORD": PASSWORD, "ROLE_PASSWORD_RECORD_FILE": "/nowhere"},
            "ROLE_PASSWORD_RECORD is set, and ROLE_PASSWORD_RECORD_FILE too",
        ),
    ],
)
def test_a_bad_password_is_refused_with_its_setting(environ: dict[str, str], message: str) -> None:
    """By the setting's name, and never with the password."""
    with pytest.raises(BadSetting) as raised:
        read_role_passwords(environ)
    assert str(raised.value) == message


def test_the_verifier_matches_rfc_7677() -> None:
    """Its example: user "user", password "pencil", and a salt; the keys follow from them."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    verifier = scram_verifier("pencil", salt)
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_two_verifiers_of_a_password_differ() -> None:
    assert scram_verifier(PASSWORD) != scram_verifier(PASSWORD)
