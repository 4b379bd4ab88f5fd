"""Bank files made for tests: a bank's lines in each format, in overlapping windows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st

from saldo.bank_import.detect import read_statement
from saldo.bank_import.sender import outgoing_lines
from saldo.domain.money import format_minor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from saldo.bank_import.options import ReadingOptions
    from saldo.bank_import.statement import BankStatement

SAMPLES = Path(__file__).parents[1] / "fixtures" / "statements"
BANK_ACCOUNT = "0999/56789"


@dataclass(frozen=True, slots=True)
class BankLine:
    """A line as the bank has it in its books."""

    on: date
    amount_minor: int
    description: str
    reference: str | None = None


def decimal(amount_minor: int, mark: str = ".") -> str:
    """Format an amount with two digits after ``mark``, as banks do."""
    whole, cents = divmod(abs(amount_minor), 100)
    return f"{'-' if amount_minor < 0 else ''}{whole}{mark}{cents:02d}"


def as_ofx(lines: Sequence[BankLine]) -> bytes:
    """Return an OFX file of version 1."""
    body = "".join(
        f"<STMTTRN>\n<TRNTYPE>OTHER\n<DTPOSTED>{line.on:%Y%m%d}120000[-3:BRT]\n"
        f"<TRNAMT>{decimal(line.amount_minor)}\n"
        + (f"<FITID>{line.reference}\n" if line.reference else "")
        + f"<MEMO>{line.description}\n</STMTTRN>\n"
        for line in lines
    )
    bank, account = BANK_ACCOUNT.split("/")
    return (
        "OFXHEADER:100\nDATA:OFXSGML\nVERSION:102\nSECURITY:NONE\nENCODING:UTF-8\nCHARSET:NONE\n"
        "COMPRESSION:NONE\nOLDFILEUID:NONE\nNEWFILEUID:NONE\n\n<OFX><BANKMSGSRSV1><STMTTRNRS>"
        f"<STMTRS><CURDEF>BRL\n<BANKACCTFROM><BANKID>{bank}<ACCTID>{account}</BANKACCTFROM>\n"
        f"<BANKTRANLIST>\n{body}</BANKTRANLIST></STMTRS></STMTTRNRS></BANKMSGSRSV1></OFX>\n"
    ).encode()


def as_csv(lines: Sequence[BankLine]) -> bytes:
    """Return a Brazilian CSV file, in Windows-1252 if it has accents."""
    rows = "".join(
        f"{line.on:%Y-%m-%d};{line.description};{line.reference or ''};"
        f"{decimal(line.amount_minor, ',')}\n"
        for line in lines
    )
    return f"Data;Histórico;Documento;Valor (R$)\n{rows}".encode("cp1252")


def as_mt940(lines: Sequence[BankLine], opening_minor: int = 0) -> bytes:
    """Return an MT940 file that opens with ``opening_minor``."""
    first, last = lines[0].on, lines[-1].on
    closing_minor = opening_minor + sum(line.amount_minor for line in lines)
    body = "".join(
        f":61:{line.on:%y%m%d%m%d}{'D' if line.amount_minor < 0 else 'C'}"
        f"{decimal(abs(line.amount_minor), ',')}NTRFNONREF"
        + (f"//{line.reference}" if line.reference else "")
        + f"\n:86:{line.description}\n"
        for line in lines
    )
    return (
        f":20:X\n:25:{BANK_ACCOUNT}\n:28C:1/1\n"
        f":60F:{_mt940_balance(opening_minor, first)}\n{body}"
        f":62F:{_mt940_balance(closing_minor, last)}\n"
    ).encode()


def _mt940_balance(amount_minor: int, on: date) -> str:
    side = "D" if amount_minor < 0 else "C"
    return f"{side}{on:%y%m%d}BRL{decimal(abs(amount_minor), ',')}"


def as_camt(lines: Sequence[BankLine], opening_minor: int = 0) -> bytes:
    """Return a camt.053 file that opens with ``opening_minor``."""
    closing_minor = opening_minor + sum(line.amount_minor for line in lines)
    entries = "".join(
        f"<Ntry>{_camt_amount(line.amount_minor)}<Sts>BOOK</Sts>"
        f"<BookgDt><Dt>{line.on}</Dt></BookgDt>"
        + (f"<AcctSvcrRef>{line.reference}</AcctSvcrRef>" if line.reference else "")
        + f"<AddtlNtryInf>{line.description}</AddtlNtryInf></Ntry>\n"
        for line in lines
    )
    balances = "".join(
        f"<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp>{_camt_amount(amount_minor)}"
        f"<Dt><Dt>{on}</Dt></Dt></Bal>\n"
        for code, amount_minor, on in (
            ("OPBD", opening_minor, lines[0].on),
            ("CLBD", closing_minor, lines[-1].on),
        )
    )
    return (
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>\n<Stmt>'
        f"<Acct><Id><Othr><Id>{BANK_ACCOUNT}</Id></Othr></Id><Ccy>BRL</Ccy></Acct>\n"
        f"{balances}{entries}</Stmt></BkToCstmrStmt></Document>\n"
    ).encode()


def _camt_amount(amount_minor: int) -> str:
    side = "DBIT" if amount_minor < 0 else "CRDT"
    return f'<Amt Ccy="BRL">{decimal(abs(amount_minor))}</Amt><CdtDbtInd>{side}</CdtDbtInd>'


WRITERS: dict[str, Callable[[Sequence[BankLine]], bytes]] = {
    "ofx": as_ofx,
    "csv": as_csv,
    "mt940": as_mt940,
    "camt": as_camt,
}


def read(content: bytes, options: ReadingOptions | None = None) -> BankStatement:
    """Return the statement in ``content``; a file that does not name its currency is in BRL."""
    return read_statement(content, options, currency_held="BRL")


class Books:
    """What an account holds after imports, by the recorder's rule for keys."""

    def __init__(self) -> None:
        self.by_key: dict[str, bytes] = {}

    def import_files(self, files: Iterable[bytes]) -> None:
        """Import one file after the other."""
        for content in files:
            for line in outgoing_lines(read(content), "wesley", with_opening_balance=False):
                key = line.body.partition(b'"idempotencyKey":"')[2].partition(b'"')[0].decode()
                self.by_key.setdefault(key, line.body)

    def held(self) -> Counter[tuple[str, str, str | None, str | None]]:
        """Count the held lines by day, signed amount, description and reference."""
        found: Counter[tuple[str, str, str | None, str | None]] = Counter()
        for body in self.by_key.values():
            members = json.loads(body)
            sign = "" if members["type"] == "INCOME" else "-"
            reference = members.get("metadata", {}).get("bankReference")
            found[
                members["occurredAt"][:10],
                sign + members["value"],
                members.get("description"),
                reference,
            ] += 1
        return found


def held_by(lines: Iterable[BankLine]) -> Counter[tuple[str, str, str | None, str | None]]:
    """Return the contents of Books that hold exactly ``lines``."""
    return Counter(
        (
            line.on.isoformat(),
            format_minor(line.amount_minor, "BRL"),
            line.description,
            line.reference,
        )
        for line in lines
    )


# By the clock of a busy machine an example may take long, which is no failure.
UNHURRIED = settings(deadline=None, max_examples=60)

# Few days, amounts and descriptions, so that equal lines are the rule and not the exception.
ALIKE_LINES = st.lists(
    st.builds(
        BankLine,
        on=st.dates(min_value=date(2026, 1, 1), max_value=date(2026, 1, 5)),
        amount_minor=st.sampled_from([-450, -450, -1_000, 520_000]),
        description=st.sampled_from(["CAFE DA ESQUINA", "CAFÉ DA ESQUINA", "MERCADO 7"]),
    ),
    min_size=1,
    max_size=30,
).map(lambda lines: sorted(lines, key=lambda line: line.on))


def numbered(lines: Sequence[BankLine]) -> list[BankLine]:
    """Return the lines, each with a bank reference."""
    return [replace(line, reference=f"REF{place:05d}") for place, line in enumerate(lines)]


def windows_of_lines(lines: Sequence[BankLine]) -> st.SearchStrategy[list[list[BankLine]]]:
    """Draw files that may overlap and cut days, and together contain all lines."""
    bounds = st.integers(min_value=0, max_value=len(lines))

    def covered(cuts: list[tuple[int, int]]) -> list[list[BankLine]]:
        middle = min((min(cut) for cut in cuts), default=0)
        windows = [list(lines[min(cut) : max(cut)]) for cut in cuts]
        return [each for each in [*windows, list(lines[:middle]), list(lines[middle:])] if each]

    return st.lists(st.tuples(bounds, bounds), max_size=4).map(covered)


def windows_of_days(lines: Sequence[BankLine]) -> st.SearchStrategy[list[list[BankLine]]]:
    """Draw files of whole days that may overlap, and together contain all lines."""
    days = sorted({line.on for line in lines})
    bounds = st.integers(min_value=0, max_value=len(days))

    def of_days(first: int, after: int) -> list[BankLine]:
        wanted = days[first:after]
        return [line for line in lines if line.on in wanted]

    def covered(cuts: list[tuple[int, int]]) -> list[list[BankLine]]:
        middle = min((min(cut) for cut in cuts), default=0)
        windows = [of_days(min(cut), max(cut)) for cut in cuts]
        whole = [*windows, of_days(0, middle), of_days(middle, len(days))]
        return [each for each in whole if each]

    return st.lists(st.tuples(bounds, bounds), max_size=4).map(covered)
