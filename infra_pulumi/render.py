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

import yaml

from infra_pulumi.capture import Resource, capture, stack_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


STACK = "cluster"
INTRODUCTION = """\
# Saldo for a cluster that is there already

Written by `make manifests` from Pulumi.cluster.yaml; change that file, not these. The namespaces
first, since Strimzi's chart makes rights in one of them:

    kubectl apply -f 00-namespace-knative-eventing.yaml -f 01-namespace-knative-serving.yaml \\
      -f 02-namespace-saldo.yaml

Then install the charts below, each in the namespace beside it, and wait for them; then the rest:

    kubectl apply -f .

Kinds that an operator has not defined yet are refused at first: apply again until nothing is. The
functions' pods wait for the database, the migrations Job for the database's password.

With other images, migrate first:

    kubectl apply -f *-job-migrate-*.yaml
    kubectl wait --for=condition=complete --timeout=15m -f *-job-migrate-*.yaml
    kubectl apply -f .

| chart | repository | version | namespace | values |
|---|---|---|---|---|
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="an empty or a former folder")
    parser.add_argument(
        "--images",
        type=Path,
        help="what `make images-push` printed, or name to reference by digest in YAML or JSON;"
        " default: the stack file's",
    )
    options = parser.parse_args(arguments)
    values = stack_values(STACK)
    if options.images is not None:
        given = yaml.safe_load(options.images.read_text())
        values["images"] = given.get("config", {}).get("saldo:images", given)
    if values["images"] == "pending":
        print(
            f"saldo:images of Pulumi.{STACK}.yaml is pending: put the digests there that"
            " `make images-push` prints, or name them by --images",
            file=sys.stderr,
        )
        return 1
    written = write(capture(STACK, values).resources, options.out)
    print(f"{written} objects in {options.out}")
    return 0


def write(resources: Iterable[Resource], folder: Path) -> int:
    """Write the objects and charts of ``resources`` to ``folder``; the number of objects."""
    folder.mkdir(parents=True, exist_ok=True)
    for former in folder.glob("[0-9][0-9]-*.yaml"):
        former.unlink()
    made = objects(resources)
    for index, item in enumerate(made):
        name = f"{item['kind']}-{item['metadata']['name']}".lower()
        text = yaml.safe_dump(item, sort_keys=True, width=100)
        (folder / f"{index:02d}-{name}.yaml").write_text(text)
    rows = [
        f"| {chart['chart']} | {chart.get('repositoryOpts', {}).get('repo', 'its own')}"
        f" | {chart['version']} | {chart['namespace']}"
        f" | `{json.dumps(chart['values'], sort_keys=True)}` |\n"
        for chart in charts(resources)
    ]
    (folder / "README.md").write_text(INTRODUCTION + "".join(rows))
    return len(made)


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
    return [_without_pulumi(_whole(resource.inputs)) for resource in found]


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
