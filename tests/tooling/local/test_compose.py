"""The Dockerfile and the Compose files, as far as they can be checked without an engine."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.containers import compose_secrets, images
from local.containers.stand_in_bases import bases
from saldo.operate.role_passwords import SETTINGS
from saldo.serve import functions

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "functions" / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "local" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
FUNCTIONS = [function.name.replace("_", "-") for function in functions.FUNCTIONS]
JOBS = ("migrations", "topic")
BY_DIGEST = re.compile(r"[a-z0-9./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


def stages() -> dict[str, str]:
    """Return the text of each stage of the Dockerfile, by its name."""
    parts = re.split(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {parts[n + 1] or "final": parts[n + 2] for n in range(0, len(parts), 3)}


@pytest.mark.parametrize("argument", ["BASE_BUILD", "BASE_RUN"])
def test_base_images_are_pinned_by_digest(argument: str) -> None:
    """A tag moves: the same commit would build something else tomorrow."""
    found = re.search(rf"^ARG {argument}=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    assert BY_DIGEST.fullmatch(found.group(1))


def test_every_image_has_a_stage() -> None:
    assert {f"image-{image}" for image in images.IMAGES} <= stages().keys()


@pytest.mark.parametrize("stage", ["image-function", "image-operate", "image-local"])
def test_images_run_as_a_numeric_user_other_than_root(stage: str) -> None:
    users = re.findall(r"^USER (\S+)$", stages()[stage], re.MULTILINE)
    assert users[-1] == "65532:65532"


def test_final_stages_need_no_shell() -> None:
    """Their commands are lists: the base has nothing that could split a line into words."""
    for name, text in stages().items():
        if name.startswith("image"):
            commands = re.findall(
                r"^\s*(?:RUN|CMD|ENTRYPOINT|HEALTHCHECK .*CMD) (.*)$", text, re.MULTILINE
            )
            assert all(command.startswith("[") for command in commands), name


def test_packages_are_installed_by_hash_and_from_wheels_only() -> None:
    installs = [line for line in DOCKERFILE.split("RUN ") if "pip install" in line]
    assert len(installs) == 2
    assert all("--require-hashes" in line and "--no-deps" in line for line in installs)
    assert "--only-binary :all:" in installs[1]


def test_a_build_context_holds_only_what_it_needs() -> None:
    """No .git, no .saldo with its passwords, no virtual environment reaches the engine."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        "!LICENSE", "!locks/*.txt", "!src/saldo", "!functions",
        "!local/*.py", "!local/knative/*.py", "!local/containers/strip_symbols.py",
    }  # fmt: skip


def test_local_sources_run_from_the_files_of_their_image(tmp_path: Path) -> None:
    """It has the recorder's packages, and of local/ what the Dockerfile names."""
    copied = re.findall(r"^COPY (local/.+) /source/(local/\S*)$", DOCKERFILE, re.MULTILINE)
    ran = re.search(r'"(import local\.knative\.kafka_source[^"]*)"', stages()["image-local"])
    assert [folder for _, folder in copied] == ["local/", "local/knative"]
    assert ran is not None
    (tmp_path / "local").mkdir()
    for file in copied[0][0].split():
        shutil.copy(ROOT / file, tmp_path / "local")
    shutil.copytree(ROOT / copied[1][0], tmp_path / "local" / "knative")
    absent = "".join(f"sys.modules[{name!r}] = None; " for name in ("psutil", "aiohttp", "jgo"))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {absent}{ran.group(1)}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_starts_without_what_its_image_lacks() -> None:
    """The Dockerfile removes from it the packages of the server and of CloudEvents."""
    removed = re.search(r"pip uninstall .* \\\n((?:.* \\\n)*.*);", DOCKERFILE)
    assert removed is not None
    names = [name.replace("-", "_") for name in removed.group(1).replace("\\", "").split()]
    assert {"cloudevents", "starlette", "uvicorn"} <= set(names)
    program = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({names}))
import saldo.cli, saldo.operate, saldo.record.kafka
for module in pkgutil.walk_packages(saldo.operate.__path__, "saldo.operate."):
    importlib.import_module(module.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_wheels_are_fetched_for_every_installed_lock() -> None:
    locks = set(re.findall(r"lock=(\w+)", DOCKERFILE))
    assert locks == {"record", "balance", "operate"} == set(bases.LOCKS) - {"tools"}
    assert all((ROOT / "locks" / f"{lock}.txt").exists() for lock in locks)


def test_third_party_images_are_pinned_by_digest() -> None:
    others = [each["image"] for each in SERVICES.values() if "build" not in each]
    others = [image for image in others if not image.startswith("saldo/")]
    assert len(others) == 2
    assert all(BY_DIGEST.fullmatch(image) for image in others)


def test_no_image_is_tagged_latest() -> None:
    assert not any(
        each["image"].endswith(":latest") or ":" not in each["image"] for each in SERVICES.values()
    )


def test_every_long_running_service_has_a_healthcheck() -> None:
    without = {name for name, service in SERVICES.items() if "healthcheck" not in service}
    assert without == set(JOBS)


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_capabilities_or_new_privileges(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_all_but_kafka_have_a_read_only_root() -> None:
    """apache/kafka writes its configuration beside its binaries."""
    assert {name for name in SERVICES if not SERVICES[name].get("read_only")} == {"kafka"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_wait_for_the_migrations(name: str) -> None:
    assert SERVICES[name]["depends_on"]["migrations"] == {
        "condition": "service_completed_successfully"
    }


def test_ports_are_published_on_loopback_only() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert published == {
        "record-transaction": ["127.0.0.1:${RECORD_PORT:-8080}:8080"],
        "get-balance": ["127.0.0.1:${BALANCE_PORT:-8081}:8080"],
    }


def test_no_password_is_in_the_files() -> None:
    for name in ("compose.yaml", "compose.local-base.yaml"):
        text = (ROOT / "local" / name).read_text()
        assert not re.search(r"://[^/\s]*@", text)
        for key, value in re.findall(r"(\w*(?:PASSWORD|SECRET|TOKEN)\w*): (\S+)", text):
            assert value.startswith("/run/secrets/"), key


def test_all_data_is_in_named_volumes() -> None:
    mounts = [mount for each in SERVICES.values() for mount in each.get("volumes", ())]
    assert {mount.partition(":")[0] for mount in mounts} == set(COMPOSE["volumes"])


def test_every_function_role_gets_its_password() -> None:
    told = SERVICES["migrations"]["environment"]
    assert {name.removesuffix("_FILE") for name in told} == set(SETTINGS) - {
        "ROLE_PASSWORD_OPERATE"
    }


def test_passwords_are_made_once_and_readable_by_owner_only(tmp_path: Path) -> None:
    """A second run must not change them: the database's volume was made with the first ones."""
    folder = tmp_path / "compose"
    assert compose_secrets.make(folder) is True
    first = {file.name: file.read_text() for file in folder.iterdir()}
    assert compose_secrets.make(folder) is False
    assert {file.name: file.read_text() for file in folder.iterdir()} == first
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IRWXU


def test_compose_reads_the_generated_files() -> None:
    wanted = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    for service in SERVICES.values():
        wanted |= {Path(file).name for file in service.get("env_file", ())}
    assert wanted == compose_secrets.contents().keys()


def test_two_runs_make_different_passwords() -> None:
    first, second = compose_secrets.contents(), compose_secrets.contents()
    assert all(first[name] != second[name] for name in first)
    secrets = [first[name] for name in first if not name.endswith(".env")]
    assert len(set(secrets)) == len(secrets)
    assert all(len(secret) >= 32 for secret in secrets)


def test_an_incomplete_set_of_passwords_is_remade(tmp_path: Path) -> None:
    (tmp_path / "compose.new").mkdir()
    (tmp_path / "compose.new" / "stale").touch()
    assert compose_secrets.make(tmp_path / "compose") is True
    assert "stale" not in {file.name for file in (tmp_path / "compose").iterdir()}
