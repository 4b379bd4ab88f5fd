"""A run of the whole program without an engine: every resource it would make, as it asked for it.

Pulumi's mocks answer where the cloud would. The tests judge what was asked, and render.py writes
it down as manifests. Numbers come back as floats: Pulumi's wire knows no others.

Pulumi's SDK keeps one program's state in its modules, and leaves event loops that nobody closes:
``capture_apart`` runs it in a process of its own, which is this file run as a module.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi
import yaml
from pulumi.runtime import mocks, rpc, set_all_config
from pulumi.runtime import stack as pulumi_stack

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
ACCOUNT, REGION = "000000000000", "us-east-1"
_PREFIX = "saldo:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One resource that the program asked for."""

    urn: str
    # As the mocks answered: what other resources name it by.
    id: str
    arn: str
    type: str
    name: str
    inputs: dict[str, Any]
    # The paths of inputs that are secret: Pulumi encrypts them in its state.
    secrets: frozenset[str]
    provider: str
    depends_on: tuple[str, ...]
    protect: bool
    custom: bool
    parent: str

    @property
    def kind(self) -> str:
        """The kind of Kubernetes that this is; empty for anything else."""
        return str(self.inputs.get("kind", "")) if self.type.startswith("kubernetes:") else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Captured:
    """What one run asked for, by URN, and what it exported.

    Pulumi registers resources concurrently: the order in which it does differs from run to run.
    """

    resources: tuple[Resource, ...]
    outputs: dict[str, Any]


def stack_values(stack: str) -> dict[str, Any]:
    """Return the values below ``saldo:`` of the program's file for ``stack``."""
    return read_values(HERE / f"Pulumi.{stack}.yaml")


def read_values(file: Path) -> dict[str, Any]:
    """Return the values below ``saldo:`` of a stack file."""
    config = yaml.safe_load(file.read_text())["config"]
    return {
        key.removeprefix(_PREFIX): value for key, value in config.items() if key.startswith(_PREFIX)
    }


def sample_images(values: Mapping[str, Any]) -> dict[str, str]:
    """Return references that look as `make images-push` would print them for this stack."""
    place = values.get("aws")
    registry = (
        "registry.example.com"
        if place is None
        else f"{place['account']}.dkr.ecr.{place['region']}.amazonaws.com"
    )
    names = ("record_transaction", "project_balance", "get_balance", "operate")
    return {
        name: f"{registry}/saldo/{name.replace('_', '-')}@sha256:{index:064x}"
        for index, name in enumerate(names, start=1)
    }


def capture(stack: str, values: Mapping[str, Any]) -> Captured:
    """Run the program for ``stack`` with ``values`` below ``saldo:``; raises what it raises."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    recorder = _Recorder(_Answers())
    mocks.set_mocks(_Answers(), project="saldo", stack=stack, preview=False, monitor=recorder)
    # The mocks' own root is there for tests that have no program of their own.
    pulumi.runtime.settings.set_root_resource(None)  # type: ignore[arg-type]
    set_all_config({f"saldo:{key}": _text(value) for key, value in values.items()})
    try:
        loop.run_until_complete(pulumi_stack.run_in_stack(_run_program))
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    asked = sorted(recorder.asked, key=lambda resource: resource.urn)
    return Captured(resources=tuple(asked), outputs=recorder.outputs)


def capture_apart(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Captured]:
    """Return what ``capture`` returns for each stack and its values, in another process."""
    command = [sys.executable, "-m", "infra_pulumi.capture"]
    done = subprocess.run(
        command,
        input=json.dumps(runs),
        check=True,
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    return {
        stack: Captured(
            resources=tuple(
                Resource(
                    **made
                    | {
                        "secrets": frozenset(made["secrets"]),
                        "depends_on": tuple(made["depends_on"]),
                    }
                )
                for made in captured["resources"]
            ),
            outputs=captured["outputs"],
        )
        for stack, captured in json.loads(done.stdout).items()
    }


def main() -> None:
    """Read stacks and their values from the standard input, write what they ask for."""
    runs = json.load(sys.stdin)
    made = {stack: dataclasses.asdict(capture(stack, values)) for stack, values in runs.items()}
    json.dump(made, sys.stdout, default=sorted)


def _run_program() -> None:
    runpy.run_path(str(HERE / "__main__.py"), run_name="__main__")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Recorder(mocks.MockMonitor):
    """The mocks' monitor, which also keeps what each request says besides its inputs."""

    def __init__(self, answers: mocks.Mocks) -> None:
        super().__init__(answers)
        self.asked: list[Resource] = []
        self.outputs: dict[str, Any] = {}

    def RegisterResource(self, request: Any) -> Any:
        # A resource handed over as an input would be fetched in this thread, for another's loop.
        _name_references(request.object)
        if request.type == "eks:index:Cluster":
            self._register_eks_cluster(request)
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        if request.type != "pulumi:pulumi:Stack":
            secrets: set[str] = set()
            inputs = _plain(rpc.deserialize_properties(request.object), "", secrets)
            self.asked.append(
                Resource(
                    urn=response.urn,
                    id=response.id,
                    arn=response.object.fields["arn"].string_value,
                    type=request.type,
                    name=request.name,
                    inputs=inputs,
                    secrets=frozenset(secrets),
                    provider=request.provider or str(request.providers or ""),
                    depends_on=tuple(request.dependencies),
                    protect=request.protect,
                    custom=request.custom,
                    parent=request.parent,
                )
            )
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:
        if "::pulumi:pulumi:Stack::" in request.urn:
            self.outputs |= _plain(rpc.deserialize_properties(request.outputs), "", set())
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]

    def _register_eks_cluster(self, request: Any) -> None:
        """pulumi-eks runs elsewhere: what it would register is put there for it."""
        urn = _eks_urn(request.name)
        self.resources[urn] = mocks.MockMonitor.ResourceRegistration(
            urn, request.name, eks_cluster(rpc.deserialize_properties(request.object)["name"])
        )


def _eks_urn(name: str) -> str:
    return f"urn:pulumi:{pulumi.get_stack()}::saldo::aws:eks/cluster:Cluster::{name}"


def eks_cluster(name: str) -> dict[str, Any]:
    """Return what pulumi-eks's cluster is to the program."""
    issuer = f"https://oidc.eks.{REGION}.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
    return {
        "name": name,
        "arn": f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/{name}",
        "identities": [{"oidcs": [{"issuer": issuer}]}],
    }


class _Answers(mocks.Mocks):
    """What the cloud would add to the inputs: names of its own, addresses, secrets."""

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], None]:
        raise AssertionError(f"the program asks the cloud for {args.token}; it should not need to")

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        state = dict(args.inputs)
        last = args.typ.rpartition(":")[2].lower()
        # Each is one resource's only, so that whoever reads them can tell what refers to what.
        state.setdefault(
            "arn", f"arn:aws:{_service(args.typ)}:{REGION}:{ACCOUNT}:{last}/{args.name}"
        )
        state.setdefault("name", args.name)
        state |= ADDED.get(args.typ, {})
        if args.typ == "eks:index:Cluster":
            state["eksCluster"] = _reference(_eks_urn(args.name), args.name)
            state["kubeconfigJson"] = "{}"
        return f"{last}-{args.name}", state


def _service(token: str) -> str:
    return token.split(":")[1].partition("/")[0] if token.startswith("aws:") else "none"


def _reference(urn: str, name: str) -> dict[str, Any]:
    """Return a resource, as Pulumi's wire spells it."""
    return {
        rpc._special_sig_key: rpc._special_resource_sig,
        "urn": urn,
        "id": name,
        "packageVersion": "",
    }


_MSK = "{}-1.saldo.example.c1.kafka.us-east-1.amazonaws.com:{}"
# What the cloud would add, by type; the engine's tests answer the same.
ADDED: dict[str, dict[str, Any]] = {
    "aws:msk/cluster:Cluster": {
        "arn": f"arn:aws:kafka:{REGION}:{ACCOUNT}:cluster/saldo/00000000-0000-0000",
        "bootstrapBrokersSaslIam": _MSK.format("b", 9098),
        "bootstrapBrokersSaslScram": _MSK.format("b", 9096),
    },
    "aws:kms/key:Key": {"keyId": "00000000-0000-0000-0000-000000000000"},
    "aws:ecr/repository:Repository": {
        "repositoryUrl": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/x"
    },
    "aws:msk/configuration:Configuration": {"latestRevision": 1},
    "aws:rds/instance:Instance": {
        "address": "saldo.example.us-east-1.rds.amazonaws.com",
        "resourceId": "db-EXAMPLE",
        "masterUserSecrets": [
            {"secretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:rds!db-example"}
        ],
    },
    "aws:ec2/launchTemplate:LaunchTemplate": {"latestVersion": 1},
    "aws:lb/loadBalancer:LoadBalancer": {
        "dnsName": "saldo.elb.us-east-1.amazonaws.com",
        "zoneId": "Z1",
    },
    "aws:secretsmanager/secretVersion:SecretVersion": {
        "secretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:saldo-example"
    },
    "random:index/randomPassword:RandomPassword": {"result": "not-a-real-password"},
    "random:index/randomBytes:RandomBytes": {"hex": "00" * 32},
}


def _name_references(struct: Any) -> None:
    """Replace every resource among the values of ``struct`` by its URN."""
    for field in struct.fields.values():
        _name_reference(field)


def _name_reference(value: Any) -> None:
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        for item in value.list_value.values:
            _name_reference(item)
    elif kind == "struct_value":
        fields = value.struct_value.fields
        signature = fields.get(rpc._special_sig_key)
        if signature is not None and signature.string_value == rpc._special_resource_sig:
            value.string_value = fields["urn"].string_value
        else:
            _name_references(value.struct_value)


def _plain(value: Any, path: str, secrets: set[str]) -> Any:
    """``value`` without the marks of secrets, whose paths go to ``secrets``."""
    if rpc.is_rpc_secret(value):
        secrets.add(path)
        value = value["value"]
    if isinstance(value, dict):
        return {key: _plain(item, f"{path}.{key}", secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, f"{path}[{i}]", secrets) for i, item in enumerate(value)]
    return value


if __name__ == "__main__":
    main()
