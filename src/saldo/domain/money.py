"""Amounts: integer minor units of an ISO 4217 currency, and their exact decimals for JSON."""

from __future__ import annotations

# A PostgreSQL bigint; amounts and balances both live in one.
MINOR_UNITS_MAX = 2**63 - 1

# ISO 4217 by digits: the active currencies and those that were legal tender since 1999, as a test
# finds them in well-kept packages, whose import would take longer than a function's start. A code's
# digits must never change: amounts are stored in its smallest unit.
_CODES = {
    0: """
ADP BIF BYR CLP DJF ESP GNF ISK ITL JPY KMF KRW MGF PYG RWF TRL UGX UYI VND VUV XAF XOF XPF
""",
    2: """
AED AFA AFN ALL AMD ANG AOA AON AOR ARS ATS AUD AWG AZM AZN BAM BBD BDT BEF BGL BGN BMD BND BOB BOV
BRL BSD BTN BWP BYB BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CSD CUC CUP CVE CYP CZK DEM DKK DOP
DZD ECS EEK EGP ERN ETB EUR FIM FJD FKP FRF GBP GEL GHC GHS GIP GMD GRD GTQ GYD HKD HNL HRK HTG HUF
IDR IEP ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL LTL LUF LVL MAD MCF MDL MGA MKD
MMK MNT MOP MRO MRU MTL MUR MVR MWK MXN MXV MYR MZM MZN NAD NGN NIO NLG NOK NPR NZD PAB PEN PGK PHP
PKR PLN PTE QAR ROL RON RSD RUB SAR SBD SCR SDD SDG SEK SGD SHP SIT SKK SLE SLL SOS SRD SRG SSP STD
STN SVC SYP SZL THB TJR TJS TMM TMT TOP TPE TRY TTD TWD TZS UAH USD USN UYU UZS VEB VED VEF VES WST
XAD XCD XCG YER YUM ZAR ZMK ZMW ZWD ZWG ZWL ZWR
""",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
CURRENCY_DIGITS: dict[str, int] = {
    code: digits for digits, codes in _CODES.items() for code in codes.split()
}


def format_minor(amount_minor: int, currency: str) -> str:
    """Return the exact JSON number: `1000` for whole amounts, else with all digits."""
    digits = CURRENCY_DIGITS[currency]
    if digits == 0:
        return str(amount_minor)
    text = str(amount_minor).zfill(digits + 2 if amount_minor < 0 else digits + 1)
    whole, fraction = text[:-digits], text[-digits:]
    return f"{whole}.{fraction}" if fraction.strip("0") else whole
