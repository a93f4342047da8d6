"""The imports of coordkit run one way, and its source keeps the rules that no running test can see.

The rule: each check is a row with a reason, and each row carries source that it must find and source that it
must leave alone, for a check that cannot fail proves nothing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "coordkit"


@dataclass(frozen=True, slots=True)
class Module:
    """A module of coordkit: its dotted name and its source, parsed."""

    name: str
    tree: ast.Module

    @classmethod
    def of(cls, name: str, source: str) -> Module:
        return cls(name, ast.parse(source))


Found = tuple[int, str]  # line, what stands there


def the_package() -> dict[str, Module]:
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = Module.of(name, path.read_text(encoding="utf-8"))
    return modules


MODULES = the_package()


def among(name: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of `places`; `a.b.*` stands for a.b and all within it."""
    return any(name == place or (place.endswith(".*") and f"{name}.".startswith(place[:-1])) for place in places)


# -- what a module says ----------------------------------------------------------------------------------


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that can run: without annotations and without what stands under `if TYPE_CHECKING`."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns"):
            continue
        if isinstance(tree, ast.If) and name == "body" and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from running(child)


def imported(module: Module) -> Iterator[Found]:
    """What a module imports when it runs, lazily too, as dotted names: `from a import b` is `a.b`."""
    for node in running(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def used(module: Module) -> Iterator[Found]:
    """The imported names a module uses when it runs, in full: `t.x` of `import time as t` is `time.x`."""
    known: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def spelled(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.Attribute) and (base := spelled(node.value)):
            return f"{base}.{node.attr}"
        return None

    inner = {id(node.value) for node in running(module.tree) if isinstance(node, ast.Attribute)}
    for node in running(module.tree):
        if id(node) not in inner and (name := spelled(node)):
            yield node.lineno, name  # type: ignore[attr-defined]


def methods(module: Module) -> Iterator[tuple[int, str, int]]:
    """Calls of attributes, of whatever object: line, attribute, count of arguments."""
    for node in running(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.lineno, node.func.attr, len(node.args) + len(node.keywords)


def starts_with(name: str, forbidden: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in forbidden)


# -- the layers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layer:
    """Modules with one place in the order of imports, and the other layers that they may import."""

    name: str
    modules: tuple[str, ...]
    below: tuple[str, ...]
    reason: str


LAYERS = (
    Layer(
        "core",
        ("coordkit.errors", "coordkit.model", "coordkit.lease", "coordkit.findings"),
        below=(),
        reason="values and rules: they are the same under every backend, clock and loop",
    ),
    Layer(
        "ground",
        (
            "coordkit.audit.*",
            "coordkit.backends",
            "coordkit.backends.contract",
            "coordkit.clock",
            "coordkit.journal",
            "coordkit.log",
            "coordkit.registry",
            "coordkit.retry",
            "coordkit.threads",
            "coordkit.waiting",
        ),
        below=("core",),
        reason="what both the engine and the backends stand on; the registry finds a backend by its name",
    ),
    Layer(
        "backends",
        (
            "coordkit.backends.memory",
            "coordkit.backends.memory_doctor",
            "coordkit.backends.sqlite.*",
            "coordkit.backends.inotify",
            "coordkit.backends.etcd.*",
            "coordkit.backends.pem",
            "coordkit.backends.redis.*",
            "coordkit.backends.zookeeper.*",
        ),
        below=("core", "ground"),
        reason="a backend fulfils the contract and knows nothing of who calls it",
    ),
    Layer(
        "engine",
        (
            "coordkit.campaign",
            "coordkit.engine",
            "coordkit.observation",
            "coordkit.session",
            "coordkit.term",
        ),
        below=("core", "ground"),
        reason="it knows the contract, never a backend",
    ),
    Layer(
        "fencing",
        (
            "coordkit.fencing",
            "coordkit.fencing.asgi",
            "coordkit.fencing.memory",
            "coordkit.fencing.recorded",
            "coordkit.fencing.redis",
            "coordkit.fencing.sql",
            "coordkit.fencing.sql_bound",
            "coordkit.fencing.sql_door",
            "coordkit.fencing.sql_stored",
            "coordkit.fencing.sql_update",
        ),
        below=("core", "ground"),
        reason="a fence guards a resource that may know nothing of elections",
    ),
    Layer(
        "fences at a backend",
        ("coordkit.fencing.etcd", "coordkit.fencing.file", "coordkit.fencing.stored", "coordkit.fencing.zookeeper"),
        below=("core", "ground", "backends", "engine", "fencing"),
        reason="they reach their store as its backend does, and know nothing of elections either",
    ),
    Layer(
        "faces",
        ("coordkit", "coordkit.face", "coordkit.shared", "coordkit.elector", "coordkit.aio", "coordkit.doctor"),
        below=("core", "ground", "engine", "fencing"),
        reason="the public names; they reach a backend by its URL alone",
    ),
    Layer(
        "testing",
        ("coordkit.testing.*",),
        below=("core", "ground", "backends", "engine", "fencing", "fences at a backend", "faces"),
        reason="for tests: nothing that runs in production may need it",
    ),
    Layer(
        "cli",
        ("coordkit.cli.*", "coordkit.__main__"),
        below=("core", "ground", "fencing", "fences at a backend", "faces"),
        reason="a user of the library like any other",
    ),
)


def layer_of(name: str) -> Layer:
    found = [layer for layer in LAYERS if among(name, layer.modules)]
    assert len(found) == 1, f"{name} is in {len(found)} layers: give it one place in LAYERS"
    return found[0]


def imports_of_ours(module: Module, names: set[str]) -> Iterator[Found]:
    """Which modules of coordkit a module imports."""
    for line, name in imported(module):
        if name.partition(".")[0] == "coordkit":
            yield line, name if name in names else name.rpartition(".")[0]


def wrong_way(module: Module, names: set[str]) -> list[str]:
    layer = layer_of(module.name)
    allowed = {layer.name, *layer.below}
    return [
        f"{module.name}:{line} ({layer.name}) imports {name} ({layer_of(name).name}): {layer.reason}"
        for line, name in imports_of_ours(module, names)
        if layer_of(name).name not in allowed
    ]


def circle(modules: dict[str, Module]) -> list[str]:
    """A circle of imports, if there is one."""
    graph = {
        name: {other for _, other in imports_of_ours(module, set(modules)) if other != name}
        for name, module in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    assert not wrong_way(MODULES[name], set(MODULES))


def test_imports_make_no_circle() -> None:
    assert not circle(MODULES)


def test_a_module_without_a_place_is_reported() -> None:
    with pytest.raises(AssertionError, match="give it one place"):
        layer_of("coordkit.helpers")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("coordkit.lease", "import coordkit.clock"),
        ("coordkit.retry", "from coordkit.session import Keeper"),
        ("coordkit.engine", "from coordkit import elector"),
        ("coordkit.session", "def open():\n    from coordkit.backends.sqlite import connect"),
        ("coordkit.backends.sqlite", "if fast:\n    import coordkit.engine as e"),
        ("coordkit.elector", "from coordkit.backends import memory"),
        ("coordkit.fencing.sql", "from coordkit import LeaderElector"),
        ("coordkit.cli.run", "import coordkit.testing.clock"),
    ],
)
def test_an_import_the_wrong_way_is_found(name: str, source: str) -> None:
    assert wrong_way(Module.of(name, source), PLANNED)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("coordkit.retry", "if TYPE_CHECKING:\n    from coordkit.term import TermView"),
        ("coordkit.engine", "from coordkit import clock\nfrom coordkit.lease import Instant"),
        ("coordkit.cli.run", "from coordkit import LeaderElector"),
    ],
)
def test_an_import_the_right_way_is_left_alone(name: str, source: str) -> None:
    assert not wrong_way(Module.of(name, source), PLANNED)


def test_a_circle_is_found() -> None:
    sources = {
        "coordkit.clock": "from coordkit.log import write",
        "coordkit.log": "from coordkit import retry",
        "coordkit.retry": "def wait():\n    import coordkit.clock",
    }
    planted = {name: Module.of(name, source) for name, source in sources.items()}
    assert set(circle(planted)) == set(sources)


# The names that the planted imports speak of, whether or not the modules exist.
PLANNED = {name for layer in LAYERS for name in layer.modules if not name.endswith(".*")} | {
    "coordkit.backends.sqlite",
    "coordkit.cli.run",
    "coordkit.fencing.sql",
    "coordkit.testing.clock",
}


# -- the rules of the source -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """What the source of some modules must not say. All `planted` are found, all `innocent` left alone."""

    name: str
    reason: str
    within: tuple[str, ...]
    look: Callable[[Module], Iterator[Found]]
    planted: tuple[str, ...]
    innocent: tuple[str, ...]
    without: tuple[str, ...] = ()

    def holds_for(self, name: str) -> bool:
        return among(name, self.within) and not among(name, self.without)

    def broken_by(self, module: Module) -> list[str]:
        return [f"{module.name}:{line}: {what}: {self.reason}" for line, what in self.look(module)]


PURE_PACKAGES = (
    *(
        "__future__",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
    ),
    *("statistics", "string", "types", "typing", "unicodedata", "urllib.parse", "hashlib", "coordkit"),
)
CLOCKS_AND_CHANCE = (
    *("time", "random", "secrets", "uuid", "os.urandom", "os.getrandom", "os.times"),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
)
LOCKS = (
    *("concurrent.futures", "multiprocessing", "threading", "_thread.allocate_lock", "_thread.RLock"),
    *("queue.Queue", "queue.LifoQueue", "queue.PriorityQueue"),
    *("asyncio.run_coroutine_threadsafe", "asyncio.wrap_future", "asyncio.to_thread"),
)
HARMLESS_OF_THREADING = ("threading.get_ident", "threading.current_thread", "threading.main_thread")
FOREIGN = {
    "tenacity": ("coordkit.retry", "coordkit.session"),
    "click": ("coordkit.cli.*",),
    "rich": ("coordkit.cli.*",),
    "sqlalchemy": (
        *("coordkit.fencing.sql", "coordkit.fencing.sql_bound"),
        *("coordkit.fencing.sql_door", "coordkit.fencing.sql_stored", "coordkit.fencing.sql_update"),
        "coordkit.cli.demo_ledger",
    ),
    "google": ("coordkit.backends.etcd.stubs",),
    "kazoo": ("coordkit.backends.zookeeper.*", "coordkit.fencing.zookeeper"),
    "redis": ("coordkit.backends.redis.voters", "coordkit.fencing.redis"),
    "pytest": ("coordkit.testing.*",),
}


def impure_imports(module: Module) -> Iterator[Found]:
    yield from ((line, name) for line, name in imported(module) if not starts_with(name, PURE_PACKAGES))


def reads_of_clock_or_chance(module: Module) -> Iterator[Found]:
    for line, name in used(module):
        if starts_with(name, CLOCKS_AND_CHANCE) and name != "time.sleep":
            yield line, name
    for line, name in imported(module):
        if name in ("time.*", "random.*", "secrets.*"):
            yield line, name
    for line, attribute, arguments in methods(module):
        if attribute == "time" and arguments == 0:  # loop.time()
            yield line, ".time()"


def shared_locks(module: Module) -> Iterator[Found]:
    for line, name in {*used(module), *imported(module)}:
        if starts_with(name, LOCKS) and name != "threading" and name not in HARMLESS_OF_THREADING:
            yield line, name
    for line, attribute, _ in methods(module):
        if attribute == "run_in_executor":
            yield line, ".run_in_executor()"


def swallowed_exceptions(module: Module) -> Iterator[Found]:
    def broad(node: ast.expr | None) -> bool:
        kinds = node.elts if isinstance(node, ast.Tuple) else [node]
        return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)

    def nothing(statement: ast.stmt) -> bool:
        return isinstance(statement, ast.Pass | ast.Continue) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        )

    def suppresses(node: ast.Call) -> bool:
        return ast.unparse(node.func).rpartition(".")[2] == "suppress"

    for node in running(module.tree):
        if isinstance(node, ast.ExceptHandler) and broad(node.type) and all(map(nothing, node.body)):
            yield node.lineno, "a broad except that does nothing"
        elif isinstance(node, ast.Call) and any(map(broad, node.args)) and suppresses(node):
            yield node.lineno, "a broad suppress"


def foreign_packages(module: Module) -> Iterator[Found]:
    for line, name in imported(module):
        top = name.partition(".")[0]
        allowed = top in sys.stdlib_module_names or top == "coordkit" or among(module.name, FOREIGN.get(top, ()))
        if not allowed:
            yield line, name


RULES = (
    Rule(
        "the core is pure",
        "no I/O, no clock, no threads: what a lease allows is a function of its arguments, and so is a judgement",
        within=(
            *("coordkit.errors", "coordkit.model", "coordkit.lease", "coordkit.audit.*", "coordkit.findings"),
            *("coordkit.backends.zookeeper.layout", "coordkit.backends.zookeeper.lifeline"),
            *("coordkit.backends.redis.layout", "coordkit.backends.redis.ballot"),
        ),
        look=impure_imports,
        planted=(
            "import time",
            "import random",
            "import asyncio",
            "from threading import Thread",
            "def f():\n    import os.path",
            "import urllib.request",
        ),
        innocent=("import math\nfrom urllib.parse import quote\nfrom coordkit.errors import ConfigError",),
    ),
    Rule(
        "time and chance are arguments",
        "only clock.py and the drivers of real stores read a clock or a random source (rule 3)",
        within=("coordkit.*",),
        without=("coordkit.clock", "coordkit.backends.sqlite.*", "coordkit.backends.inotify", "coordkit.cli.guard"),
        look=reads_of_clock_or_chance,
        planted=(
            "import time\nx = time.time()",
            "import time as t\ndef f(read=t.monotonic): ...",
            "from time import monotonic\nmonotonic()",
            "from time import *",
            "import time\nread = getattr(time, 'clock_gettime')",
            "import random\nrandom.random()",
            "import random\nchance = random.Random()",
            "from secrets import token_hex as fresh\nx = fresh(8)",
            "import uuid\nx = uuid.uuid4().hex",
            "import os\nos.urandom(8)",
            "from datetime import datetime\ndatetime.now()",
            "import datetime\nx = datetime.datetime.now(datetime.UTC)",
            "import asyncio\nasyncio.get_running_loop().time()",
            "def f(loop):\n    return loop.time()",
        ),
        innocent=(
            "import random\ndef wait(chance: random.Random) -> float:\n    return chance.random()",
            "def f(clock):\n    return clock.now()",
            "import time\ntime.sleep(1)",
            "from datetime import datetime\ndatetime.fromtimestamp(0)",
            "class Row:\n    time = 0\nRow.time",
        ),
    ),
    Rule(
        "no lock between the application and the engine",
        "a Ctrl-C inside such a lock leaves it held and stops every renewal of the process",
        within=(
            "coordkit.aio",
            "coordkit.campaign",
            "coordkit.elector",
            "coordkit.engine",
            "coordkit.face",
            "coordkit.observation",
            "coordkit.session",
            "coordkit.term",
        ),
        look=shared_locks,
        planted=(
            "import concurrent.futures",
            "from concurrent.futures import Future",
            "from concurrent import futures",
            *(f"import threading\nx = threading.{name}()" for name in ("Lock", "RLock", "Condition")),
            *(f"from threading import {name}" for name in ("Event", "Semaphore", "Thread", "Timer")),
            "import threading as t\nt.Barrier(2)",
            "import _thread\n_thread.allocate_lock()",
            "from queue import Queue\nQueue()",
            "import asyncio\nasyncio.run_coroutine_threadsafe(f(), loop)",
            "import asyncio\nasyncio.to_thread(f)",
            "loop.run_in_executor(None, f)",
        ),
        innocent=(
            "from queue import Empty, SimpleQueue\nSimpleQueue()",
            "import asyncio\nasyncio.Event()",
            "import threading\nthreading.get_ident()",
            "loop.call_soon_threadsafe(f)",
        ),
    ),
    Rule(
        "no error disappears",
        "a broad except that does nothing hides the errors nobody thought of",
        within=("coordkit.*",),
        look=swallowed_exceptions,
        planted=(
            "try:\n    f()\nexcept Exception:\n    pass",
            "try:\n    f()\nexcept:\n    ...",
            "try:\n    f()\nexcept (OSError, BaseException) as error:\n    'never mind'",
            "for x in y:\n    try:\n        f()\n    except Exception:\n        continue",
            "import contextlib\nwith contextlib.suppress(Exception):\n    f()",
        ),
        innocent=(
            "try:\n    f()\nexcept Exception as error:\n    log(error)",
            "try:\n    f()\nexcept OSError:\n    pass",
            "with contextlib.suppress(FileNotFoundError):\n    f()",
        ),
    ),
    Rule(
        "one base dependency",
        "every other client is an extra, imported by its own adapter alone",
        within=("coordkit.*",),
        look=foreign_packages,
        planted=(
            "import click",
            "def f():\n    from sqlalchemy import text",
            "import numpy",
            "import tenacity",
        ),
        innocent=("import sqlite3, json\nfrom coordkit.model import FencingToken",),
    ),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    broken = [line for name in MODULES if rule.holds_for(name) for line in rule.broken_by(MODULES[name])]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_rule_finds_each_planted_violation_and_only_those(rule: Rule) -> None:
    place = next(name.removesuffix(".*") for name in rule.within)
    missed = [source for source in rule.planted if not rule.broken_by(Module.of(place, source))]
    accused = [source for source in rule.innocent if rule.broken_by(Module.of(place, source))]
    assert not missed, "not found"
    assert not accused, "found, though innocent"


def test_a_rule_speaks_of_the_modules_it_names() -> None:
    """The names of places are compared exactly: `coordkit.clock` is not `coordkit.clocks`."""
    time = next(rule for rule in RULES if rule.name == "time and chance are arguments")
    assert time.holds_for("coordkit.session")
    assert time.holds_for("coordkit.backends.contract")
    assert time.holds_for("coordkit")
    assert not time.holds_for("coordkit.clock")
    assert time.holds_for("coordkit.clocks")
