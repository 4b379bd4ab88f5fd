"""`saldo verify`: its options, what it adds to the walk, and its report."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from saldo.operate.checkpoints import compare_checkpoint, write_checkpoint
from saldo.operate.settings import read_operator_settings
from saldo.operate.terminal import (
    USAGE,
    AsJson,
    fail,
    progress_bar,
    respond,
    results,
    written,
)
from saldo.operate.verification.run import Report, check_snapshots, snapshots, workers_default
from saldo.operate.verification.topic import TopicReport, check_topic

SHOWN_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """The options."""

    workers: Annotated[int, typer.Option(min=0, help="Processes; default: one a CPU.")] = 0
    heads: Annotated[
        Path | None, typer.Option(help="Write a signed checkpoint here, if nothing is wrong.")
    ] = None
    against: Annotated[
        Path | None, typer.Option(help="Compare with a checkpoint that was written before.")
    ] = None
    key: Annotated[
        Path | None,
        typer.Option(help="Key of the checkpoint: a secret in hex, or an Ed25519 key in PEM."),
    ] = None
    topic: Annotated[
        bool, typer.Option(help="Walk the topic too; needs KAFKA_BOOTSTRAP_SERVERS.")
    ] = False
    restored_at: Annotated[
        datetime | None,
        typer.Option(help="When the event store was restored: older records may be lost to it."),
    ] = None


async def verify_command(options: VerifyOptions, *, as_json: AsJson = False) -> None:
    """Walk all chains, balances, statements and the outbox; exit 1 if anything is wrong."""
    if (options.heads or options.against) and options.key is None:
        fail("--heads and --against need --key", code=USAGE)
    began = datetime.now(UTC)
    report, topic = await _verify(options, as_json=as_json)
    seconds = (datetime.now(UTC) - began).total_seconds()
    document = {
        "clean": report.clean,
        "counts": report.counts,
        "faults": report.faults,
        "faultsTotal": report.faults_total,
        "clock": report.clock,
        "notes": report.notes,
        "topic": topic,
        "seconds": round(seconds, 3),
    }
    show = functools.partial(_show, report, topic, seconds)
    respond(document, show, as_json=as_json, failed=not report.clean)


async def _verify(options: VerifyOptions, *, as_json: bool) -> tuple[Report, TopicReport | None]:
    settings = read_operator_settings()
    if options.topic and settings.kafka is None:
        fail("--topic needs KAFKA_BOOTSTRAP_SERVERS", code=USAGE)
    topic: TopicReport | None = None
    workers = options.workers or workers_default()
    async with snapshots(settings, workers) as taken:
        with progress_bar("events", as_json=as_json) as progress:
            report = await check_snapshots(taken, workers, progress)
        store = taken.event_store
        if options.topic and settings.kafka is not None:
            restored_at = options.restored_at
            if restored_at is not None and restored_at.tzinfo is None:
                restored_at = restored_at.replace(tzinfo=UTC)
            url = settings.event_store_url
            with progress_bar("topic", as_json=as_json) as progress:
                topic = await check_topic(store, url, settings.kafka, progress, restored_at)
            report.add_faults(topic.faults)
        if options.against is not None and options.key is not None:
            with options.against.open() as lines:
                faults, compared = await compare_checkpoint(store, lines, options.key)
            report.add_faults(faults)
            report.notes.append(f"{compared} accounts were compared with the signed checkpoint")
        if options.heads is not None and not report.clean:
            report.notes.append("no checkpoint was written: something is wrong")
        elif options.heads is not None and options.key is not None:
            with written(options.heads) as out:
                count = await write_checkpoint(store, out, options.key, taken.now)
            report.notes.append(f"a checkpoint of {count} accounts was written to {options.heads}")
    return report, topic


def _show(report: Report, topic: TopicReport | None, seconds: float) -> None:
    counts = report.counts
    for fault in report.faults[:SHOWN_MAX]:
        results.print(f"[red]wrong[/red] {fault.text()}", soft_wrap=True)
    if report.faults_total > SHOWN_MAX:
        results.print(f"and {report.faults_total - SHOWN_MAX} more: see --json")
    for each in report.clock[:SHOWN_MAX]:
        results.print(f"[yellow]clock[/yellow] {each.text()}", soft_wrap=True)
    results.print(
        f"{counts.events} events of {counts.accounts} accounts in {seconds:.1f} s: "
        + ("all right" if report.clean else f"{report.faults_total} wrong")
    )
    for count, what in (
        (counts.erased, "private parts are erased"),
        (counts.erasures_pending, "of them are still to be erased in the statement"),
        (counts.lagging_accounts, "accounts lag"),
        (counts.lagging_positions, "positions are not projected yet"),
        (counts.blocked_accounts, "accounts are blocked"),
    ):
        if count:
            results.print(f"{count} {what}")
    if topic is not None:
        results.print(f"{topic.records} records on the topic, {topic.repeated} of them repeated")
        if topic.lost_to_restore:
            results.print(f"{topic.lost_to_restore} records are of events that the restore lost")
    for note in report.notes:
        results.print(note, soft_wrap=True)
