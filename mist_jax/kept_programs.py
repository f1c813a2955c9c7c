"""Compiled programs kept on disk as executables: a later process neither traces nor lowers them again.

JAX's own cache saves the compilation alone; a process still traces the program to find its key, which takes longer than
all the rest of a first answer. Here the key is made of what the trace depends on instead: the function's name, the
structure and the types of its arguments, the package's sources and catalogs, the versions of JAX and its settings, and
the machine's processor. Its file names an executable, which is kept by the program's own text: sources that change and
leave a program as it was cost a trace, but no compilation. Whatever goes wrong (another JAX, a read-only home, a broken
file), the program is compiled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mist_jax.paths import PACKAGE, cache_dir
from mist_jax.programs import COMPILING, Effort
from mist_jax.queueing.root import Form, written_as

#: Held while a program is traced. Two at once share the interpreter, and both end late; one after the other, the first
#: is compiled while the second is traced.
_TRACING = threading.Lock()

#: Files that nothing read for so long are removed when a new one is written.
KEEP_S = 30 * 86400.0


class Kept:
    """A function of pytrees of numbers that is compiled once for each structure of its arguments, and once for all
    processes. It cannot be differentiated or mapped over; `programs.compiled` can."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        effort: Effort = Effort.FULL,
        form: Form = Form.SHORT,
    ) -> None:
        """`name` must tell the function apart from all others; `effort` as in `programs.compiled`; `form` of the loads
        that it solves for: a function that takes derivatives needs `Form.DIFFERENTIABLE`."""
        self.function, self.name, self.effort, self.form = function, name, effort, form
        self._known: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """The value of the function: numbers of the arguments as float64 or int64, a pytree of arrays back."""
        import jax

        program, skeleton, values = self._prepared(args)
        return jax.tree.unflatten(jax.tree.structure(skeleton), program(*values))

    def prepare(self, *args: Any) -> None:
        """Find or compile the program for arguments like these, and do not run it."""
        self._prepared(args)

    def _prepared(self, args: tuple[Any, ...]) -> tuple[Any, Any, list[Any]]:
        """(program, skeleton of its result, the numbers that it takes)."""
        import jax

        leaves, structure = jax.tree.flatten(args)
        values = [np.asarray(leaf) for leaf in leaves]
        types = tuple((v.shape, v.dtype.name) for v in values)
        key = (structure, types, jax.dtypes.canonicalize_dtype(np.float64).name)
        if key not in self._known:
            keep: Callable[[], None] | None = None
            with self._lock:
                if key not in self._known:
                    text = f"{self.name} {self.effort.name} {self.form.name} {key}"
                    *self._known[key], keep = self._find(structure, types, text, values)
            if keep is not None:
                keep()  # another thread may run the program meanwhile
        return (*self._known[key], values)

    def _find(
        self, structure: Any, types: tuple, key: str, values: list[Any]
    ) -> tuple[Any, Any, Callable[[], None] | None]:
        """(program, skeleton of its result, what writes them for later processes)."""
        alias = _path(key)
        known = None if alias is None else _read(alias)
        if known is not None:
            program = _load(*known, values)
            if program is not None:
                return program, known[1], None
        lowered, skeleton = self._lower(structure, types)
        if alias is None:
            return lowered.compile(), skeleton, None
        # other sources, perhaps the same program
        name = _digest(f"{_machine()} {self.effort.name} {lowered.as_text()}")
        program, new = _load(name, skeleton, values), False
        if program is None:
            COMPILING.set()
            with _not_cached_by_jax() as was_read:
                program, new = lowered.compile(), True
            if was_read():
                return program, skeleton, None

        def keep() -> None:
            if not new or _store(name, program):
                _write(alias, pickle.dumps((name, skeleton)))

        return program, skeleton, keep

    def _lower(self, structure: Any, types: tuple) -> tuple[Any, Any]:
        """The program ready to be compiled, and a pytree like its result with the places of the leaves."""
        import jax

        from mist_jax.programs import compiled

        seen: list[Any] = []

        def flat(*leaves: Any) -> list[Any]:
            out, tree = jax.tree.flatten(self.function(*jax.tree.unflatten(structure, leaves)))
            seen.append(jax.tree.unflatten(tree, range(len(out))))
            return out

        flat.__name__ = f"kept_{self.function.__name__}"  # what profiles and logs of compilations show
        examples = [jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for shape, dtype in types]
        with _TRACING, written_as(self.form):
            return compiled(flat, effort=self.effort).lower(*examples), seen[-1]


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """Of the sources and catalogs that a trace may depend on."""
    h = hashlib.blake2b(digest_size=16)
    for path in sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "catalog").glob("*.json")]):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in ("io", "report"):
            h.update(str(place).encode())
            h.update(path.read_bytes())
    return h.hexdigest()


@lru_cache(maxsize=1)
def _machine() -> str:
    """What compiled code depends on beside the program: versions, settings, and the processor's features."""
    import jax
    from jaxlib.version import __version__ as jaxlib_version

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((x for x in lines if x.startswith(("flags", "Features"))), platform.processor())
    settings = (os.environ.get("XLA_FLAGS", ""), str(jax.config.jax_default_matmul_precision))  # type: ignore[attr-defined]
    versions = (jax.__version__, jaxlib_version, np.__version__)
    return " ".join((*versions, *settings, platform.machine(), features))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _folder() -> Path:
    return cache_dir() / "programs"


def _path(key: str) -> Path | None:
    """The file that knows the program of a key; None on an accelerator, or for a key that names an address."""
    import jax

    if jax.default_backend() != "cpu" or " at 0x" in key:
        return None
    return _folder() / _digest(f"{fingerprint()} {_machine()} {key}")


def _read(path: Path) -> tuple[str, Any] | None:
    """(name of the executable, skeleton of its result) of a key's file."""
    try:
        name, skeleton = pickle.loads(path.read_bytes())
        os.utime(path)
    except Exception:  # not there, or broken
        return None
    return name, skeleton


#: One entry for each program that JAX's own cache gave.
_HITS: list[str] = []


@lru_cache(maxsize=1)
def _listen() -> None:
    import jax

    def on_event(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            _HITS.append(event)

    jax.monitoring.register_event_listener(on_event)


@contextmanager
def _not_cached_by_jax() -> Iterator[Callable[[], bool]]:
    """Compile without JAX's cache writing; what it gives is a function that says whether JAX's cache was read.

    An executable that came from JAX's cache cannot be written again: its functions are lost (XLA's CPU backend).
    """
    import jax

    _listen()
    name, count = "jax_persistent_cache_min_compile_time_secs", len(_HITS)
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    try:
        yield lambda: len(_HITS) > count
    finally:
        jax.config.update(name, before)


def _load(name: str, skeleton: Any, values: list[Any]) -> Any:
    """The executable of that name, once it has run on `values`; None if there is none."""
    import jax
    from jax.experimental.serialize_executable import deserialize_and_load

    path = _folder() / f"{name}.xla"
    if not path.exists():
        return None
    try:
        payload = zlib.decompress(path.read_bytes())
        inputs = jax.tree.structure((tuple(range(len(values))), {}))
        outputs = jax.tree.structure([0] * len(jax.tree.leaves(skeleton)))
        program = deserialize_and_load(payload, inputs, outputs)
        jax.block_until_ready(program(*values))
        os.utime(path)
    except Exception:  # another JAX, a broken file: compile it
        return None
    return program


def _store(name: str, program: Any) -> bool:
    """Write an executable; False where that cannot be done."""
    from jax.experimental.serialize_executable import serialize

    try:
        content = zlib.compress(serialize(program)[0], 1)
    except Exception:  # an executable that cannot be written
        return False
    return _write(_folder() / f"{name}.xla", content)


def _write(path: Path, content: bytes) -> bool:
    """A file in one piece; old ones go. False where the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.iterdir():
            if time.time() - old.stat().st_mtime > KEEP_S:
                old.unlink(missing_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(content)
        part.replace(path)  # two processes at once: the last one wins, both files are whole
    except OSError:  # a read-only home: go without
        return False
    return True
