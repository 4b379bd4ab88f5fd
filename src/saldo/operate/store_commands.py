"""The commands that work on the databases themselves: verify, rebuild, export, restore, redrive."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID  # noqa: TC003 - as above

import typer

from saldo.operate.heads import BadHeads, compare_heads, write_heads
from saldo.operate.redrive import DeadLetters, NotRedriven, Redriven
from saldo.operate.settings import open_operator_pool, read_operator_settings
from saldo.operate.streams import BadStreams, Moved, export_streams, restore_streams
from saldo.operate.terminal import (
    FAILED,
    USAGE,
    AsJson,
    answers,
    fail,
    notes,
    opened,
    print_json,
    print_table,
    progress_bar,
    run,
)
from saldo.operate.verification.run import Report, Snapshots, verify, workers_default
from saldo.operate.verification.topic import TopicReport, check_topic
from saldo.project.rebuild import Rebuild, RebuildRefused, Rebuilt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SHOWN_MAX = 50

dead_letters = typer.Typer(no_args_is_help=True, help="Events that were given up on.")


def verify_command(  # noqa: PLR0913 - a command line has one parameter for each option
    *,
    workers: Annotated[int, typer.Option(min=0, help="Processes; default: one a CPU.")] = 0,
    heads: Annotated[
        Path | None, typer.Option(help="Write signed heads here, if nothing is wrong.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with heads that were written before.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Key of the heads: a secret in hex, or an Ed25519 key in PEM."),
    ] = None,
    topic: Annotated[
        bool, typer.Option(help="Walk the topic too; needs KAFKA_BOOTSTRAP_SERVERS.")
    ] = False,
    restored_at: Annotated[
        datetime | None,
        typer.Option(help="When the event store was restored: older records may be lost to it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Walk all chains, balances, statements and the outbox; exit 1 if anything is wrong."""
    if (heads or against) and key is None:
        fail("--heads and --against need --key", code=USAGE)
    try:
        answer: _Verified = run(
            _verify(
                workers or workers_default(),
                heads,
                against,
                key,
                restored_at,
                topic=topic,
                as_json=as_json,
            )
        )
    except BadHeads as error:
        fail(str(error))
    report = answer.report
    if as_json:
        print_json(
            {
                "clean": report.clean,
                "counts": report.counts,
                "faults": report.faults,
                "faultsTotal": report.faults_total,
                "ahead": report.ahead,
                "notes": report.notes,
                "topic": answer.topic,
                "seconds": round(answer.seconds, 3),
            }
        )
    else:
        _show_report(answer)
    if not report.clean:
        raise typer.Exit(FAILED)


class _Verified:
    def __init__(self) -> None:
        self.report = Report()
        self.topic: TopicReport | None = None
        self.seconds = 0.0


async def _verify(  # noqa: PLR0913 - the command's options
    workers: int,
    heads: Path | None,
    against: Path | None,
    key: Path | None,
    restored_at: datetime | None,
    *,
    topic: bool,
    as_json: bool,
) -> _Verified:
    settings = read_operator_settings()
    answer = _Verified()
    if topic and settings.kafka is None:
        fail("--topic needs KAFKA_BOOTSTRAP_SERVERS", code=USAGE)

    async def beside(taken: Snapshots, report: Report) -> None:
        if topic and settings.kafka is not None:
            with progress_bar("topic", as_json=as_json) as progress:
                answer.topic = await check_topic(
                    taken.event_store,
                    settings.event_store_url,
                    settings.kafka,
                    progress,
                    restored_at=restored_at
                    and restored_at.replace(tzinfo=restored_at.tzinfo or UTC),
                )
            report.add_faults(answer.topic.faults)
        if against is not None and key is not None:
            with against.open() as lines:
                faults, compared = await compare_heads(taken.event_store, lines, key)
            report.add_faults(faults)
            report.notes.append(f"{compared} signed heads were compared")
        if heads is not None and key is not None:
            if not report.clean:
                report.notes.append("no heads were written: something is wrong")
                return
            unfinished = heads.with_name(heads.name + ".new")
            with unfinished.open("w") as out:
                written = await write_heads(taken.event_store, out, key, taken.now)
            unfinished.replace(heads)
            report.notes.append(f"{written} heads were written to {heads}")

    began = datetime.now(UTC)
    with progress_bar("events", as_json=as_json) as progress:
        answer.report = await verify(settings, workers=workers, progress=progress, beside=beside)
    answer.seconds = (datetime.now(UTC) - began).total_seconds()
    return answer


def _show_report(answer: _Verified) -> None:
    report, counts = answer.report, answer.report.counts
    for fault in report.faults[:SHOWN_MAX]:
        answers.print(f"[red]wrong[/red] {fault.text()}", soft_wrap=True)
    if report.faults_total > SHOWN_MAX:
        answers.print(f"and {report.faults_total - SHOWN_MAX} more: see --json")
    for ahead in report.ahead[:SHOWN_MAX]:
        answers.print(f"[yellow]ahead[/yellow] {ahead.text()}", soft_wrap=True)
    answers.print(
        f"{counts.events} events of {counts.accounts} accounts in {answer.seconds:.1f} s: "
        + ("all right" if report.clean else f"{report.faults_total} wrong")
    )
    for said, count in (
        ("private parts are erased", counts.erased),
        ("of them are still to be erased in the statement", counts.erasures_pending),
        ("accounts lag", counts.lagging_accounts),
        ("positions are not projected yet", counts.lagging_positions),
        ("accounts are blocked", counts.blocked_accounts),
    ):
        if count:
            answers.print(f"{count} {said}")
    if answer.topic is not None:
        topic = answer.topic
        answers.print(f"{topic.records} records on the topic, {topic.repeated} of them repeated")
        if topic.lost_to_restore:
            answers.print(f"{topic.lost_to_restore} records are of events that the restore lost")
    for note in report.notes:
        answers.print(note, soft_wrap=True)


def rebuild_command(
    *,
    accept_differences: Annotated[
        bool, typer.Option(help="Switch although old and new read model differ.")
    ] = False,
    discard: Annotated[
        bool, typer.Option(help="Drop what an interrupted rebuild has left, and do no more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the read model anew from the event store, and switch to it while traffic goes on."""
    try:
        rebuilt: Rebuilt = run(
            _rebuild(accept_differences=accept_differences, discard=discard, as_json=as_json),
            resumes="the same command goes on from here, --discard drops what was done",
        )
    except RebuildRefused as refused:
        fail(str(refused))
    if as_json:
        print_json(rebuilt)
    elif discard:
        answers.print("discarded")
    else:
        for d in rebuilt.differences[:SHOWN_MAX]:
            position = "" if d.position is None else f" position {d.position}"
            answers.print(f"[yellow]differs[/yellow] {d.account_id}{position}: {d.table}")
        answers.print(
            f"{rebuilt.accounts} accounts, {len(rebuilt.differences)} differences: "
            + (
                f"switched in {rebuilt.switch_ms:.0f} ms"
                if rebuilt.switched
                else "not switched. --accept-differences switches to the new read model"
            )
        )
    if not rebuilt.switched and not discard:
        raise typer.Exit(FAILED)


async def _rebuild(*, accept_differences: bool, discard: bool, as_json: bool) -> Rebuilt:
    settings = read_operator_settings()
    async with (
        open_operator_pool(settings.event_store_url) as streams,
        open_operator_pool(settings.read_model_url) as read_model,
    ):
        with progress_bar("accounts", as_json=as_json) as progress:
            rebuild = Rebuild(streams, read_model, progress)
            if discard:
                await rebuild.discard()
                return Rebuilt()
            return await rebuild.run(accept_differences=accept_differences)


def export_command(
    file: Annotated[Path, typer.Argument(help="Where to; - is standard output.", allow_dash=True)],
    *,
    as_json: AsJson = False,
) -> None:
    """Write all event streams as NDJSON, each event with its exact texts and its hash.

    Exit 1 if a restore would refuse some of them; they are written all the same.
    """
    to_pipe = str(file) == "-"

    async def export() -> Moved:
        url = read_operator_settings().event_store_url
        with progress_bar("events", as_json=as_json or to_pipe) as progress:
            if to_pipe:
                return await export_streams(url, sys.stdout, progress)
            unfinished = file.with_name(file.name + ".new")
            with unfinished.open("w") as out:
                moved = await export_streams(url, out, progress)
            unfinished.replace(file)
            return moved

    moved: Moved = run(export(), resumes="nothing was written to the file")
    if as_json and not to_pipe:
        print_json(moved)
    else:
        notes.print(f"{moved.events} events of {moved.accounts} accounts")
        for refused in moved.refused[:SHOWN_MAX]:
            notes.print(f"[red]a restore will refuse[/red] {refused}", soft_wrap=True)
    if moved.refused:
        raise typer.Exit(FAILED)


def restore_command(
    file: Annotated[Path, typer.Argument(help="An export; - is standard input.", allow_dash=True)],
    *,
    outbox: Annotated[bool, typer.Option(help="Publish the restored events again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an export's streams to the event store; what is there already must be the same."""

    async def restore() -> Moved:
        url = read_operator_settings().event_store_url
        with progress_bar("events", as_json=as_json) as progress, opened(file) as lines:
            return await restore_streams(url, lines, lambda n: progress(n, n), outbox=outbox)

    try:
        moved: Moved = run(restore(), resumes="the same command goes on from here")
    except BadStreams as error:
        fail(str(error))
    if as_json:
        print_json(moved)
    else:
        answers.print(
            f"{moved.events} events of {moved.accounts} accounts, "
            f"{moved.present} were there already"
        )
        if moved.events > moved.present:
            answers.print("What was erased since the export is back: `saldo erasures repeat`")


# --- dead letters ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _letters() -> AsyncIterator[DeadLetters]:
    settings = read_operator_settings()
    async with (
        open_operator_pool(settings.event_store_url) as streams,
        open_operator_pool(settings.read_model_url) as read_model,
    ):
        yield DeadLetters(streams, read_model)


@dead_letters.command("list")
def list_letters(
    *,
    redriven: Annotated[bool, typer.Option("--all", help="Those put through, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what waits, the oldest first."""

    async def listed() -> list[dict[str, object]]:
        async with _letters() as letters:
            return [dict(row) for row in await letters.waiting(redriven=redriven)]

    rows: list[dict[str, object]] = run(listed())
    if as_json:
        print_json(rows)
        return
    columns = ("dead_letter_id", "account_id", "position", "reason", "received_at", "redriven_at")
    print_table(columns, [[row[name] for name in columns] for row in rows])


@dead_letters.command("show")
def show_letter(dead_letter_id: UUID) -> None:
    """Show all of one, in JSON."""

    async def shown() -> dict[str, object]:
        async with _letters() as letters:
            return dict(await letters.show(dead_letter_id))

    print_json(_or_fail(lambda: run(shown())))


@dead_letters.command("redrive")
def redrive_letters(
    dead_letter_id: Annotated[UUID | None, typer.Argument(help="One dead letter.")] = None,
    *,
    account: Annotated[str | None, typer.Option(help="All of one account.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every account that waits.")] = False,
    to: Annotated[
        str | None, typer.Option(help="Where to deliver one that is of no account: a URL.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put dead letters through again: each account's stream in its order, nothing twice."""
    if sum((dead_letter_id is not None, account is not None, every)) != 1:
        fail("give a dead letter's id, --account or --all", code=USAGE)

    async def redriven() -> list[Redriven]:
        async with _letters() as letters:
            if dead_letter_id is not None:
                one = await letters.redrive(dead_letter_id, to=to)
                return [] if one is None else [one]
            accounts = [account] if account is not None else await letters.accounts()
            return [await letters.redrive_account(each) for each in accounts]

    done: list[Redriven] = _or_fail(
        lambda: run(redriven(), resumes="the same command goes on from here")
    )
    if as_json:
        print_json(done)
    else:
        for each in done:
            state = "[red]still blocked[/red]" if each.blocked else "caught up"
            answers.print(
                f"{each.account_id}: {state} at position {each.position}, "
                f"{each.projected} events projected, {each.letters} dead letters put through"
            )
        if not done:
            answers.print("delivered" if dead_letter_id is not None else "nothing waits")
    if any(each.blocked for each in done):
        raise typer.Exit(FAILED)


@dead_letters.command("drop")
def drop_letter(dead_letter_id: UUID) -> None:
    """Forget one for good."""

    async def dropped() -> None:
        async with _letters() as letters:
            await letters.drop(dead_letter_id)

    _or_fail(lambda: run(dropped()))
    answers.print("dropped")


def _or_fail(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - what work returns
    try:
        return work()
    except NotRedriven as refused:
        fail(str(refused))
