"""The shell blocks of a page, run unchanged.

A page's blocks of ```sh are one script. A comment that begins with a number is the expected status
of the next curl; without one it must succeed.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXPECTED = re.compile(r"# (\d{3})\b")
SUCCESS = "2xx"
TIMEOUT_S = 400
# A wrapped curl: each response's head is kept, and a 503 (the projection lags) is retried
# unless it is what is expected.
PRELUDE = """
set -euo pipefail
count="$ANSWERS/count"
echo 100 > "$count"
curl() {
  local number retry=15
  number=$(($(cat "$count") + 1)); echo "$number" > "$count"
  case " $EXPECTED_503 " in *" $number "*) retry=0;; esac
  command curl -sS --max-time 40 --retry "$retry" --dump-header "$ANSWERS/$number.head" "$@"
}
"""


def blocks(page: Path) -> list[str]:
    """Return the page's shell blocks."""
    found: list[str] = BLOCK.findall(page.read_text(encoding="utf-8"))
    return found


def run(
    script: str, ports: Mapping[int, int], *, folder: Path, cwd: Path, env: Mapping[str, str]
) -> None:
    """Run ``script``, with each port of a page replaced; assert its answers' statuses.

    ``folder`` is an empty one, for the answers.
    """
    for documented, port in ports.items():
        script = script.replace(f"localhost:{documented}", f"127.0.0.1:{port}")
    expected = expected_statuses(script)
    unavailable = [str(101 + at) for at, status in enumerate(expected) if status == "503"]
    done = subprocess.run(
        ["bash", "-c", PRELUDE + script],
        cwd=cwd,
        env={**env, "ANSWERS": str(folder), "EXPECTED_503": " ".join(unavailable)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    heads = sorted(folder.glob("*.head"))
    statuses = [re.findall(r"^HTTP/1.1 (\d{3})", h.read_text(), re.MULTILINE)[-1] for h in heads]
    told = [
        SUCCESS if wanted == SUCCESS and status.startswith("2") else status
        for wanted, status in zip(expected, statuses, strict=True)
    ]
    assert told == expected, done.stdout


def expected_statuses(script: str) -> list[str]:
    """Return the expected status of each curl: that of the comment above it, else SUCCESS."""
    statuses: list[str] = []
    said = ""
    for line in script.splitlines():
        comment = EXPECTED.match(line)
        said = comment.group(1) if comment else said
        for _ in re.findall(r"\bcurl ", line):
            statuses.append(said or SUCCESS)
            said = ""
    return statuses
