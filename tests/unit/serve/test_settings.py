"""Settings: a missing or invalid one is named and stops the start."""

from __future__ import annotations

import pytest

from saldo.record.kafka import producer_config
from saldo.serve import functions
from saldo.serve.__main__ import main
from saldo.serve.settings import BadSetting, read_settings

DATABASE = "postgresql://saldo@db/saldo"
FUNCTIONS = [function.name for function in functions.FUNCTIONS]
PLAIN = {
    "EVENT_STORE_URL": DATABASE,
    "READ_MODEL_URL": DATABASE,
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "KAFKA_SECURITY": "plaintext",
    "HASH_SECRET": "5a" * 32,
    "AUTH": "none",
}
OIDC = {
    "AUTH": "oidc",
    **{
        f"{side}_{name}": value
        for side in ("OIDC", "SINK")
        for name, value in [
            ("ISSUER", "https://issuer.example"),
            ("AUDIENCE", "saldo"),
            ("JWKS_URL", "https://issuer.example/keys"),
        ]
    },
    "SINK_SUBJECTS": "system:serviceaccount:saldo:source",
}


def without(*names: str, **more: str) -> dict[str, str]:
    return {name: text for name, text in (PLAIN | more).items() if name not in names}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (function, name)
        for function in FUNCTIONS
        for name in ("EVENT_STORE_URL", "HASH_SECRET", "AUTH")
    ]
    + [("record_transaction", "KAFKA_BOOTSTRAP_SERVERS"), ("record_transaction", "KAFKA_SECURITY")]
    + [("project_balance", "READ_MODEL_URL"), ("get_balance", "READ_MODEL_URL")],
)
@pytest.mark.parametrize("blank", [True, False])
def test_a_missing_setting_is_named(function: str, name: str, *, blank: bool) -> None:
    environ = PLAIN | {name: " "} if blank else without(name)
    with pytest.raises(BadSetting, match=f"^{name} ") as bad:
        read_settings(function, environ)
    assert bad.value.name == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EVENT_STORE_URL", "mysql://x"),
        ("EVENT_STORE_URL", "db"),
        ("HASH_SECRET", "zz" * 32),
        ("HASH_SECRET", "5a" * 31),
        ("AUTH", "None"),
        ("KAFKA_SECURITY", "ssl"),
        ("DATABASE_AUTH", "iam"),
        ("DEFAULT_CURRENCY", "REAL"),
        ("POOL_SIZE_MAX", "1"),
        ("POOL_SIZE_MAX", "51"),
        ("POOL_SIZE_MAX", "four"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_setting_is_named(name: str, text: str) -> None:
    with pytest.raises(BadSetting, match=f"^{name} "):
        read_settings("record_transaction", PLAIN | {name: text})


@pytest.mark.parametrize(
    ("function", "name"),
    [("record_transaction", f"OIDC_{name}") for name in ("ISSUER", "AUDIENCE", "JWKS_URL")]
    + [("get_balance", f"OIDC_{name}") for name in ("ISSUER", "AUDIENCE", "JWKS_URL")]
    + [
        ("project_balance", f"SINK_{name}")
        for name in ("ISSUER", "AUDIENCE", "JWKS_URL", "SUBJECTS")
    ],
)
def test_oidc_needs_every_setting_of_the_issuer(function: str, name: str) -> None:
    environ = PLAIN | OIDC
    del environ[name]
    with pytest.raises(BadSetting, match=f"^{name} "):
        read_settings(function, environ)


@pytest.mark.parametrize(
    "url",
    [
        "record.example",
        "ftp://record.example",
        "https://record.example/?a=1",
        "https://record.example; script-src *",
        "https://user:word@record.example",
        "https://",
    ],
)
def test_a_recorder_url_that_no_page_can_call_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match=r"^CONSOLE_RECORD_URL "):
        read_settings("get_balance", PLAIN | {"CONSOLE_RECORD_URL": url})


def test_the_consoles_recorder_may_have_a_path_or_be_absent() -> None:
    url = "https://bank.example:8443/transaction-service"
    settings = read_settings("get_balance", PLAIN | {"CONSOLE_RECORD_URL": url + "/"})
    assert settings.console_record_url == url
    assert read_settings("get_balance", PLAIN).console_record_url is None


@pytest.mark.parametrize("name", ["KAFKA_USERNAME", "KAFKA_PASSWORD"])
def test_scram_needs_a_name_and_a_password(name: str) -> None:
    scram = {"KAFKA_SECURITY": "scram", "KAFKA_USERNAME": "u", "KAFKA_PASSWORD": "p"}
    with pytest.raises(BadSetting, match=f"^{name} "):
        read_settings("record_transaction", without(name, **scram))


def test_a_ca_file_for_kafka_reaches_the_producer() -> None:
    settings = read_settings("record_transaction", PLAIN | {"KAFKA_CA_FILE": "/etc/kafka/ca.crt"})
    assert settings.kafka is not None
    assert producer_config(settings.kafka)["ssl.ca.location"] == "/etc/kafka/ca.crt"


def test_an_unknown_function_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadSetting, match="get_balance, project_balance, record_transaction"):
        read_settings("nothing", PLAIN)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_requires_only_its_own_settings(function: str) -> None:
    unneeded = {
        "record_transaction": ["READ_MODEL_URL"],
        "project_balance": ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SECURITY"],
        "get_balance": ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SECURITY"],
    }
    settings = read_settings(function, without(*unneeded[function]))
    assert (settings.default_currency, settings.pool_size_max) == ("BRL", 4)
    assert (settings.callers, settings.sources) == (None, None)
    assert (settings.read_model_url is None) == (function == "record_transaction")
    assert (settings.kafka is None) == (function != "record_transaction")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_failed_start_names_the_setting_in_one_line(
    function: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in PLAIN.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("HASH_SECRET")
    assert main(["--function", function, "--port", "1"]) == 2
    assert capsys.readouterr().err == "saldo: HASH_SECRET is missing\n"
