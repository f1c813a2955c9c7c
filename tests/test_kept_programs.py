"""Programs kept on disk: the same numbers, no second trace, and a broken file only costs a compilation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mist_jax import kept_programs, programs
from mist_jax.kept_programs import Kept
from mist_jax.pytree import pytree, static


@pytree
class Chip:
    rate: float
    kind: str = static(default="gpu")


class Counted:
    """How often the function below is traced, over all `Kept` that are made of it."""

    traces = 0


def seconds(chip: Chip, work: np.ndarray) -> dict[str, Chip | jax.Array]:
    Counted.traces += 1
    twice = 2.0 if chip.kind == "gpu" else 1.0
    return {"s": jnp.cumsum(work) / chip.rate, "chip": Chip(rate=chip.rate * twice, kind=chip.kind)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIST_CACHE_DIR", str(tmp_path))
    Counted.traces = 0
    with jax.enable_x64(True):
        yield tmp_path / "programs"


def files(folder) -> tuple[int, int]:
    """(keys, executables) in the folder."""
    executables = len(list(folder.glob("*.xla")))
    return len(list(folder.iterdir())) - executables, executables


def test_a_second_process_neither_traces_nor_gets_other_numbers(folder):
    work = np.linspace(0.0, 1.0, 7)
    first = Kept(seconds, "seconds")(Chip(rate=3.0), work)
    assert Counted.traces == 1
    assert files(folder) == (1, 1)
    again = Kept(seconds, "seconds")(Chip(rate=3.0), work)  # nothing known: as in another process
    assert Counted.traces == 1
    np.testing.assert_array_equal(again["s"], first["s"])
    np.testing.assert_array_equal(first["s"], np.asarray(jax.jit(seconds)(Chip(rate=3.0), work)["s"]))
    assert isinstance(again["chip"], Chip)
    assert (float(again["chip"].rate), again["chip"].kind) == (6.0, "gpu")


def test_numbers_share_a_program_and_structure_does_not(folder):
    program, work = Kept(seconds, "seconds"), np.ones(3)
    assert float(program(Chip(rate=2.0), work)["s"][-1]) == 1.5
    assert float(program(Chip(rate=4), np.ones(3))["s"][-1]) == 0.75  # a whole number is another type
    assert float(program(Chip(rate=5.0), work)["s"][-1]) == pytest.approx(0.6)
    assert Counted.traces == 2
    assert float(program(Chip(rate=2.0, kind="tpu"), work)["chip"].rate) == 2.0
    program(Chip(rate=2.0), np.ones(4))
    assert Counted.traces == 4
    assert files(folder) == (4, 4)


def test_other_sources_of_the_same_program_cost_a_trace_and_no_compilation(folder, monkeypatch):
    first = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    monkeypatch.setattr(kept_programs, "fingerprint", lambda: "changed")
    monkeypatch.setattr(kept_programs, "_store", None)  # nothing is compiled, so nothing is stored
    again = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    np.testing.assert_array_equal(again["s"], first["s"])
    assert Counted.traces == 2
    assert files(folder) == (2, 1)
    Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    assert Counted.traces == 2


@pytest.mark.parametrize("content", [b"", b"nonsense"])
@pytest.mark.parametrize("which", ["key", "executable"])
def test_a_broken_file_is_replaced(folder, content, which):
    first = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    path = next(p for p in folder.iterdir() if (p.suffix == ".xla") == (which == "executable"))
    path.write_bytes(content)
    again = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    np.testing.assert_array_equal(again["s"], first["s"])
    assert Counted.traces == 2
    assert path.read_bytes() != content
    assert files(folder) == (1, 1)


def test_nothing_is_kept_of_what_names_an_address(folder):
    assert kept_programs._path("closure <function f at 0x7f12>") is None
    assert kept_programs._path("a plain key").parent == folder


def test_a_folder_that_cannot_be_written_is_no_trouble(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIST_CACHE_DIR", str(tmp_path / "file"))
    out = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    assert float(out["s"][-1]) == 1.0


def test_what_came_from_jax_s_own_cache_is_not_kept(folder, monkeypatch):
    """Such an executable has lost its functions when it is written once more; see `_not_cached_by_jax`."""

    lower = Kept._lower

    class FromCache:
        def __init__(self, lowered):
            self.as_text, self._lowered = lowered.as_text, lowered

        def compile(self):
            jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
            return self._lowered.compile()

    def lower_cached(self, structure, types):
        lowered, skeleton = lower(self, structure, types)
        return FromCache(lowered), skeleton

    monkeypatch.setattr(Kept, "_lower", lower_cached)
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    out = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    assert float(out["s"][-1]) == 1.0
    assert not folder.exists()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before


def test_a_program_that_does_not_run_is_compiled_again(folder, monkeypatch):
    first = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))

    def broken(*args, **kwargs):
        def run(*values):
            raise jax.errors.JaxRuntimeError("NOT_FOUND: function")

        return run

    monkeypatch.setattr("jax.experimental.serialize_executable.deserialize_and_load", broken)
    again = Kept(seconds, "seconds")(Chip(rate=2.0), np.ones(2))
    np.testing.assert_array_equal(again["s"], first["s"])


def test_sums_stay_in_the_program() -> None:
    """Not handed to a library, which costs a pass through memory each (`programs.compiled`)."""
    summed = programs.compiled(lambda x: jnp.sum(jnp.sin(x), axis=-1))
    text = summed.lower(np.zeros((8, 512, 16), np.float32)).compile().as_text()
    assert "reduce(" in text
    assert "ynn" not in text
