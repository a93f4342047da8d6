"""The messages and services of etcd, on any protobuf from 3.20 on.

The rule: `import etcd3` works, whatever protobuf is installed and whoever imports it first. The stubs that etcd3 0.12
carries were generated in 2020 and refuse to load on protobuf 4 and later. Their serialized descriptors are sound, so
they are read from etcd3's own files, and classes are made of them in a descriptor pool of their own: the file names
(`rpc.proto`, `kv.proto`) are so common that another etcd library in the process may have taken them in the default
one, or may want them later. Therefore protobuf's builder is not used: where protobuf is pure Python, it also enters
every class in the default pool, whatever pool the descriptor is of.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

    class RpcError(Exception):
        """What gRPC's own error offers."""

        def code(self) -> Any:
            """The status code."""

        def details(self) -> str:
            """What the member said."""
            ...


_PARTS: Final = ("kv_pb2", "auth_pb2", "rpc_pb2")  # in the order of their imports
_FORK_SUPPORT: Final = "GRPC_ENABLE_FORK_SUPPORT"
_without_handlers: Final = threading.Event()  # set when it was coordkit that chose so


def load() -> ModuleType:
    """The module `etcd3.etcdrpc`: messages and stubs. Raises ModuleNotFoundError if a package is missing.

    Another thread may be importing etcd3 meanwhile. Nothing is taken from under it: whether its stubs serve or refuse
    is awaited.
    """
    _import_grpc()
    if "etcd3" not in sys.modules:
        made = _made()
        if "etcd3" not in sys.modules:  # still: that took a while
            sys.modules.update(made)
    try:
        return _imported()
    except (TypeError, Warning):  # they refused; as errors where protobuf's warning of them is one
        sys.modules.update(_made())
        return _imported()


def _import_grpc() -> None:
    """Let gRPC leave forks alone, unless somebody has imported it already, or has set the variable.

    With its handlers one child in ten crashes that does nothing but end [tried: gRPC 1.85; without them 0 of 900], and
    it writes lines of its own to stderr. It reads the variable when it is imported.
    """
    if "grpc" in sys.modules or _FORK_SUPPORT in os.environ:
        importlib.import_module("grpc")
        return
    _without_handlers.set()
    os.environ[_FORK_SUPPORT] = "0"
    try:
        importlib.import_module("grpc")
    finally:
        os.environ.pop(_FORK_SUPPORT, None)


def forks_left_alone() -> bool:
    """Whether gRPC has no handlers of forks because coordkit has imported it so."""
    return _without_handlers.is_set()


def _imported() -> ModuleType:
    importlib.import_module("etcd3")  # if this failed before, its child is there all the same, and must not be enough
    package = importlib.import_module("etcd3.etcdrpc")
    for part in _PARTS:  # an import of them would have done that
        setattr(package, part, sys.modules[f"etcd3.etcdrpc.{part}"])
    return package


@cache
def _made() -> Mapping[str, ModuleType]:
    """Modules to be put where `import etcd3` looks for its stubs."""
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    made: dict[str, ModuleType] = {}
    for part in _PARTS:
        spec = _spec(part)
        pool.AddSerializedFile(_descriptor(_source(spec)))
        module = made[spec.name] = importlib.util.module_from_spec(spec)  # which does not run it
        _fill(module, pool.FindFileByName(part.replace("_pb2", ".proto")))
    return made


def _fill(module: ModuleType, file: FileDescriptor) -> None:
    """What protoc's own code defines: DESCRIPTOR, enums and their values, messages (etcd has none inside another)."""
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
    from google.protobuf.message import Message
    from google.protobuf.reflection import GeneratedProtocolMessageType

    names: dict[str, Any] = {"DESCRIPTOR": file}
    for name, enum in file.enum_types_by_name.items():
        names |= {name: EnumTypeWrapper(enum)} | {value.name: value.number for value in enum.values}
    for name, message in file.message_types_by_name.items():
        body = {"DESCRIPTOR": message, "__module__": module.__name__}
        names[name] = GeneratedProtocolMessageType(name, (Message,), body)
    vars(module).update(names)


def _spec(part: str) -> ModuleSpec:
    """Where etcd3 keeps this part of its stubs."""
    found, name = importlib.util.find_spec("etcd3"), "etcd3"
    for child in ("etcdrpc", part):
        name = f"{name}.{child}"
        found = found and PathFinder.find_spec(name, found.submodule_search_locations)
    if found is None:  # or there is a package of this name that is not python-etcd3
        raise ModuleNotFoundError("No module named 'etcd3.etcdrpc'", name="etcd3.etcdrpc")
    return found


def _source(spec: ModuleSpec) -> str:
    source: str | None = getattr(spec.loader, "get_source", lambda _: None)(spec.name)
    if source is None:
        raise ImportError(f"{spec.origin} is there without its source, which is needed", name=spec.name)
    return source


def _descriptor(source: str) -> bytes:
    """The serialized file descriptor in the source of a module that protoc generated, of 2020 or of today."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.keyword(arg="serialized_pb", value=ast.Call(args=[literal]) | literal):
                break
            case ast.Call(func=ast.Attribute(attr="AddSerializedFile"), args=[literal]):
                break
    else:
        raise ImportError("etcd3's stubs have no serialized descriptor: is this python-etcd3?", name="etcd3.etcdrpc")
    value = ast.literal_eval(literal)
    return value if isinstance(value, bytes) else value.encode("latin-1")


def grpc_aio() -> Any:
    """gRPC's asyncio side."""
    return importlib.import_module("grpc.aio")


def rpc_error() -> type[RpcError]:
    """What a failed call raises."""
    return grpc_aio().AioRpcError  # type: ignore[no-any-return]


def codes() -> Any:
    """gRPC's enumeration of what can become of a call."""
    return importlib.import_module("grpc").StatusCode


def usage_error() -> type[Exception]:
    """What a call on a closed channel raises."""
    return grpc_aio().UsageError  # type: ignore[no-any-return]


def tls_credentials(ca: bytes | None, key: bytes | None, cert: bytes | None) -> Any:
    """Credentials for a TLS channel; without a CA those of gRPC's own roots."""
    return importlib.import_module("grpc").ssl_channel_credentials(ca, key, cert)
