"""Names for types of grpc.aio, which are generic only for the type checker; and the methods that are known here."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    import grpc.aio

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def method_of(name: str) -> MethodDescriptor | None:
    """The descriptor of "/package.Service/Method", if it is known here."""
    try:
        found: MethodDescriptor = descriptor_pool.Default().FindMethodByName(name[1:].replace("/", "."))
    except KeyError:
        return None
    return found


def known_method(name: str) -> MethodDescriptor:
    """The same for a method whose stub has been imported."""
    found = method_of(name)
    if found is None:
        raise LookupError(f"no stub of {name} has been imported")
    return found


@lru_cache(maxsize=256)
def request_parser(method: str) -> Callable[[bytes], Message]:
    """The parser for requests of a method whose stub has been imported. Raises DecodeError."""
    read: Callable[[bytes], Message] = GetMessageClass(known_method(method).input_type).FromString
    return read


@lru_cache(maxsize=256)
def answer_parser(method: str) -> Callable[[bytes], Message]:
    """The parser for answers of a method whose stub has been imported."""
    read: Callable[[bytes], Message] = GetMessageClass(known_method(method).output_type).FromString
    return read
