"""Sample files of each format (invented data): read as their banks mean them, or refused."""

from __future__ import annotations

import codecs
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saldo.bank_import.detect import read_statement
from saldo.bank_import.errors import StatementError
from saldo.bank_import.options import Format, ReadingOptions
from tests.support.statement_files import SAMPLES, UNHURRIED, read

if TYPE_CHECKING:
    from saldo.bank_import.statement import BankStatement


def sample(name: str, options: ReadingOptions | None = None) -> BankStatement:
    return read((SAMPLES / name).read_bytes(), options)


Shown = tuple[int, str, int, str, str | None]


def shown(statement: BankStatement) -> list[Shown]:
    return [
        (
            line.number,
            line.occurred_on.isoformat(),
            line.amount_minor,
            line.description,
            line.reference,
        )
        for line in statement.lines
    ]


def balances(statement: BankStatement) -> list[tuple[str, int] | None]:
    return [
        None if each is None else (each.on.isoformat(), each.amount_minor)
        for each in (statement.opening, statement.closing)
    ]


def test_ofx_of_a_brazilian_bank_is_read() -> None:
    """Version 1 without end tags, in Windows-1252, decimal commas, one FITID used twice."""
    statement = sample("checking.ofx")

    assert shown(statement) == [
        (40, "2026-01-05", 520_000, "SALÁRIO PADARIA AURORA LTDA", "20260105001"),
        (48, "2026-01-10", -9_076, "MÓVEIS & CIA PARC 02/05", "20260110007"),
        (55, "2026-01-10", -450, "CAFÉ DA ESQUINA", "20260110008"),
        (62, "2026-01-10", -450, "CAFÉ DA ESQUINA", "20260110008"),
        (76, "2026-01-31", -180_000, "ALUGUEL JANEIRO", "20260131003"),
    ]
    assert balances(statement) == [("2026-01-05", 50_000), ("2026-01-31", 380_024)]
    assert [(each.number, each.reason) for each in statement.left_out] == [
        (69, "the amount is zero")
    ]
    assert (statement.format, statement.bank_account, statement.currency) == (
        "ofx",
        "0999/1234/56789-0",
        "BRL",
    )


def test_ofx_of_a_credit_card_is_read() -> None:
    """Version 2; a correction is not recorded, and the balance is of a later day: both are told."""
    statement = sample("card.ofx")

    assert shown(statement) == [
        (11, "2026-01-03", -123_450, "Books & More, Springfield", "A-1"),
        (13, "2026-01-20", 100_000, "Payment - Thank <you>", "A-2"),
    ]
    assert balances(statement) == [None, ("2026-02-10", -30_000)]
    assert [each.number for each in statement.left_out] == [15]
    assert "lines end on 2026-01-31" in statement.remarks[0]


def test_ofx_of_two_accounts_needs_a_choice() -> None:
    chosen = sample("two_accounts.ofx", ReadingOptions(bank_account="0999/222"))

    assert shown(chosen) == [(21, "2026-01-03", 2_000, "second account", "1")]
    assert balances(chosen) == [("2026-01-03", 500), ("2026-01-31", 2_500)]
    with pytest.raises(StatementError, match=r"--bank-account \(0999/111, 0999/222\)"):
        sample("two_accounts.ofx")


def test_mt940_of_a_german_bank_is_read() -> None:
    """An envelope, two pages, field 86 in its structure and without, a reversed credit."""
    statement = sample("giro.sta")

    assert shown(statement) == [
        (6, "2026-01-02", -4_590, "Stadtwerke Musterstadt GmbH - Strom Januar", "0102CARD01"),
        (10, "2026-01-05", 210_000, "Baeckerei Aurora - Gehalt Januar 2026", "0105SAL001"),
        (12, "2026-01-05", -320, "CAFE ANNA - Cafe Anna", None),
        (14, "2026-01-05", -320, "CAFE ANNA - Cafe Anna", None),
        (23, "2026-01-07", -10_000, "Erika Mustermann - Gutschrift zurueck", "0107RET001"),
        (25, "2026-01-31", 30, "Habenzinsen Januar", "0131INT001"),
    ]
    assert balances(statement) == [("2025-12-31", 150_000), ("2026-01-31", 344_800)]


def test_mt940_across_the_end_of_a_year_is_read() -> None:
    """The entry date has no year; a reference longer than SWIFT allows is kept whole."""
    statement = sample("year_end.sta")

    assert shown(statement) == [
        (6, "2025-12-31", 5_000, "Paid at last", "INVOICE 4711"),
        (
            8,
            "2026-01-02",
            -766,
            "Value date of the old year, booked in the new one",
            "LONGREFERENCE1234567890",
        ),
    ]
    assert balances(statement) == [("2025-12-30", -1_234), ("2026-01-02", 3_000)]


def test_camt_statement_is_read() -> None:
    """Who paid or got it, a batch as one booking, no entry that is only pending."""
    statement = sample("statement.camt.xml")

    assert shown(statement) == [
        (17, "2026-01-10", 50_005, "Bäckerei Aurora AG - Lohn Januar", "AURORA-0001"),
        (29, "2026-01-20", -25_000, "Hausverwaltung Muster - RF18 5390 0754 7034", "RENT-2026-01"),
        (39, "2026-01-21", -1_599, "2 payments", "COLLECTIVE-77"),
    ]
    assert balances(statement) == [("2026-01-01", 100_000), ("2026-01-31", 123_406)]
    assert [each.reason for each in statement.left_out] == ["not booked: its status is PDNG"]
    assert shown(sample("statement_v8.camt.xml")) == shown(statement)[:1]


def test_csv_of_a_brazilian_bank_is_read() -> None:
    """Lines above the header, balances between the transactions, a total, Windows-1252."""
    statement = sample("extrato.csv")

    assert shown(statement) == [
        (7, "2026-01-05", 520_000, "SALÁRIO PADARIA AURORA", "105001"),
        (8, "2026-01-10", -15_000, 'PIX ENVIADO MARIA "MADÁ" SILVA', None),
        (9, "2026-01-10", -450, "CAFÉ DA ESQUINA", None),
        (10, "2026-01-10", -450, "CAFÉ DA ESQUINA", None),
        (12, "2026-01-31", -180_000, "ALUGUEL", "131003"),
    ]
    assert balances(statement) == [("2026-01-05", 100_000), ("2026-01-31", 424_100)]
    assert [each.number for each in statement.left_out] == [6, 11, 14]


def test_csv_with_debit_and_credit_columns_newest_first_is_read() -> None:
    statement = sample("debit_credit.csv")

    assert shown(statement) == [
        (3, "2026-01-05", 520_000, "Salary", None),
        (2, "2026-01-31", -180_000, "Rent, January", None),
    ]
    assert balances(statement) == [("2026-01-05", 0), ("2026-01-31", 340_000)]


def test_csv_with_ids_is_read() -> None:
    assert shown(sample("with_ids.csv")) == [
        (2, "2026-01-05", -3_590, "Compra no débito - Mercado Bom Preço", "65a1b2c3-0001"),
        (3, "2026-01-13", 10_000, "Transferência recebida pelo Pix - João", "65a1b2c3-0002"),
    ]


def test_csv_with_a_debit_or_credit_column_is_read() -> None:
    assert [line.amount_minor for line in sample("sides.csv").lines] == [100_000, -2_055]


def test_csv_with_ambiguous_dates_asks_for_their_order() -> None:
    with pytest.raises(StatementError, match=r"line 2: .*--date-format mdy"):
        sample("american.csv")
    statement = sample("american.csv", ReadingOptions(date_format="mdy"))

    assert [(line.occurred_on, line.amount_minor) for line in statement.lines] == [
        (date(2026, 1, 6), 100_000),
        (date(2026, 2, 1), -1_250),
    ]


def test_csv_with_ambiguous_amounts_asks_for_the_separator() -> None:
    with pytest.raises(StatementError, match=r"line 2: .*--decimal comma"):
        sample("ambiguous_decimal.csv")
    point = sample("ambiguous_decimal.csv", ReadingOptions(decimal="point"))

    assert [line.amount_minor for line in point.lines] == [100_000, -205_500]


def test_csv_without_a_header_accepts_column_numbers() -> None:
    options = ReadingOptions(date_column="1", description_column=["2"], amount_column="3")

    assert shown(sample("no_header.csv", options)) == [
        (1, "2026-01-05", 100_000, "salary", None),
        (2, "2026-01-06", -2_055, "groceries", None),
    ]


def test_csv_accepts_column_names() -> None:
    options = ReadingOptions(
        date_column="transaction date",
        description_column=["Description", "Category"],
        reference_column="Type",
    )

    assert shown(sample("american.csv", options))[0] == (
        3,
        "2026-01-05",
        100_000,
        "PAYROLL - Income",
        "Payment",
    )


def test_csv_without_a_named_column_is_refused() -> None:
    with pytest.raises(StatementError, match=r"no column 'Betrag' for the amount.*Valor"):
        sample("with_ids.csv", ReadingOptions(amount_column="Betrag"))


def test_csv_with_a_debit_column_alone_is_refused() -> None:
    """The other side may go by any name, and all income would be left out."""
    with pytest.raises(StatementError, match="no header was recognised"):
        read(b"date,description,debit,inflow\n2026-01-05,salary,,10.00\n")


def test_csv_without_a_currency_asks_for_it() -> None:
    with pytest.raises(StatementError, match="--currency"):
        read_statement((SAMPLES / "with_ids.csv").read_bytes())


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("broken_amount.ofx", 20, "more digits"),
        ("broken_date.ofx", 20, "DTPOSTED is '20260231'"),
        ("broken_no_amount.ofx", 20, "no TRNAMT"),
        ("broken_open_transaction.ofx", 20, "never closed"),
        ("broken_nesting.ofx", 20, "closes nothing"),
        ("broken_cut_off.ofx", 25, "not complete"),
        ("broken_sum.sta", 7, "do not add up"),
        ("broken_line.sta", 7, "not a statement line"),
        ("broken_day.sta", 7, "not a date"),
        ("broken_balance.sta", 4, "not a balance"),
        ("broken_cut_off.sta", 1, "no field 62F"),
        ("broken_no_start.sta", 1, "before :20:"),
        ("broken_xml.camt.xml", 21, "XML is broken"),
        ("broken_sum.camt.xml", 5, "do not add up"),
        ("broken_amount.camt.xml", 17, "more digits"),
        ("broken_currency.camt.xml", 17, "in 'EUR'"),
        ("report.camt052.xml", 3, "camt.052"),
        ("doctype.camt.xml", 3, "document type"),
        ("broken_amount.csv", 3, "'2O.55' is not an amount"),
        ("broken_digits.csv", 3, "more digits"),
        ("broken_date.csv", 3, "not a date"),
        ("broken_quote.csv", 3, "quote"),
        ("broken_cut_off.csv", 3, "cut off"),
        ("broken_columns.csv", 3, "4 columns where the header has 3"),
        ("broken_no_date.csv", 3, "no date"),
        ("broken_currency.csv", 3, "in USD"),
        ("broken_sides.csv", 2, "both a debit and a credit"),
        ("ambiguous_dates.csv", 2, "--date-format"),
        ("no_columns.csv", None, "no header was recognised"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(name: str, number: int | None, reason: str) -> None:
    with pytest.raises(StatementError) as refused:
        sample(name)

    assert refused.value.number == number
    assert reason in refused.value.reason


DOCTYPES = (
    '<!DOCTYPE Document [<!ENTITY a "aaaa">]>',
    '<!DOCTYPE Document SYSTEM "camt.dtd">',
    f"<!-- {'-  ' * 30_000} --><!DOCTYPE Document [<!ENTITY a 'aaaa'>]>",
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "iso-8859-1"])
@pytest.mark.parametrize("doctype", DOCTYPES, ids=["entity", "external", "behind a long comment"])
@pytest.mark.parametrize(
    ("name", "begins"), [("statement.camt.xml", "<Document"), ("card.ofx", "<OFX>")]
)
def test_a_document_type_is_refused_in_every_encoding(
    name: str, begins: str, doctype: str, encoding: str
) -> None:
    """The text of its entities would vanish from the descriptions."""
    text = (SAMPLES / name).read_text(encoding="utf-8").partition(begins)
    body = f"{text[1]}{text[2]}".replace("Lohn", "&a;")
    content = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n{doctype}\n{body}'
    with pytest.raises(StatementError, match="declares a document type"):
        read(content.encode(encoding, "xmlcharrefreplace"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"\x1f\x8brest", "unpack"),
        (b"date;amount\n2026-01-01;1.00\0", "zero byte"),
        (b"date;amount\n", "no transaction"),
        (b"<Document xmlns='urn:x'/>", "no statement"),
        (b"OFXHEADER:100\n", "no <OFX>"),
        (b"<OFX></OFX>", "no statement of a bank account"),
        (b"<OFX><INVSTMTRS></INVSTMTRS></OFX>", "investment"),
    ],
)
def test_a_file_without_a_statement_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(StatementError, match=reason):
        read(content)


def test_a_currency_other_than_the_requested_one_is_refused() -> None:
    with pytest.raises(StatementError, match="in BRL, not in EUR"):
        sample("checking.ofx", ReadingOptions(currency="EUR"))


@pytest.mark.parametrize("name", ["checking.ofx", "giro.sta", "extrato.csv"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_a_file_is_read_alike_in_every_encoding(name: str, mark: bytes, encoding: str) -> None:
    content = (SAMPLES / name).read_bytes()
    text = content.decode("cp1252")

    assert read(mark + text.encode(encoding)) == read(content)


@pytest.mark.parametrize("name", ["checking.ofx", "giro.sta", "extrato.csv", "statement.camt.xml"])
def test_a_file_is_read_alike_with_every_line_ending(name: str) -> None:
    content = (SAMPLES / name).read_bytes().replace(b"\r\n", b"\n")

    for end in (b"\r\n", b"\r"):
        if end == b"\r" and name.endswith(".xml"):
            continue  # XML itself knows no such line
        assert read(content.replace(b"\n", end)) == read(content)


def test_a_named_encoding_is_used() -> None:
    content = "data;valor;memo\n2026-01-05;1,00;Ł\n".encode("cp1250")

    line = read(content, ReadingOptions(encoding="cp1250")).lines[0]
    assert line.description == "Ł"
    with pytest.raises(StatementError, match=r"line 2: .*--encoding"):
        read(content, ReadingOptions(encoding="utf-8"))


def test_ofx_on_one_line_is_read() -> None:
    content = (SAMPLES / "two_accounts.ofx").read_bytes()
    options = ReadingOptions(bank_account="0999/111")
    lines = read(content, options).lines

    on_one = read(content.replace(b"\n", b" "), options).lines

    assert on_one == [replace(line, number=1) for line in lines]


@UNHURRIED
@given(
    name=st.sampled_from(["checking.ofx", "giro.sta", "statement.camt.xml", "extrato.csv"]),
    data=st.data(),
)
def test_a_damaged_file_is_read_or_refused(name: str, data: st.DataObject) -> None:
    """No other exception is raised for lost, doubled or changed bytes."""
    content = (SAMPLES / name).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 200)))
    damage = data.draw(st.binary(max_size=8) | st.just(content[start:stop] * 2))
    try:
        read(content[:start] + damage + content[stop:])
    except StatementError as error:
        assert error.reason


@UNHURRIED
@given(content=st.binary(max_size=200), format=st.sampled_from([None, *get_args(Format)]))
def test_random_bytes_are_read_or_refused(content: bytes, format: Format | None) -> None:  # noqa: A002 - the option's name
    try:
        read(content, ReadingOptions(format=format))
    except StatementError as error:
        assert error.reason
