"""Kafka's jars and ports: the checks before a broker starts, and their errors."""

from __future__ import annotations

import fcntl
import hashlib
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from requests import ConnectionError as Unreachable

from local import broker
from local.broker import COORDINATES, LOCK_FILE, BrokerError, Jar, locked_jars, prepare_jars

if TYPE_CHECKING:
    from pathlib import Path

    from jgo.maven import Artifact

DEADLINE_S = 120.0
CONTENT = b"a jar"
JAR = Jar(coordinate="g:a:1", sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(autouse=True)
def one_locked_jar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock JAR alone, and nothing to download it from."""
    monkeypatch.setattr(broker, "locked_jars", lambda: [JAR])
    monkeypatch.setattr("jgo.maven.PythonResolver.download", unreachable)


def unreachable(*_: object) -> Path:
    raise Unreachable


def test_every_jar_is_locked_by_its_hash() -> None:
    """And by nothing that ties it to one place: no host is named."""
    jars = locked_jars()

    assert set(COORDINATES) <= {jar.coordinate for jar in jars}
    assert len({jar.file_name for jar in jars}) == len(jars) > len(COORDINATES)
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in jars)
    assert "://" not in LOCK_FILE.read_text(encoding="utf-8")


def test_a_lock_of_another_kafka_version_is_an_error(tmp_path: Path) -> None:
    """The code's version and the lock's are changed together."""
    lock = tmp_path / "lock.toml"
    lock.write_text('wanted = ["org.apache.kafka:kafka_2.13:1.0.0"]', encoding="utf-8")
    with pytest.raises(BrokerError, match=r"local\.broker lock"):
        locked_jars(lock)


def test_an_existing_jar_is_used(tmp_path: Path) -> None:
    """Without a download."""
    (tmp_path / "a-1.jar").write_bytes(CONTENT)

    assert prepare_jars(tmp_path) == [tmp_path / "a-1.jar"]


def test_a_jar_with_other_bytes_is_one_clear_error(tmp_path: Path) -> None:
    """It says which, and what to do."""
    (tmp_path / "a-1.jar").write_bytes(b"other")
    with pytest.raises(BrokerError, match=r"a-1\.jar is not the jar .* delete it") as raised:
        prepare_jars(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_downloaded_jar_with_other_bytes_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run downloads it again."""
    downloads(monkeypatch, b"other")
    with pytest.raises(BrokerError, match="is not the jar"):
        prepare_jars(tmp_path)
    assert names(tmp_path) == [".lock"]
    downloads(monkeypatch, CONTENT)
    assert prepare_jars(tmp_path) == [tmp_path / "a-1.jar"]
    assert names(tmp_path) == [".lock", "a-1.jar"]


def test_remains_of_a_killed_download_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a jar never has a jar's name."""
    scratch = tmp_path / f"{broker.SCRATCH_PREFIX}killed"
    scratch.mkdir()
    (scratch / "a-1.jar").write_bytes(CONTENT[:2])
    downloads(monkeypatch, CONTENT)

    prepare_jars(tmp_path)

    assert names(tmp_path) == [".lock", "a-1.jar"]


def test_no_network_is_one_clear_error(tmp_path: Path) -> None:
    """It names the jar."""
    with pytest.raises(BrokerError, match=r"cannot download a-1\.jar .*ConnectionError") as raised:
        prepare_jars(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """A full disk is reported in the same way."""
    (tmp_path / "file").touch()
    with pytest.raises(BrokerError, match="Not a directory"):
        prepare_jars(tmp_path / "file" / "jars")


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    """It finds the jars there, and downloads nothing."""
    waits = threading.Event()
    told: list[str] = []

    def progress(line: str) -> None:
        told.append(line)
        waits.set()

    with (tmp_path / ".lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=prepare_jars, args=(tmp_path, progress))
        second.start()
        assert waits.wait(DEADLINE_S)
        (tmp_path / "a-1.jar").write_bytes(CONTENT)
    second.join(DEADLINE_S)

    assert not second.is_alive()
    assert told == ["waiting for another run that prepares Kafka's jars"]


def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    """The controller's too; nothing was started or written by then."""
    (tmp_path / "a-1.jar").write_bytes(CONTENT)
    data_dir = tmp_path / "data"
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        with pytest.raises(BrokerError, match=f"port {port} is in use"):
            broker.start_kafka(data_dir, port, cache_dir=tmp_path)
        with pytest.raises(BrokerError, match=f"port {port} is in use"):
            broker.start_kafka(data_dir, free, controller_port=port, cache_dir=tmp_path)
    assert not data_dir.exists()


def downloads(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let jgo's download give these bytes."""

    def download(_resolver: object, artifact: Artifact) -> Path:
        path = artifact.cached_path
        assert path is not None
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return path

    monkeypatch.setattr("jgo.maven.PythonResolver.download", download)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
