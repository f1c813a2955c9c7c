"""LLM pools in steady state under the calls of several stages: the engine's own model, nothing beside it.

The calls of all stages that share a pool are one mix: sequences at S = sum lambda_i b_i r_i per second (b branches,
r rounds) with the mean new and cached prompt tokens of a sequence, the mean number of decode iterations
(OSL - 1) / tokens per step, and the mean context of a decoding sequence. `queueing.steady` gives the pool's TTFT,
TPOT and load for the mix. Stage i then takes

    r_i (TTFT_mix + alone(new_i, past_i) - alone(mix) + (longest_i - 1) / g_i TPOT)

with `alone` the TTFT of such a prompt on an idle pool: sequences that step together have one TPOT, prompts differ by
their own prefill. One stage alone gets exactly what `evaluate` gives without a pipeline.

Services and transfers that run on the pool's own machines come first: iterations get what these leave of the chips'
FLOP/s and memory bandwidth on average (`left_of`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import jax
import numpy as np

from mist_jax import build
from mist_jax.batch_last import over_points
from mist_jax.kept_programs import Kept
from mist_jax.physics.demand import INDEX
from mist_jax.pipelines.points import BLOCK, OverPoints, rows, stacked
from mist_jax.programs import Effort
from mist_jax.pytree import replace
from mist_jax.queueing.root import Form
from mist_jax.schema import Scenario
from mist_jax.system.deployment import System

#: A rate so low that nobody meets anybody, and the least one that programs are given: single precision knows it.
_IDLE, _LEAST_RATE = 1e-9, 1e-30
#: Least share of a chip that services leave to iterations; a service that asks for more cannot keep up by itself.
_LEAST = 0.01
#: Resource of a machine → field of `Hardware` that services take away from the iterations.
_TAKEN = {"accelerator": "peak_flops", "device_memory": "memory_bandwidth"}


@dataclasses.dataclass(frozen=True)
class Calls:
    """Calls of the stages on one pool; [..., stages] each. `rate` counts calls per second, rounds included."""

    rate: np.ndarray
    new: np.ndarray
    past: np.ndarray
    output: np.ndarray  #: mean tokens of a branch
    longest: np.ndarray
    branches: np.ndarray
    shared: np.ndarray
    rounds: np.ndarray
    gain: np.ndarray  #: tokens per step
    spread: np.ndarray  #: mean own tokens in the context while decoding, E[O^2] / (2 E[O])


@dataclasses.dataclass(frozen=True)
class Mix:
    """What the pool sees: means of one sequence; numbers or arrays."""

    rate: Any  #: sequences/s
    isl: Any
    hit: Any
    steps: Any
    osl_cv: Any


class Pool:
    """An LLM pool, built once; what it takes alone is remembered."""

    def __init__(self, scenario: Scenario) -> None:
        from mist_jax.evaluate import programs

        self.scenario = scenario
        self.system: System = build.build_system(scenario)
        self.prefill = (
            build.build_system(scenario, scenario.prefill, "prefill.") if scenario.prefill else None
        )
        self.memory = jax.tree.map(np.asarray, programs()["memory"](self.system))
        self.prefill_memory = (
            None if self.prefill is None else jax.tree.map(np.asarray, programs()["memory"](self.prefill))
        )
        #: (new, past) prompt tokens → TTFT on the idle pool, s
        self.known_alone: dict[tuple[float, float], float] = {}
        #: prefill alone against prompt tokens: (tokens, seconds)
        self.known_grid: tuple[np.ndarray, np.ndarray] | None = None

    def require_fit(self) -> None:
        """Raises ConfigError if the model does not fit."""
        from mist_jax.evaluate import require_fit

        require_fit(self.scenario, self.memory)
        if self.prefill_memory is not None:
            require_fit(self.scenario, self.prefill_memory, "prefill.")

    def outside_s(self, prompt_tokens: Any) -> np.ndarray:
        """Seconds of calls outside of the engine (HTTP, tokenizer of the server, handover between pools)."""
        from mist_jax.play import outside_s

        front = self.system if self.prefill is None else self.prefill
        return outside_s(front, prompt_tokens, self.prefill is not None)

    @cached_property
    def kv(self) -> tuple[float, float]:
        """(KV bytes per token, not sharded; layers)."""
        from mist_jax.physics.memory import kv_bytes_total

        per_token = float(kv_bytes_total(self.system.model, np.asarray(1000.0))) / 1000.0
        return per_token, float(self.system.model.layers)

    @cached_property
    def arguments(self) -> tuple:
        """What the steady-state programs take, the mix aside.

        Raises:
            ConfigError: what the steady state does not describe (`build.build_workload`).
        """
        work = build.build_workload(self.scenario)
        replicas = float(self.scenario.parallelism.replicas)
        if self.prefill is None:
            return self.system, work, replicas
        pool = self.scenario.prefill
        assert pool is not None
        transfer = build.build_transfer(self.scenario)
        return self.system, self.prefill, transfer, work, replicas, float(pool.parallelism.replicas)

    @property
    def structure(self) -> Any:
        """What pools must have in common to be evaluated in one program."""
        leaves, tree = jax.tree.flatten(self.arguments)
        return tree, tuple(np.shape(x) for x in leaves)


class Pools:
    """The pool of one client at many points, alike in structure; evaluates mixes through compiled programs."""

    def __init__(self, pools: Sequence[Pool], dtype: Any = np.float64, lots: bool = False) -> None:
        """`pools`: that of every point; the same object where it is the same. `dtype`: that programs run in. `lots`:
        these are some of so many points that programs are compiled to be quick."""
        self.dtype, self.lots = np.dtype(dtype), lots
        numbers: dict[int, int] = {}
        self.pools = list({id(p): p for p in pools}.values())
        for pool in self.pools:
            numbers[id(pool)] = len(numbers)
        self.index = np.array([numbers[id(p)] for p in pools])
        self.prefill = self.pools[0].prefill is not None

    @cached_property
    def _arguments(self) -> tuple:
        return stacked([p.arguments for p in self.pools])

    def each(self, value: Callable[[Pool], Any]) -> np.ndarray:
        """A number of the pool at every point."""
        return np.array([value(p) for p in self.pools], dtype=np.float64)[self.index]

    @cached_property
    def memory(self) -> Any:
        """`MemoryUse` at every point."""
        return rows(stacked([p.memory for p in self.pools]), self.index)

    def take(self, at: np.ndarray) -> Pools:
        """The pools at the points `at`."""
        other = copy.copy(self)
        other.index = self.index[at]
        other.__dict__.pop("memory", None)
        return other

    def run(
        self,
        kind: str,
        mix: Mix,
        concurrency: Any = 1.0,
        scale: Mapping[str, np.ndarray] | None = None,
        at: np.ndarray | None = None,
        dtype: Any = None,
    ) -> Any:
        """`SteadyState`, or `Disaggregated` for two pools, of the mixes; leading axis [rows].

        Args:
            kind: open or closed. mix: arrays [rows]. concurrency: [rows] sequences that a closed loop holds.
            scale: field of `Hardware` → [rows] factor on it (of the decode pool). at: [rows] points, default all.
            dtype: that the program runs in; default: the pools'.
        """
        point = np.arange(len(self.index)) if at is None else at
        count = len(point)
        fields = {
            name: np.broadcast_to(np.asarray(value, np.float64), (count,))
            for name, value in (
                ("isl", mix.isl), ("osl", 1.0 + np.asarray(mix.steps)), ("osl_cv", mix.osl_cv),
                ("rate", np.maximum(mix.rate, _LEAST_RATE)), ("concurrency", concurrency),
            )
        }  # fmt: skip
        hit = np.broadcast_to(np.asarray(mix.hit, np.float64), (count,))

        def arguments(row: np.ndarray) -> tuple:
            decode, *others = rows(self._arguments, self.index[point[row]])
            hw = decode.hardware
            for name, factor in (scale or {}).items():
                value = getattr(hw, name)
                by = np.broadcast_to(factor, (count,))[row].reshape(-1, *(1,) * (value.ndim - 1))
                hw = replace(hw, **{name: value * by})
            decode = _with_hit(replace(decode, hardware=hw), hit[row])
            place = 2 if self.prefill else 0
            others[place] = replace(others[place], **{k: v[row] for k, v in fields.items()})
            if self.prefill:
                others[0] = _with_hit(others[0], hit[row])
            return decode, *others

        return _steady(kind, self.prefill, self.lots)(count, arguments, dtype=dtype or self.dtype)

    def alone(self, new: np.ndarray, past: np.ndarray) -> np.ndarray:
        """TTFT of such prompts on an idle pool, s; new, past and result [points] or [points, prompts]."""
        new, past = np.broadcast_arrays(np.asarray(new, float), np.asarray(past, float))
        point = np.broadcast_to(np.arange(len(self.index)).reshape(-1, *(1,) * (new.ndim - 1)), new.shape)
        keys = list(
            zip(
                self.index[point.ravel()].tolist(),
                np.round(new, 6).ravel().tolist(),
                np.round(past, 6).ravel().tolist(),
                strict=True,
            )
        )
        first: dict[tuple[int, float, float], int] = {}
        for row, key in enumerate(keys):
            if key not in first and key[1:] not in self.pools[key[0]].known_alone:
                first[key] = row
        if first:
            row = np.array(list(first.values()))
            n, p = new.ravel()[row], past.ravel()[row]
            isl = np.maximum(n + p, 1.0)
            mix = Mix(rate=_IDLE, isl=isl, hit=p / isl, steps=1.0, osl_cv=0.0)
            ttft = whole(self.run("open", mix, at=point.ravel()[row])).ttft
            for key, value in zip(first, ttft.tolist(), strict=True):
                known = self.pools[key[0]].known_alone
                known[key[1:]] = value
        return np.array([self.pools[k].known_alone[n, p] for k, n, p in keys]).reshape(new.shape)

    def prefill_grid(self, points: int = 12) -> tuple[np.ndarray, np.ndarray]:
        """Prefill alone against prompt tokens, for load-or-recompute and overlap: (tokens, seconds) [points, grid]."""
        missing = [k for k, p in enumerate(self.pools) if p.known_grid is None]
        if missing:
            own = Pools([self.pools[k] for k in missing], self.dtype)
            tokens = np.stack([_grid(p, points) for p in own.pools])
            alone = own.alone(tokens, np.zeros_like(tokens))
            for p, t, s in zip(own.pools, tokens, alone, strict=True):
                p.known_grid = t, s - p.outside_s(t)
        grids = [p.known_grid for p in self.pools]
        at = self.index
        return np.stack([g[0] for g in grids if g])[at], np.stack([g[1] for g in grids if g])[at]


def _grid(pool: Pool, points: int) -> np.ndarray:
    longest = min(float(pool.system.model.max_context), float(pool.memory.kv_tokens))
    return np.geomspace(16.0, max(0.98 * longest - 8.0, 32.0), points)


@lru_cache(maxsize=8)
def _steady(kind: str, prefill: bool, lots: bool) -> OverPoints:
    """The steady-state program of one pool or two, over points; that of one point is `evaluate`'s own."""
    from mist_jax.evaluate import programs
    from mist_jax.evaluate_disaggregated import _programs

    one = (_programs() if prefill else programs())[kind]
    effort, form = (Effort.FULL, Form.COMPACT) if lots else (Effort.LEAST, Form.SHORT)
    many = Kept(over_points(one.function), f"{one.name} over {BLOCK} points", effort=effort, form=form)
    return OverPoints(one, many)


def left_of(utilization: np.ndarray) -> dict[str, np.ndarray]:
    """Field of `Hardware` → mean share that services with this [..., RESOURCES] utilization leave."""
    used = {field: utilization[..., INDEX[resource]] for resource, field in _TAKEN.items()}
    return {field: np.where(u > 1e-9, np.maximum(1.0 - u, _LEAST), 1.0) for field, u in used.items()}


def scenario_beside(scenario: Scenario, left: Mapping[str, Any]) -> Scenario:
    """The scenario of a pool whose iterations get these shares of its chips."""
    hw = scenario.hardware
    rates = {f.name: getattr(hw.peak, f.name) for f in dataclasses.fields(hw.peak)}
    peak = {name: None if v is None else v * left["peak_flops"] for name, v in rates.items()}
    memory = dataclasses.replace(hw.memory, bandwidth=hw.memory.bandwidth * left["memory_bandwidth"])
    chip = dataclasses.replace(hw, peak=dataclasses.replace(hw.peak, **peak), memory=memory)
    return dataclasses.replace(scenario, hardware=chip)


def _with_hit(system: System, hit: np.ndarray) -> System:
    return replace(system, engine=replace(system.engine, prefix_hit_rate=hit))


def whole(out: Any) -> Any:
    """The `SteadyState` of the whole deployment."""
    return getattr(out, "decode", out)


def mix_of(calls: Calls) -> Mix:
    """The mean sequence of the calls (see the module's text); one for each leading index."""
    sequences = calls.rate * calls.branches
    total = sequences.sum(axis=-1)
    share = sequences / total[..., None]
    steps_i = np.maximum(calls.output - 1.0, 0.0) / calls.gain
    new = (share * calls.new / calls.branches).sum(axis=-1)
    past = (share * calls.past / calls.branches).sum(axis=-1)
    steps = (share * steps_i).sum(axis=-1)
    prompt = calls.new + calls.past
    read = np.where(calls.shared > 0, prompt / calls.branches, prompt)
    weight = share * steps_i
    decoding = weight.sum(axis=-1)
    context = (weight * (read + calls.spread)).sum(axis=-1) / np.where(decoding > 0, decoding, 1.0)
    context = np.where(decoding > 0, context, new + past)
    isl, osl = np.maximum(new + past, 1.0), 1.0 + steps
    # the mean context is ISL + OSL (1 + cv^2) / 2: choose the cv that gives it
    cv = np.sqrt(np.maximum((context - isl) / (0.5 * osl) - 1.0, 0.0))
    return Mix(rate=total, isl=isl, hit=past / isl, steps=steps, osl_cv=cv)


def call_times(pools: Pools, out: Any, mix: Mix, calls: Calls) -> tuple[np.ndarray, np.ndarray]:
    """(seconds of a call to its first token [points, stages], TPOT [points]) on one pool, a round each."""
    state = whole(out)
    base = pools.alone(mix.isl * (1.0 - mix.hit), mix.isl * mix.hit)[:, None]
    own = pools.alone(calls.new, calls.past)
    return np.maximum(np.asarray(state.ttft)[:, None] + own - base, own), np.asarray(state.tpot)


def call_seconds(calls: Calls, first: np.ndarray, tpot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, seconds to the first token of the last round) of each stage's calls, from `call_times`."""
    one = first + weighed(_steps(calls), tpot[:, None])
    return calls.rounds * one, weighed(calls.rounds - 1.0, one) + first


def weighed(weight: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """weight * seconds, where nothing of what does not end is nothing."""
    return weight * np.where(weight > 0, seconds, 0.0)


def call_alone(pools: Pools, mix: Mix, calls: Calls) -> np.ndarray:
    """Seconds of each stage's calls on one pool with nobody else there, [points, stages]."""
    idle = whole(pools.run("open", dataclasses.replace(mix, rate=_IDLE)))
    own = pools.alone(calls.new, calls.past)
    return calls.rounds * (own + _steps(calls) * np.asarray(idle.tpot)[:, None])


def _steps(calls: Calls) -> np.ndarray:
    """Decode iterations of the longest branch."""
    return np.maximum(calls.longest - 1.0, 0.0) / calls.gain
