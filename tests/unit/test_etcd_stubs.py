"""How etcd's messages are made of what etcd3 carries. With each protobuf: tests/integration/test_etcd_stubs.py."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from coordkit.backends.etcd import stubs

OF_2020 = r"""
_b=sys.version_info[0]<3 and (lambda x:x) or (lambda x:x.encode('latin1'))
DESCRIPTOR = _descriptor.FileDescriptor(name='kv.proto', serialized_pb=_b('\n\x08kv\xff\x00'))
"""
OF_2021 = r"DESCRIPTOR = _descriptor.FileDescriptor(name='kv.proto', serialized_pb=b'\n\x08kv\xff\x00')"
OF_TODAY = r"DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(b'\n\x08kv\xff\x00')"


@pytest.mark.parametrize("source", [OF_2020, OF_2021, OF_TODAY], ids=["2020", "2021", "today"])
def test_a_descriptor_is_read_whichever_protoc_wrote_it(source: str) -> None:
    assert stubs._descriptor(source) == b"\n\x08kv\xff\x00"


def test_a_source_without_a_descriptor_is_refused() -> None:
    with pytest.raises(ImportError, match="no serialized descriptor"):
        stubs._descriptor("from etcd3.other import *")


def test_another_package_of_that_name_is_not_etcd3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etcd3").mkdir()
    (tmp_path / "etcd3" / "__init__.py").write_text("raise RuntimeError('it is not run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "etcd3")
    with pytest.raises(ModuleNotFoundError) as caught:
        stubs._spec("rpc_pb2")
    assert caught.value.name == "etcd3.etcdrpc"  # so that it is told as a package that is not installed


@pytest.mark.parametrize("loader", [None, object()])
def test_an_etcd3_without_sources_is_refused(loader: object) -> None:
    spec = ModuleSpec("etcd3.etcdrpc.kv_pb2", None, origin="/frozen/kv_pb2.pyc")
    spec.loader = loader  # type: ignore[assignment]
    with pytest.raises(ImportError, match=r"/frozen/kv_pb2\.pyc is there without its source"):
        stubs._source(spec)


def test_the_messages_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stubs.load()
    assert stubs.load() is before
    for name in [name for name in sys.modules if name.partition(".")[0] == "etcd3"]:
        monkeypatch.delitem(sys.modules, name)  # as a program does that imports everything anew
    after = stubs.load()
    assert after is not before
    assert after.TxnRequest is before.TxnRequest
    assert after.kv_pb2 is sys.modules["etcd3.etcdrpc.kv_pb2"]
