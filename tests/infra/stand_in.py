"""A provider that makes nothing: Pulumi's real engine talks to it as to AWS's or Kubernetes' own.

It takes every resource, answers as the mocks do, and, in a preview, with the inputs only, so that
what the cloud would add is unknown there as it is in life. The engine finds it by
PULUMI_DEBUG_PROVIDERS.
"""

from __future__ import annotations

from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import empty_pb2, json_format
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime import rpc
from pulumi.runtime.proto import (
    plugin_pb2,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

from infra_pulumi.capture import ADDED, eks_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

PROVIDERS = ("aws", "eks", "kubernetes", "random")
MESSAGE_BYTES_MAX = 64 << 20
EKS = "eks:index:Cluster"


class StandIn(provider_pb2_grpc.ResourceProviderServicer):
    """The whole of the protocol that the engine uses, for every package at once."""

    def __init__(self, secrets: dict[str, str]) -> None:
        # By type: what a resource makes up that must never be seen in the clear.
        self._secrets = secrets
        self.made: list[str] = []
        self.deleted: list[str] = []

    # The names are the protocol's. N802 throughout.

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version="999.0.0")

    def Attach(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> Any:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, acceptResources=True
        )

    def Check(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: Any) -> Any:
        old = json_format.MessageToDict(request.old_inputs)
        new = json_format.MessageToDict(request.news)
        changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
        changed = [key for key in changed if key not in request.ignoreChanges]
        kind = provider_pb2.DiffResponse
        return kind(
            changes=kind.DIFF_SOME if changed else kind.DIFF_NONE,
            diffs=changed,
            # A Job cannot be changed.
            replaces=changed if ":Job::" in request.urn else [],
        )

    def Create(self, request: Any, context: Any) -> Any:
        if request.preview:
            return provider_pb2.CreateResponse(id="", properties=request.properties)
        _, kind, name = request.urn.rsplit("::", 2)
        self.made.append(request.urn)
        return provider_pb2.CreateResponse(
            id=f"{name}-id",
            properties=self._state(kind.rpartition("$")[2], name, request.properties),
        )

    def _state(self, kind: str, name: str, properties: Any) -> Struct:
        state = Struct()
        state.CopyFrom(properties)
        for key, value in {"arn": f"arn:aws:x:us-east-1:000000000000:{name}", "name": name}.items():
            if key not in state.fields:
                state[key] = value
        added = json_format.ParseDict(ADDED.get(kind, {}), Struct())
        for key in added.fields:
            state.fields[key].CopyFrom(added.fields[key])
        if kind in self._secrets:
            for key in ADDED[kind]:
                state[key] = self._secrets[kind]
        return state

    def Update(self, request: Any, context: Any) -> Any:
        properties = Struct()
        properties.CopyFrom(request.olds)
        properties.MergeFrom(request.news)
        return provider_pb2.UpdateResponse(properties=properties)

    def Delete(self, request: Any, context: Any) -> Any:
        self.deleted.append(request.urn)
        return empty_pb2.Empty()

    def Construct(self, request: Any, context: Any) -> Any:
        """pulumi-eks: a component with the cluster of AWS in it."""
        if request.type != EKS:
            raise AssertionError(f"nobody asked for {request.type} before")
        with grpc.insecure_channel(request.monitorEndpoint) as channel:
            monitor = resource_pb2_grpc.ResourceMonitorStub(channel)
            component = monitor.RegisterResource(
                resource_pb2.RegisterResourceRequest(
                    type=EKS,
                    name=request.name,
                    parent=request.parent,
                    custom=False,
                    acceptSecrets=True,
                    acceptResources=True,
                    protect=request.protect,
                )
            )
            made = _eks_cluster(json_format.MessageToDict(request.inputs))
            cluster = monitor.RegisterResource(
                resource_pb2.RegisterResourceRequest(
                    type="aws:eks/cluster:Cluster",
                    name=request.name,
                    parent=component.urn,
                    custom=True,
                    acceptSecrets=True,
                    acceptResources=True,
                    provider=request.providers["aws"],
                    object=json_format.ParseDict(made, Struct()),
                )
            )
            outputs = Struct()
            reference = {
                rpc._special_sig_key: rpc._special_resource_sig,
                "urn": cluster.urn,
                "id": cluster.id,
                "packageVersion": "",
            }
            json_format.ParseDict({"eksCluster": reference, "kubeconfigJson": "{}"}, outputs)
            monitor.RegisterResourceOutputs(
                resource_pb2.RegisterResourceOutputsRequest(urn=component.urn, outputs=outputs)
            )
        return provider_pb2.ConstructResponse(urn=component.urn, state=outputs)


def _eks_cluster(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster that pulumi-eks makes of its inputs, as far as anything here looks."""
    return eks_cluster(inputs["name"]) | {
        "accessConfig": {"authenticationMode": inputs["authenticationMode"]},
        "vpcConfig": {
            "endpointPrivateAccess": inputs["endpointPrivateAccess"],
            "endpointPublicAccess": inputs["endpointPublicAccess"],
            "publicAccessCidrs": inputs["publicAccessCidrs"],
        },
        "enabledClusterLogTypes": inputs["enabledClusterLogTypes"],
        "encryptionConfig": {"provider": {"keyArn": inputs["encryptionConfigKeyArn"]}},
    }


@contextmanager
def serve(provider: StandIn) -> Iterator[int]:
    """Serve ``provider`` on a port of its own while the context lasts."""
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=options)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=1).wait()
