"""Scenes of etcd's stubs, played by interpreters with other packages than those of the tests.

The rule: nothing is imported above a scene but the standard library, for the order of imports is what is tested. What a
scene returns is JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import pickle
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

LOWEST = -(2**63)


def versions() -> dict[str, str]:
    """What is here."""
    import google.protobuf
    import grpc
    from google.protobuf.internal import api_implementation

    return {"protobuf": google.protobuf.__version__, "by": api_implementation.Type(), "grpc": grpc.__version__}


def attempt(name: str) -> str:
    """Import a module; the name of the exception if that failed."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return type(error).__name__
    return "imported"


# --- messages and etcd3's own classes -------------------------------------------------------------------------


def coordkit_first() -> dict[str, Any]:
    """The usual order: coordkit, then perhaps etcd3."""
    rpc = backend()
    import etcd3

    return {**versions(), **checked(rpc, etcd3)}


def etcd3_first() -> dict[str, Any]:
    """The program imports etcd3, whether that works or not, then coordkit, then etcd3 once more."""
    alone = attempt("etcd3")
    rpc = backend()
    import etcd3

    return {**versions(), **checked(rpc, etcd3), "alone": alone}


def backend() -> ModuleType:
    """What coordkit uses, as it loads it: by the import of its backend."""
    from coordkit.backends.etcd import stubs

    assert "coordkit.backends.etcd.adapter" in sys.modules
    return stubs.load()


def checked(rpc: ModuleType, etcd3: ModuleType) -> dict[str, Any]:
    """Everything that both need of the messages; what differs between environments is returned."""
    assert etcd3.etcdrpc is rpc
    assert rpc.rpc_pb2.RangeRequest is rpc.RangeRequest
    check_messages(rpc)
    check_etcd3(rpc, etcd3)
    made = rpc.rpc_pb2.DESCRIPTOR.pool is not default_pool()
    if made:  # etcd3's own cannot be pickled at all
        request = rpc.RequestOp(request_txn=rpc.TxnRequest(success=[rpc.RequestOp()]))
        assert pickle.loads(pickle.dumps(request)) == request
    return {"made": made, "in_default_pool": in_default_pool()}


def check_messages(rpc: ModuleType) -> None:
    """A transaction with everything in it comes out of its bytes as it went in."""
    oldest = rpc.Compare(
        key=b"e/", range_end=b"e0", target=rpc.Compare.CREATE, result=rpc.Compare.GREATER, create_revision=LOWEST
    )
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=b"\x00\xff", value=bytes(range(256)), lease=-1))
    read = rpc.RequestOp(
        request_range=rpc.RangeRequest(
            key=b"e/",
            range_end=b"e0",
            limit=1,
            sort_order=rpc.RangeRequest.ASCEND,
            sort_target=rpc.RangeRequest.CREATE,
            max_create_revision=2**63 - 1,
        )
    )
    inner = rpc.TxnRequest(compare=[oldest], success=[put], failure=[read])
    whole = rpc.TxnRequest(compare=[oldest], success=[put, read, rpc.RequestOp(request_txn=inner)], failure=[read])
    again = rpc.TxnRequest.FromString(whole.SerializeToString())
    assert again == whole
    assert again is not whole
    assert again.compare[0].create_revision == LOWEST
    assert again.compare[0].WhichOneof("target_union") == "create_revision"
    assert again.success[0].request_put.value == bytes(range(256))
    assert again.success[2].request_txn.compare[0].range_end == b"e0"
    assert again.success[2].WhichOneof("request") == "request_txn"
    # A header, and a part of another file.
    answer = rpc.RangeResponse(header=rpc.ResponseHeader(cluster_id=2**64 - 1, revision=7), count=1)
    answer.kvs.add(key=b"k", value=b"v", create_revision=3, lease=0x1234)
    again = rpc.RangeResponse.FromString(answer.SerializeToString())
    assert (again.header.cluster_id, again.kvs[0].lease, again.kvs[0].create_revision) == (2**64 - 1, 0x1234, 3)
    # What was made elsewhere: the bytes of a keepalive that was answered with a TTL of -1.
    beat = rpc.LeaseKeepAliveResponse.FromString(b"\x10\x05\x18" + b"\xff" * 9 + b"\x01")
    assert (beat.ID, beat.TTL) == (5, -1)


def check_etcd3(rpc: ModuleType, etcd3: ModuleType) -> None:
    """etcd3's own classes, as far as they go without a server."""
    from etcd3 import events

    client: Any = etcd3.client(host="127.0.0.1", port=1, timeout=1)
    try:
        transactions = client.transactions
        compare = (transactions.value("k") == "v").build_message()
        assert (compare.target, compare.result, compare.value) == (rpc.Compare.VALUE, rpc.Compare.EQUAL, b"v")
        compare = (transactions.create("k", "l") > LOWEST).build_message()
        assert (compare.create_revision, compare.range_end) == (LOWEST, b"l")
        put, get, delete = client._ops_to_requests(
            [transactions.put("k", "v", lease=7), transactions.get("k"), transactions.delete("k")]
        )
        assert (put.request_put.lease, get.request_range.key, delete.request_delete_range.key) == (7, b"k", b"k")
        answer = rpc.WatchResponse(watch_id=1)
        answer.events.add(type=1, kv={"key": b"gone"})
        assert isinstance(events.new_event(answer.events[0]), events.DeleteEvent)
        assert answer.events[0].DELETE == 1
        assert client.lock("name", ttl=5).name == "name"
    finally:
        client.close()


def default_pool() -> Any:
    from google.protobuf import descriptor_pool

    return descriptor_pool.Default()


def in_default_pool() -> list[str]:
    """Which of etcd's names are taken in the pool that all libraries share."""
    found = []
    for name in ("kv.proto", "auth.proto", "rpc.proto"):
        try:
            default_pool().FindFileByName(name)
        except KeyError:
            continue
        found.append(name)
    for name in ("mvccpb.KeyValue", "authpb.User", "etcdserverpb.TxnRequest"):
        try:
            default_pool().FindMessageTypeByName(name)
        except KeyError:
            continue
        found.append(name)
    return found


def interface(whose: str) -> dict[str, str]:
    """The names that `etcd3.etcdrpc` and its modules give away, and what they are: etcd3's own, or those made here."""
    if whose == "coordkit":
        backend()
    import etcd3.etcdrpc as rpc

    return {
        f"{module.__name__}.{name}": shown(value)
        for module in (rpc.kv_pb2, rpc.auth_pb2, rpc.rpc_pb2, rpc)  # type: ignore[attr-defined]
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }


def shown(value: Any) -> str:
    """A name's value as text: the same for equal definitions."""
    descriptor = getattr(value, "DESCRIPTOR", None)
    if hasattr(value, "serialized_pb"):
        return f"file {value.name} {value.serialized_pb.hex()}"
    if descriptor is None:
        return str(value) if isinstance(value, int) else type(value).__name__
    public = sorted(name for name in dir(value) if not name.startswith("_"))
    return f"{type(value).__name__} {descriptor.full_name} {public}"


# --- other libraries in the process ---------------------------------------------------------------------------


def neighbours(library: str, first: str) -> dict[str, Any]:
    """Another etcd library, imported before or after coordkit; both make their messages."""
    if first == "coordkit":
        rpc, theirs = backend(), NEIGHBOURS[library]()
    else:
        theirs, rpc = NEIGHBOURS[library](), backend()
    import etcd3

    assert etcd3.etcdrpc is rpc
    check_messages(rpc)
    check_etcd3(rpc, etcd3)
    assert theirs is not rpc.RangeRequest
    message = theirs(key=b"k", range_end=b"l", limit=3)
    assert rpc.RangeRequest.FromString(message.SerializeToString()).range_end == b"l"
    assert theirs.FromString(rpc.RangeRequest(limit=7).SerializeToString()).limit == 7
    return {**versions(), "in_default_pool": in_default_pool()}


def aetcd_requests() -> Any:
    """The RangeRequest of aetcd."""
    import aetcd.rpc

    return aetcd.rpc.RangeRequest


def pyetcd_requests() -> Any:
    """The RangeRequest of etcd-sdk-python."""
    import pyetcd.etcdrpc

    return pyetcd.etcdrpc.RangeRequest


def aioetcd3_requests() -> Any:
    """The RangeRequest of aioetcd3."""
    from aioetcd3._etcdv3 import rpc_pb2

    return rpc_pb2.RangeRequest


NEIGHBOURS = {"aetcd": aetcd_requests, "pyetcd": pyetcd_requests, "aioetcd3": aioetcd3_requests}


# --- on a server ----------------------------------------------------------------------------------------------


def lead(url: str, host: str, port: str) -> dict[str, Any]:
    """One leads; etcd3's own client writes and reads in the same process."""
    import coordkit

    with coordkit.LeaderElector(url, "stubs", ttl=20.0).lead(timeout=30.0) as term:
        import etcd3

        client = etcd3.client(host=host, port=int(port), timeout=10)
        try:
            client.put("etcd3/key", "from etcd3")
            value, about = client.get("etcd3/key")
            assert value == b"from etcd3"
            assert about is not None
            moved, _ = client.transaction(
                compare=[client.transactions.create("etcd3/key") == about.create_revision],
                success=[client.transactions.put("etcd3/key", "moved")],
                failure=[],
            )
            assert moved
            entries = [value for value, _ in client.get_all()]
            assert any(term.candidate.id.encode() in value for value in entries)
        finally:
            client.close()
        term.ensure()
        term.confirm(timeout=10.0)
        return {**versions(), "token": int(term.token)}


def lead_beside(library: str, first: str, url: str, host: str, port: str) -> dict[str, Any]:
    """One leads while another library's client writes and reads in the same process."""
    if first != "coordkit":
        NEIGHBOURS[library]()
    import coordkit

    with coordkit.LeaderElector(url, "stubs", ttl=20.0).lead(timeout=30.0) as term:
        assert CLIENTS[library](host, int(port)) == b"beside"
        term.ensure()
        term.confirm(timeout=10.0)
        return {**versions(), "token": int(term.token)}


def through_aetcd(host: str, port: int) -> bytes:
    """Write a key with aetcd and read it."""
    import aetcd

    async def play() -> bytes:
        async with aetcd.Client(host=host, port=port, timeout=10) as client:
            await client.put(b"beside/aetcd", b"beside")
            return bytes((await client.get(b"beside/aetcd")).value)

    return asyncio.run(play())


def through_pyetcd(host: str, port: int) -> bytes:
    """Write a key with etcd-sdk-python and read it."""
    import pyetcd

    client = pyetcd.client(host=host, port=port, timeout=10)
    try:
        client.put("beside/pyetcd", "beside")
        return bytes(client.get("beside/pyetcd")[0])
    finally:
        client.close()


CLIENTS = {"aetcd": through_aetcd, "pyetcd": through_pyetcd}


# --- packages that are missing --------------------------------------------------------------------------------


class Without:
    """A finder that no longer finds some packages: as if they were not installed."""

    def __init__(self, finder: Any, package: str) -> None:
        self._finder, self._package = finder, package

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """What the other finds, but for these."""
        if name == self._package or name.startswith(f"{self._package}."):
            return None
        return self._finder.find_spec(name, path, target)


def missing(package: str) -> list[list[str]]:
    """Make an elector without this package, twice; then with it."""
    import coordkit

    finders = [*sys.meta_path]
    sys.meta_path[:] = [Without(finder, package) for finder in finders]  # type: ignore[misc]
    told = []
    for _ in range(2):
        try:
            coordkit.LeaderElector("etcd://127.0.0.1:1", "stubs")
        except coordkit.BackendNotInstalled as error:
            told.append([str(error), type(error.__cause__).__name__])
    sys.meta_path[:] = finders
    coordkit.LeaderElector("etcd://127.0.0.1:1", "stubs").close()  # installed meanwhile: no new process is needed
    return told


# --- threads --------------------------------------------------------------------------------------------------


def threads() -> dict[str, Any]:
    """Many threads ask for the stubs at once, and others import etcd3 at the same time."""
    start = threading.Barrier(12)
    loaded: list[ModuleType] = []
    tried: list[str] = []

    def ask() -> None:
        start.wait()
        loaded.append(backend())

    def program() -> None:
        start.wait()
        tried.append(attempt("etcd3"))

    crowd = [threading.Thread(target=play) for play in [ask, ask, program] * 4]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    import etcd3

    (one,) = set(loaded)
    assert sys.modules["etcd3.etcdrpc.kv_pb2"].KeyValue is type(one.RangeResponse().kvs.add())  # type: ignore[attr-defined]
    return {**checked(one, etcd3), "loaded": len(loaded), "tried": len(tried)}


class Held:
    """A finder by which one module does not run until it is let go: so its import is under way, and stays so."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.reached, self.go_on = threading.Event(), threading.Event()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        """The module's own spec; not here is it held up, for all imports wait while one is searching."""
        if name != self._name or self.reached.is_set():
            return None
        spec: Any = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.reached.set()
            assert self.go_on.wait(20)
            run(module)

        spec.loader.exec_module = exec_module
        return spec


def caught_in_the_act(module: str, when: str) -> dict[str, Any]:
    """Another thread is in the middle of importing etcd3, and has come as far as this module: since before coordkit
    asks for the stubs, or since it has begun to make them."""
    held = Held(module)
    sys.meta_path.insert(0, held)  # type: ignore[arg-type]
    tried: list[str] = []
    program = threading.Thread(target=lambda: tried.append(attempt("etcd3")))

    def begin() -> None:
        program.start()
        assert held.reached.wait(20)

    original, find_spec = importlib.import_module, importlib.util.find_spec

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if name == "etcd3":
            held.go_on.set()  # what follows waits for the other's import, or comes just after it
        return original(name, package)

    def looked_for(name: str, package: str | None = None) -> Any:
        found = find_spec(name, package)
        if name == "etcd3" and not program.ident:
            begin()
        return found

    if when == "before":
        begin()
    else:
        importlib.util.find_spec = looked_for
    importlib.import_module = import_module
    rpc = backend()
    program.join()
    import etcd3

    return {**versions(), **checked(rpc, etcd3), "tried": tried}
