"""The documentation builds as a site."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from local.services import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    for page in ("index.html", "ARCHITECTURE/index.html", "how-to/verify/index.html"):
        assert (tmp_path / page).is_file()
