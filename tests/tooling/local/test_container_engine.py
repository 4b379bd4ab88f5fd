"""The choice of the container engine's client for a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local.containers import engine
from local.preconditions import NotPossible

if TYPE_CHECKING:
    from pathlib import Path


def client(folder: Path, *, version: str, plugin: bool) -> Path:
    """Write a program that behaves as a client of that version without an engine."""
    folder.mkdir()
    file = folder / "docker"
    file.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = buildx ] && exit {0 if plugin else 1}\n'
        f"echo {version}\n"
        "echo 'Cannot connect to the Docker daemon' >&2\n"
        "exit 1\n"
    )
    file.chmod(0o755)
    return file


def test_a_client_without_build_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path / "new", version="28.2.2", plugin=False)
    old = client(tmp_path / "old", version="20.10.24+dfsg1", plugin=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}/new:{tmp_path}/old:/usr/bin:/bin")

    assert engine.building_client() == old


def test_a_new_client_builds_with_its_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = client(tmp_path / "new", version="28.2.2", plugin=True)
    monkeypatch.setenv("PATH", f"{tmp_path}/new:/usr/bin:/bin")

    assert engine.building_client() == new


def test_a_missing_client_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "new", version="28.2.2", plugin=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/new")

    with pytest.raises(NotPossible, match="buildx"):
        engine.building_client()
