"""The images: `python -m local.containers.images build [--stand-in-bases]`, `... push REGISTRY`.

`push` gives every image its name in the registry and prints the references by digest, in the form
that the Pulumi program's configuration takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local.preconditions import NotPossible
from saldo.serve.functions import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parents[2]
# The images that are deployed, and the one that stands in for Knative's sources on a laptop.
DEPLOYED = (*(function.name for function in FUNCTIONS), "operate")
IMAGES = (*DEPLOYED, "local")
TAG_DEFAULT = "dev"
BUILD_TIMEOUT_S = 1_800
STAND_IN_BASES = {
    "BASE_BUILD": "saldo-base/build:stand-in",
    "BASE_RUN": "saldo-base/run:stand-in",
    "WHEELS": "saldo-base/wheels:stand-in",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What the images' labels say of where they come from."""

    version: str
    revision: str
    created: str

    @staticmethod
    def of_this_tree() -> Labels:
        """From pyproject.toml and the last commit: the same commit gives the same labels."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        changed = bool(git("status", "--porcelain"))
        return Labels(
            version=project["version"],
            revision=git("rev-parse", "HEAD") + ("-changed" if changed else ""),
            created=git("log", "-1", "--format=%cI"),
        )


def image_name(image: str, tag: str = TAG_DEFAULT) -> str:
    """Return the name by which the engine here knows an image."""
    return f"saldo/{image.replace('_', '-')}:{tag}"


def build(images: Iterable[str], *, tag: str, stand_in_bases: bool) -> None:
    """Build each image; NotPossible when one does not get done."""
    labels = Labels.of_this_tree()
    arguments = {
        "VERSION": labels.version,
        "REVISION": labels.revision,
        "CREATED": labels.created,
        **{name: os.environ[name] for name in STAND_IN_BASES if name in os.environ},
        **(STAND_IN_BASES if stand_in_bases else {}),
    }
    said = [
        word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")
    ]
    for image in images:
        engine(
            "build", "--quiet", "--file", "functions/Dockerfile", "--tag", image_name(image, tag),
            "--build-arg", f"FUNCTION={image}", *said, ".",
        )  # fmt: skip
        size = json.loads(engine("image", "inspect", image_name(image, tag)))[0]["Size"]
        print(f"{image_name(image, tag)}: {size / 1e6:.1f} MB", flush=True)


def push(registry: str, *, tag: str) -> None:
    """Push the images that are deployed, and print what goes into the stack's configuration."""
    print("config:\n  saldo:images:")
    for image in DEPLOYED:
        target = f"{registry.rstrip('/')}/{image.replace('_', '-')}"
        engine("tag", image_name(image, tag), f"{target}:{tag}")
        engine("push", "--quiet", f"{target}:{tag}")
        found = json.loads(engine("image", "inspect", f"{target}:{tag}"))[0]["RepoDigests"]
        print(f"    {image}: {next(each for each in found if each.startswith(f'{target}@'))}")


def engine(*arguments: str) -> str:
    """Return what `docker ARGUMENTS` prints; raise NotPossible if it fails."""
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607 - wherever the machine has it
        cwd=ROOT,
        env={"DOCKER_BUILDKIT": "1", **os.environ},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise NotPossible(f"docker {arguments[0]} failed: {done.stderr.strip()[-3000:]}")
    return done.stdout


def git(*arguments: str) -> str:
    """Return what git says, or nothing where this is no clone."""
    try:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - wherever the machine has it
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Build or push; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local.containers.images")
    parser.add_argument("--tag", default=TAG_DEFAULT)
    what = parser.add_subparsers(dest="what", required=True)
    building = what.add_parser("build")
    building.add_argument("images", nargs="*", choices=[*IMAGES, []])
    building.add_argument("--stand-in-bases", action="store_true")
    what.add_parser("push").add_argument("registry")
    given = parser.parse_args(arguments)
    try:
        if given.what == "build":
            build(given.images or IMAGES, tag=given.tag, stand_in_bases=given.stand_in_bases)
        else:
            push(given.registry, tag=given.tag)
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
