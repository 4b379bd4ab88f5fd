"""One stack's whole life in Pulumi's real engine, told as JSON.

    python -m tests.infra.engine STACK

Run as a process of its own: Pulumi's SDK leaves threads and event loops behind that nobody closes.
"""

from __future__ import annotations

import copy
import json
import os
import runpy
import secrets
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pulumi import automation as auto

from infra_pulumi.capture import HERE, sample_images, stack_values
from tests.infra.stand_in import PROVIDERS, StandIn, serve

# What the random provider makes up. It must not be in any file of the backend.
MADE_UP = {
    "random:index/randomPassword:RandomPassword": f"clear-{secrets.token_hex(16)}",
    "random:index/randomBytes:RandomBytes": secrets.token_hex(32),
}
POLICY_PACK = HERE / "policy_pack"


def run_program() -> None:
    """Run the program, as the language host would."""
    runpy.run_path(str(HERE / "__main__.py"), run_name="__main__")


class Life:
    """A stack from its first preview to its end."""

    def __init__(self, name: str, folder: Path, port: int) -> None:
        self._values = stack_values(name)
        self._values["images"] = sample_images(self._values)
        # A protected stack cannot be taken down, which is shown by itself.
        self._values["protected"] = False
        self._folder = folder
        for part in ("home", "state", "work"):
            (folder / part).mkdir()
        command = auto.PulumiCommand(root=str(Path(os.environ["PULUMI"]).parents[1]))
        environment = {
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": secrets.token_hex(16),
            "PULUMI_DEBUG_PROVIDERS": ",".join(f"{p}:{port}" for p in PROVIDERS),
            "PATH": f"{self._analyzer()}{os.pathsep}{os.environ['PATH']}",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        }
        self.stack = auto.create_stack(
            name,
            project_name="saldo",
            program=run_program,
            opts=auto.LocalWorkspaceOptions(
                work_dir=str(folder / "work"),
                pulumi_home=str(folder / "home"),
                env_vars=environment,
                pulumi_command=command,
            ),
        )
        self.configure()

    def _analyzer(self) -> Path:
        """Return the folder with what starts a policy pack, as Pulumi's build of the CLI has it."""
        program = self._folder / "bin" / "pulumi-analyzer-policy-python"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -u -m pulumi.policy "$1" "$2"\n')
        program.chmod(0o755)
        return program.parent

    def configure(self, **changes: Any) -> None:
        """Set the stack's configuration, with the values under paths (a__b) changed."""
        values = copy.deepcopy(self._values)
        for path, value in changes.items():
            *tables, last = path.split("__")
            table = values
            for key in tables:
                table = table[key]
            table[last] = value
        self.stack.set_all_config(
            {
                f"saldo:{key}": auto.ConfigValue(
                    value if isinstance(value, str) else json.dumps(value)
                )
                for key, value in values.items()
            }
        )

    def pods_max(self) -> int:
        """Return the bound that is lowered by one."""
        bound: int = self._values["functions"]["get_balance"]["podsMax"]
        return bound

    def preview(self) -> dict[str, list[str]]:
        """Return the URNs by the operation that a preview would carry out on them."""
        operations: dict[str, list[str]] = {}

        def note(event: auto.EngineEvent) -> None:
            if event.resource_pre_event is not None:
                step = event.resource_pre_event.metadata
                operations.setdefault(str(step.op.value), []).append(step.urn)

        self.stack.preview(on_event=note)
        return operations

    def judged(self) -> str:
        """Return what a preview under the policy pack says: every policy that it broke."""
        return self.refused(policy_packs=[str(POLICY_PACK)])

    def refused(self, **options: Any) -> str:
        """Return what a preview says that must fail; empty if it does not."""
        try:
            self.stack.preview(**options)
        except auto.CommandError as error:
            return str(error)
        return ""

    def files_with(self, text: str) -> list[str]:
        """Return the files of the backend, history and backups included, that hold ``text``."""
        return [
            str(file.relative_to(self._folder))
            for file in (self._folder / "state").rglob("*")
            if file.is_file() and text.encode() in file.read_bytes()
        ]


def live(name: str) -> dict[str, Any]:
    """All of it; see test_engine.py for what each entry must be."""
    provider = StandIn(MADE_UP)
    with tempfile.TemporaryDirectory() as folder, serve(provider) as port:
        life = Life(name, Path(folder), port)
        told: dict[str, Any] = {
            "kept_policies_before": life.judged(),
            "preview": life.preview(),
            "made_by_preview": len(provider.made),
        }
        told["up"] = dict(life.stack.up().summary.resource_changes or {})
        told["outputs"] = {k: v.value for k, v in life.stack.outputs().items() if not v.secret}
        told["made"] = len(provider.made)
        told["again"] = life.preview()
        life.configure(functions__get_balance__podsMax=life.pods_max() - 1)
        told["changed"] = life.preview()
        life.configure(database__connectionsMax=60)
        told["over_budget"] = life.refused()
        life.configure(kafka__partitions=6)
        told["broken_policy"] = life.judged()
        life.configure()
        told["kept_policies"] = life.judged()
        told["encrypted"] = life.files_with("ciphertext")
        told["in_clear"] = [file for value in MADE_UP.values() for file in life.files_with(value)]
        told["destroy"] = dict(life.stack.destroy().summary.resource_changes or {})
        told["deleted"] = len(provider.deleted)
    return told


def main() -> None:
    """Write what happened to the standard output, and Pulumi's own words to the other."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        told = live(sys.argv[1])
    json.dump(told, out)


if __name__ == "__main__":
    main()
