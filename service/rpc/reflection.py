"""Server reflection, under both its names: Python ships only v1alpha, and newer tools ask for v1
(grpc issue 38576). The two protocols are the same messages.
"""

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio as grpc_reflection

from service.rpc import policy
from service.rpc.mount import Mount


def mount(door: Mount) -> None:
    """Describe the services to anybody who asks."""
    services = (policy.AUTH, policy.DATA, "grpc.health.v1.Health")
    servicer = grpc_reflection.ReflectionServicer(services)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, door)
    door.add_registered_method_handlers(
        "grpc.reflection.v1.ServerReflection",
        {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        },
    )
