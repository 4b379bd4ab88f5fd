"""Writes the objects of the shape cluster to a folder: `make manifests`.

For GitOps and for a plain `kubectl apply`. One file an object, numbered in an order in which they
can be applied; charts are only named, since their objects are theirs. No secret is among them:
passwords are made up in the cluster.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi
import yaml

from infra_pulumi.capture import HERE, Resource, capture, read_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


STACK = "cluster"
# The step in which a kind is applied, the first unless said: what the next needs is waited for.
STEPS = {
    "KnativeServing": 2,
    "KnativeEventing": 2,
    "Job": 3,
    "KnativeService": 4,
    "KafkaSource": 5,
    "PingSource": 5,
    "DomainMapping": 5,
}
# What the functions need of the first step.
WAITED_FIRST = ("ExternalSecret", "Kafka", "KafkaTopic", "KafkaUser")
INTRODUCTION = """\
# Saldo for a cluster that is there already

Written by `make manifests` from a stack file of the shape cluster; change that file, not these.
The first digit of a file's name is its step.
"""
THEIRS = """
What the stack file calls existing must be there before. So must the Secrets that it names, in the
namespace saldo: docs/deploy.md says what they hold.
"""
CHARTS = """
Make the namespaces first, since Strimzi's chart makes rights in one of them:

    cat 1*-namespace-*.yaml | kubectl apply -f -

Then install these charts, each in the namespace beside it, and wait for them:

| chart | repository | version | namespace | values |
|---|---|---|---|---|
{charts}"""
REST = """
Apply the files step by step. A KafkaSource that is made before its function, topic and user
are ready stays "address not set" for minutes.

{steps}
With other images, run steps 3 to 5 again. Kinds that an operator has not defined yet are refused at
first: run the step again until nothing is.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="an empty or a former folder")
    parser.add_argument(
        "--stack-file",
        type=Path,
        default=HERE / f"Pulumi.{STACK}.yaml",
        help="of the shape cluster; default: %(default)s",
    )
    parser.add_argument(
        "--images",
        type=Path,
        help="what `make images-push` printed, or name to reference by digest in YAML or JSON;"
        " default: the stack file's",
    )
    options = parser.parse_args(arguments)
    values = read_values(options.stack_file)
    if values.get("shape") != "cluster":
        print(f"{options.stack_file} is not of the shape cluster", file=sys.stderr)
        return 1
    if options.images is not None:
        given = yaml.safe_load(options.images.read_text())
        values["images"] = given.get("config", {}).get("saldo:images", given)
    if values["images"] == "pending":
        print(
            f"saldo:images of {options.stack_file.name} is pending: put the digests there that"
            " `make images-push` prints, or name them by --images",
            file=sys.stderr,
        )
        return 1
    try:
        written = write(capture(STACK, values).resources, options.out)
    except pulumi.RunError as refused:
        print(refused, file=sys.stderr)
        return 1
    print(f"{written} objects in {options.out}")
    return 0


def write(resources: Iterable[Resource], folder: Path) -> int:
    """Write the objects and charts of ``resources`` to ``folder``; the number of objects."""
    folder.mkdir(parents=True, exist_ok=True)
    for former in (*folder.glob("[0-9][0-9]-*.yaml"), *folder.glob("[1-5][0-9][0-9]-*.yaml")):
        former.unlink()
    made = objects(resources)
    for index, item in enumerate(made):
        name = f"{item['kind']}-{item['metadata']['name']}".lower()
        text = yaml.safe_dump(item, sort_keys=True, width=100, explicit_start=True)
        (folder / f"{_step(item)}{index:02d}-{name}.yaml").write_text(text)
    (folder / "README.md").write_text(_readme(made, charts(resources)))
    return len(made)


def _readme(made: Sequence[dict[str, Any]], charted: Sequence[dict[str, Any]]) -> str:
    """Return what to install and to apply, and what to wait for in between."""
    kinds = {item["kind"] for item in made if _step(item) == 1}
    theirs = not charted or "Kafka" not in kinds or "StatefulSet" not in kinds
    rows = [
        f"| {chart['chart']} | {chart.get('repositoryOpts', {}).get('repo', 'its own')}"
        f" | {chart['version']} | {chart['namespace']}"
        f" | `{json.dumps(chart['values'], sort_keys=True)}` |\n"
        for chart in charted
    ]
    return (
        INTRODUCTION
        + (THEIRS if theirs else "")
        + (CHARTS.format(charts="".join(rows)) if charted else "")
        + REST.format(steps="".join(_commands(made, kinds)))
    )


def _commands(made: Sequence[dict[str, Any]], kinds: set[str]) -> Iterator[str]:
    """Yield the commands of each step that there is."""
    first = (f"1*-{kind.lower()}-*.yaml" for kind in WAITED_FIRST if kind in kinds)
    ready = {
        1: ("Ready", " ".join(first)),
        2: ("Ready", "2*.yaml"),
        3: ("complete", "3*.yaml"),
        4: ("Ready", "4*.yaml"),
    }
    for step in sorted({_step(item) for item in made}):
        yield f"    cat {step}*.yaml | kubectl apply -f -\n"
        if step in ready:
            condition, files = ready[step]
            yield f"    cat {files} | kubectl wait --for=condition={condition} --timeout=15m -f -\n"


def _step(item: dict[str, Any]) -> int:
    served = item["apiVersion"].startswith("serving.knative.dev/")
    return STEPS.get("KnativeService" if served and item["kind"] == "Service" else item["kind"], 1)


def objects(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """Return the objects of Kubernetes among ``resources``, each after what it depends on."""
    everything = {resource.urn: resource for resource in resources}
    placed: dict[str, None] = {}

    def place(resource: Resource) -> None:
        if resource.urn in placed:
            return
        for urn in sorted(resource.depends_on):
            if urn in everything:
                place(everything[urn])
        placed[resource.urn] = None

    # Namespaces come first whoever names them; the rest by name, so that a new run changes nothing.
    for resource in sorted(
        everything.values(), key=lambda r: (r.kind != "Namespace", r.type, r.name)
    ):
        place(resource)
    found = [everything[urn] for urn in placed if everything[urn].kind]
    made = [_without_pulumi(_whole(resource.inputs)) for resource in found]
    return sorted(made, key=_step)


def charts(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    """Return the inputs of the charts among ``resources``, by name."""
    releases = [r.inputs for r in resources if r.type == "kubernetes:helm.sh/v3:Release"]
    return sorted((_whole(release) for release in releases), key=lambda r: str(r["name"]))


def _without_pulumi(item: dict[str, Any]) -> dict[str, Any]:
    """``item`` without what Pulumi alone reads."""
    metadata = dict(item["metadata"])
    noted = metadata.pop("annotations", {})
    kept = {name: text for name, text in noted.items() if not name.startswith("pulumi.com/")}
    return item | {"metadata": metadata | ({"annotations": kept} if kept else {})}


def _whole(value: Any) -> Any:
    """``value`` with its whole numbers whole again: Pulumi's wire has floats only."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


if __name__ == "__main__":
    sys.exit(main())
