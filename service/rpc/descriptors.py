"""Makes `descriptors.binpb`: the contract and all it imports, for Envoy to turn JSON into gRPC.

Without the rules for fields and what they are written in, which are two thirds of it and a MiB in
each process: Envoy does not look at them.
"""

from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from sixfold.auth.v1 import auth_pb2
from sixfold.data.v1 import data_pb2

from service.rpc.envoy import DESCRIPTORS

RULES = validate_pb2.DESCRIPTOR
# The last for the details of errors, which are named only when they are sent.
FILES = (auth_pb2.DESCRIPTOR, data_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)


def build() -> bytes:
    """The files and all they import, imports first."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for each in file.dependencies:
            if each is not RULES:
                add(each)
        found.setdefault(file.name, file)

    for file in FILES:
        add(file)
    described = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(described.file.add())
        copy = described.file[-1]
        if RULES.name in copy.dependency:
            copy.dependency.remove(RULES.name)
        for message in copy.message_type:
            _clear(message, validate_pb2.message)
            for field in message.field:
                _clear(field, validate_pb2.field)
    return described.SerializeToString(deterministic=True)


def _clear(described: Any, rules: Any) -> None:
    described.options.ClearExtension(rules)
    if not described.options.ByteSize():
        described.ClearField("options")


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(build())
