"""Makes `descriptors.binpb`: the contract and all it imports, for Envoy to turn JSON into gRPC."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from service.rpc.envoy import DESCRIPTORS

# The last for the details of errors, which are named only when they are sent.
FILES = (auth_pb2.DESCRIPTOR, data_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)


def build() -> bytes:
    """The files and all they import, imports first."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for each in file.dependencies:
            add(each)
        found.setdefault(file.name, file)

    for file in FILES:
        add(file)
    described = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(described.file.add())
    return described.SerializeToString(deterministic=True)


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(build())
