"""The reference pages that come from the code: `python -m local.tasks.reference_pages`.

docs/settings.md: which settings each function reads, which it needs, and what it takes, by asking
the functions' own reading of them. docs/cli.md: the help of every command.
tests/tooling/docs/test_pages.py fails when a page is not what this makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer
from typer.testing import CliRunner

from local import services
from saldo.cli import app
from saldo.serve.functions import FUNCTIONS
from saldo.serve.settings import BadSetting, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SETTINGS_PAGE = services.ROOT / "docs" / "settings.md"
CLI_PAGE = services.ROOT / "docs" / "cli.md"
HELP_COLUMNS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the code cannot say of a setting: what it is for. ``default`` is what absence means."""

    meaning: str
    default: str | None = None


# In the order of the page.
FUNCTIONS_SETTINGS = {
    "EVENT_STORE_URL": Setting(
        meaning="The event store, as the function's own role: `saldo_record`, `saldo_project` or"
        " `saldo_query`."
    ),
    "READ_MODEL_URL": Setting(
        meaning="The read model, as the same role. It may be another server's."
    ),
    "DATABASE_AUTH": Setting(
        meaning="`url`: the password, if any, is in the URL. `rds-iam`: it is a token that IAM"
        " signs for RDS.",
        default="url",
    ),
    "POOL_SIZE_MAX": Setting(
        meaning="The largest number of connections in each pool of the process. For the total,"
        " multiply by the function's largest number of pods.",
        default="4",
    ),
    "HASH_SECRET": Setting(
        meaning="The secret of the hashes of idempotency keys, and of account ids in logs. Before"
        " you change it, read [Rotate secrets](how-to/rotate-secrets.md)."
    ),
    "AUTH": Setting(
        meaning="`none` allows every request to everybody, so there is no default. With `oidc`"
        " every request needs a bearer token."
    ),
    "OIDC_ISSUER": Setting(meaning="The `iss` of the clients' tokens."),
    "OIDC_AUDIENCE": Setting(meaning="The `aud` of the clients' tokens."),
    "OIDC_JWKS_URL": Setting(meaning="The URL of the issuer's key set."),
    "SINK_ISSUER": Setting(
        meaning="The `iss` of the tokens of KafkaSource and PingSource. record_transaction accepts"
        " sweeps by PingSource only if it is set."
    ),
    "SINK_AUDIENCE": Setting(
        meaning="The `aud` of their tokens. record_transaction needs this and the next two"
        " only with `SINK_ISSUER`."
    ),
    "SINK_JWKS_URL": Setting(meaning="The URL of their issuer's key set."),
    "SINK_SUBJECTS": Setting(
        meaning="The accepted `sub` claims of deliveries, separated by commas."
    ),
    "KAFKA_BOOTSTRAP_SERVERS": Setting(meaning="The brokers as `host:port`, separated by commas."),
    "KAFKA_TOPIC": Setting(meaning="The topic of the transactions.", default="transactions"),
    "KAFKA_SECURITY": Setting(
        meaning="`plaintext` on a laptop; `msk-iam` with the pod's role; or `scram`, SCRAM-SHA-512"
        " over TLS."
    ),
    "KAFKA_USERNAME": Setting(meaning="The SCRAM user."),
    "KAFKA_PASSWORD": Setting(meaning="Its password."),
    "KAFKA_CA_FILE": Setting(
        meaning="A file with the CA certificate of the brokers, if the system does not have it."
    ),
    "AWS_REGION": Setting(meaning="The region for which IAM signs."),
    "DEFAULT_CURRENCY": Setting(
        meaning="The currency of an account whose first transaction does not name one.",
        default="BRL",
    ),
    "CORS_ORIGINS": Setting(
        meaning="Origins whose pages may send requests, separated by commas. None by default."
    ),
    "CONSOLE_RECORD_URL": Setting(
        meaning="The URL of record_transaction for the console in a browser. Without it the"
        " console only reads."
    ),
    "LOG_LEVEL": Setting(meaning="The lowest level that is logged.", default="INFO"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": Setting(
        meaning="The URL of a collector for traces and metrics by OTLP (http/protobuf). Without it"
        " nothing is exported."
    ),
    "OTEL_METRIC_EXPORT_INTERVAL": Setting(
        meaning="Milliseconds between two exports of metrics.", default="60000"
    ),
    "OTEL_TRACES_SAMPLER_ARG": Setting(
        meaning="The share of the traces started here that are sampled, from 0 to 1.",
        default="0.01",
    ),
}

OPERATOR_SETTINGS = {
    "EVENT_STORE_URL": "The event store, as `saldo_operate`; for `migrate`, as the owner.",
    "READ_MODEL_URL": "The read model, in the same role.",
    "DATABASE_AUTH": "As above.",
    "KAFKA_BOOTSTRAP_SERVERS": "Kafka, for `verify --topic` and `status`, with the functions' other"
    " settings of Kafka.",
    "RECORD_URL": "record_transaction (default `http://127.0.0.1:8080`), for the commands of the"
    " ledger and `status`.",
    "BALANCE_URL": "get_balance (default `http://127.0.0.1:8081`), for the same.",
    "PROJECT_URL": "project_balance, for `status`, which asks only the functions whose URL is set.",
    "SALDO_TOKEN": "The bearer token that these commands send.",
    "OIDC_ISSUER": "The issuer in whose name `token` and `issuer` work.",
    "OIDC_AUDIENCE": "The audience of the tokens that `token` makes.",
    "ROLE_PASSWORD_RECORD": "`migrate` gives `saldo_record` this password. With `_FILE` at the end"
    " of the name: the path of a file with it.",
    "ROLE_PASSWORD_PROJECT": "The same for `saldo_project`.",
    "ROLE_PASSWORD_QUERY": "The same for `saldo_query`.",
    "ROLE_PASSWORD_OPERATE": "The same for `saldo_operate`.",
}

LOCAL_SETTINGS = {
    **{f"{each.prefix}_PORT": f"{each.name}'s port, {each.port} by default." for each in FUNCTIONS},
    "KAFKA_PORT": "Kafka's port: 9092 by default if it is free, otherwise another one.",
    "SALDO_CACHE": "The folder of Kafka's jars, shared by all clones on a machine.",
    "DETACH": "`make up DETACH=1` returns once all is up; `make down` stops it.",
}

# One value of each that is read without complaint, with everything switched on.
GOOD = {
    "EVENT_STORE_URL": "postgresql://store/saldo",
    "READ_MODEL_URL": "postgresql://model/saldo",
    "HASH_SECRET": "00" * 32,
    "AUTH": "oidc",
    "OIDC_ISSUER": "https://issuer.example",
    "OIDC_AUDIENCE": "saldo",
    "OIDC_JWKS_URL": "https://issuer.example/keys",
    "SINK_ISSUER": "https://cluster.example",
    "SINK_AUDIENCE": "saldo",
    "SINK_JWKS_URL": "https://cluster.example/keys",
    "SINK_SUBJECTS": "source",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "KAFKA_SECURITY": "scram",
    "KAFKA_USERNAME": "saldo",
    "KAFKA_PASSWORD": "x",
    "AWS_REGION": "eu-west-1",
}
# The choices that decide which others are needed.
VARIANTS = (
    ("AUTH", ("none", "oidc")),
    ("KAFKA_SECURITY", ("plaintext", "msk-iam", "scram")),
)
NONSENSE = "?"

SETTINGS_INTRODUCTION = """\
Settings are environment variables, read once at the start. If one is missing or invalid, the
process does not start, and its first line says which one and why. Empty ones count as missing."""
CLI_INTRODUCTION = """\
Generated from the code by `make reference`; a test checks that it is current.
[Operation](operations.md) and the how-to pages of [the index](README.md) say when to use which.

`saldo --install-completion` sets up completion for your shell. On a laptop the command is
`.venv/bin/saldo`, and `. .saldo/env` puts it on the path and sets the local stack's addresses."""


class Watched(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self.asked.add(name)
        return super().get(name, default)


@dataclass(slots=True)
class Use:
    """How one function uses one setting: in which variants it reads it, and in which needs it."""

    read: list[Mapping[str, str]] = field(default_factory=list)
    needed: list[Mapping[str, str]] = field(default_factory=list)


def environments() -> Iterator[dict[str, str]]:
    """Yield a good environment of each variant."""
    for auth in VARIANTS[0][1]:
        for security in VARIANTS[1][1]:
            yield GOOD | {"AUTH": auth, "KAFKA_SECURITY": security}


def settings_read(function: str, environ: Mapping[str, str]) -> set[str]:
    """Return the names that ``function`` reads from the environment."""
    watched = Watched(environ)
    read_settings(function, watched)
    return watched.asked


def uses(function: str) -> dict[str, Use]:
    """Return how ``function`` uses each setting that it reads."""
    found: dict[str, Use] = {}
    for environ in environments():
        for name in settings_read(function, environ):
            use = found.setdefault(name, Use())
            use.read.append(environ)
            without = {key: value for key, value in environ.items() if key != name}
            if complaint(function, without, name):
                use.needed.append(environ)
    return found


def complaint(function: str, environ: Mapping[str, str], name: str) -> str:
    """Return what the start says of the setting ``name``; empty if it accepts it."""
    try:
        read_settings(function, environ)
    except BadSetting as error:
        if error.name == name:
            return str(error)
    return ""


def cell(use: Use | None, count: int) -> str:
    """Return the page's text of a use: needed, needed under a condition, or read."""
    if use is None:
        return ""
    if not use.needed:
        return "may"
    if len(use.needed) == count:
        return "**must**"
    for name, values in VARIANTS:
        for value in values:
            if all(environ[name] == value for environ in use.needed):
                return f"with `{name}={value}`"
    raise AssertionError(use)


def taken(name: str) -> str:
    """Return what the setting must be, in the words that refuse another value."""
    for function in FUNCTIONS:
        for environ in environments():
            if name in settings_read(function.name, environ):
                said = complaint(function.name, environ | {name: NONSENSE}, name)
                _, must, what = said.partition("must ")
                if must:
                    words = what.removeprefix("be ").replace("start with", "starts with")
                    head, of, choices = words.partition("one of ")
                    listed = ", ".join(f"`{each}`" for each in choices.split(", "))
                    return f"{head}{of}{listed}" if of else words
                _, such_as, example = said.partition(" such as ")
                if such_as:
                    return f"such as `{example}`"
    return "any text"


def settings_page() -> str:
    """Return docs/settings.md."""
    count = len(list(environments()))
    by_function = {function.name: uses(function.name) for function in FUNCTIONS}
    functions = " | ".join(by_function)
    lines = [
        "# Settings",
        "",
        "Generated from the code by `make reference`; a test checks that it is current.",
        "",
        SETTINGS_INTRODUCTION,
        "",
        "## The functions",
        "",
        "**must**: required. may: optional. with ...: required with that other setting.",
        "",
        f"| Setting | {functions} | Value | Default | Meaning |",
        f"|---|{'---|' * len(by_function)}---|---|---|",
    ]
    for name, setting in FUNCTIONS_SETTINGS.items():
        cells = [cell(by_function[f.name].get(name), count) for f in FUNCTIONS]
        default = "" if setting.default is None else f"`{setting.default}`"
        row = [f"`{name}`", *cells, taken(name), default, setting.meaning]
        lines.append(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |"))
    lines += [
        "",
        "## The operator's command",
        "",
        "[The command line](cli.md) describes the commands.",
    ]
    lines[-1] += " An option overrides the setting of the same meaning."
    lines += ["", "| Setting | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in OPERATOR_SETTINGS.items()]
    lines += [
        "",
        "## The local stack",
        "",
        "Variables of `make`, such as `make up RECORD_PORT=9080`.",
    ]
    lines += ["", "| Variable | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in LOCAL_SETTINGS.items()]
    return "\n".join(lines) + "\n"


# --- the command line -------------------------------------------------------------------------


def commands(
    group: typer.core.TyperGroup, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, a group before its commands."""
    for name, command in sorted(group.commands.items()):
        words = (*above, name)
        yield words
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, words)


def help_of(*words: str) -> str:
    """Return what `saldo WORDS --help` prints."""
    env = {"COLUMNS": str(HELP_COLUMNS), "TERM": "dumb", "NO_COLOR": "1"}
    answer = CliRunner().invoke(app, [*words, "--help"], env=env, prog_name="saldo")
    if answer.exit_code != 0:
        raise AssertionError(answer.output)
    lines = [line.rstrip().removeprefix(" ") for line in answer.output.splitlines()]
    return "\n".join(lines).strip("\n")


def cli_page() -> str:
    """Return docs/cli.md."""
    group = typer.main.get_command(app)
    if not isinstance(group, typer.core.TyperGroup):
        raise TypeError(group)
    lines = [
        "# The command line",
        "",
        CLI_INTRODUCTION,
        "",
        "```console",
        help_of(),
        "```",
    ]
    for words in commands(group):
        lines += ["", f"## saldo {' '.join(words)}", "", "```console", help_of(*words), "```"]
    return "\n".join(lines) + "\n"


PAGES = {SETTINGS_PAGE: settings_page, CLI_PAGE: cli_page}


def main() -> None:
    """Write the pages."""
    for path, make in PAGES.items():
        path.write_text(make(), encoding="utf-8")
        print(path.relative_to(services.ROOT))


if __name__ == "__main__":
    main()
