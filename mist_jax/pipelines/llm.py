"""LLM pools in steady state under the calls of several stages: the engine's own model, nothing beside it.

The calls of all stages that share a pool are one mix: sequences at S = sum lambda_i b_i r_i per second (b branches,
r rounds) with the mean new and cached prompt tokens of a sequence, the mean number of decode iterations
(OSL - 1) / tokens per step, and the mean context of a decoding sequence. `queueing.steady` gives the pool's TTFT,
TPOT and load for the mix. Stage i then takes

    r_i (TTFT_mix + alone(new_i, past_i) - alone(mix) + (longest_i - 1) / g_i TPOT)

with `alone` the TTFT of such a prompt on an idle pool: sequences that step together have one TPOT, prompts differ by
their own prefill. One stage alone gets exactly what `evaluate` gives without a pipeline.

Services and transfers that run on the pool's own machines come first: iterations get what these leave of the chips'
FLOP/s and memory bandwidth on average (`Pool.beside`).
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import numpy as np

from mist_jax import build
from mist_jax.physics.demand import INDEX
from mist_jax.pytree import replace
from mist_jax.schema import Scenario
from mist_jax.system.deployment import System

#: A rate so low that nobody meets anybody.
_IDLE = 1e-9
#: Least share of a chip that services leave to iterations; a service that asks for more cannot keep up by itself.
_LEAST = 0.01
#: Resource of a machine → field of `Hardware` that services take away from the iterations.
_TAKEN = {"accelerator": "peak_flops", "device_memory": "memory_bandwidth"}


@dataclasses.dataclass(frozen=True)
class Calls:
    """Calls of the stages on one pool; [stages] each. `rate` counts calls per second, rounds included."""

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
    """What the pool sees: means of one sequence."""

    rate: float  #: sequences/s
    isl: float
    hit: float
    steps: float
    osl_cv: float


class Pool:
    """An LLM pool, built once; evaluates mixes through the compiled programs of `mist_jax.evaluate`."""

    def __init__(self, scenario: Scenario, where: str = "") -> None:
        from mist_jax.evaluate import programs, require_fit

        self.scenario = scenario
        self.system: System = build.build_system(scenario)
        self.prefill = (
            build.build_system(scenario, scenario.prefill, "prefill.") if scenario.prefill else None
        )
        self.memory = jax.tree.map(np.asarray, programs()["memory"](self.system))
        require_fit(scenario, self.memory)
        if self.prefill is not None:
            require_fit(scenario, programs()["memory"](self.prefill), "prefill.")
        self._alone: dict[tuple[float, float], float] = {}

    def outside_s(self, prompt_tokens: Any) -> np.ndarray:
        """Seconds of calls outside of the engine (HTTP, tokenizer of the server, handover between pools)."""
        from mist_jax.play import outside_s

        front = self.system if self.prefill is None else self.prefill
        return outside_s(front, prompt_tokens, self.prefill is not None)

    def kv(self) -> tuple[float, float]:
        """(KV bytes per token, not sharded; layers)."""
        from mist_jax.physics.memory import kv_bytes_total

        per_token = float(kv_bytes_total(self.system.model, np.asarray(1000.0))) / 1000.0
        return per_token, float(self.system.model.layers)

    def run(self, kind: str, mix: Mix, concurrency: float = 1.0) -> Any:
        """`SteadyState`, or `Disaggregated` for two pools, of the mix; `kind` is open or closed."""
        work = replace(
            build.build_workload(self.scenario),
            isl=np.float64(mix.isl),
            osl=np.float64(1.0 + mix.steps),
            concurrency=np.float64(concurrency),
            rate=np.float64(mix.rate),
            osl_cv=np.float64(mix.osl_cv),
        )
        replicas = self.scenario.parallelism.replicas
        decode = _with_hit(self.system, mix.hit)
        if self.prefill is None:
            from mist_jax.evaluate import programs

            out = programs()[kind](decode, work, replicas)
        else:
            from mist_jax.evaluate_disaggregated import _programs

            pool = self.scenario.prefill
            assert pool is not None
            out = _programs()[kind](
                decode, _with_hit(self.prefill, mix.hit), build.build_transfer(self.scenario), work, replicas,
                pool.parallelism.replicas,
            )  # fmt: skip
        return jax.tree.map(np.asarray, out)

    def beside(self, left: dict[str, float]) -> Pool:
        """The pool whose iterations get these shares of its chips (see `left_of`)."""
        if all(share == 1.0 for share in left.values()):
            return self
        hw = self.system.hardware
        other = copy.copy(self)
        other.system = replace(
            self.system, hardware=replace(hw, **{f: getattr(hw, f) * share for f, share in left.items()})
        )
        return other

    def alone(self, new: float, past: float) -> float:
        """TTFT of one such prompt on an idle pool, s."""
        key = (round(new, 6), round(past, 6))
        if key not in self._alone:
            isl = max(new + past, 1.0)
            mix = Mix(rate=_IDLE, isl=isl, hit=past / isl, steps=1.0, osl_cv=0.0)
            self._alone[key] = float(whole(self.run("open", mix)).ttft)
        return self._alone[key]

    def prefill_grid(self, points: int = 12) -> tuple[np.ndarray, np.ndarray]:
        """Prefill alone against prompt tokens, for load-or-recompute and overlap."""
        longest = min(float(self.system.model.max_context), float(self.memory.kv_tokens))
        tokens = np.geomspace(16.0, max(0.98 * longest - 8.0, 32.0), points)
        return tokens, np.array([self.alone(t, 0.0) - self.outside_s(t) for t in tokens])


def left_of(utilization: np.ndarray) -> dict[str, float]:
    """Field of `Hardware` → mean share that services with this [RESOURCES] utilization leave."""
    used = {field: float(utilization[INDEX[resource]]) for resource, field in _TAKEN.items()}
    return {field: max(1.0 - u, _LEAST) if u > 1e-9 else 1.0 for field, u in used.items()}


def scenario_beside(scenario: Scenario, left: dict[str, float]) -> Scenario:
    """The scenario of a pool whose iterations get these shares of its chips."""
    hw = scenario.hardware
    rates = {f.name: getattr(hw.peak, f.name) for f in dataclasses.fields(hw.peak)}
    peak = {name: None if v is None else v * left["peak_flops"] for name, v in rates.items()}
    memory = dataclasses.replace(hw.memory, bandwidth=hw.memory.bandwidth * left["memory_bandwidth"])
    chip = dataclasses.replace(hw, peak=dataclasses.replace(hw.peak, **peak), memory=memory)
    return dataclasses.replace(scenario, hardware=chip)


def _with_hit(system: System, hit: float) -> System:
    return replace(system, engine=replace(system.engine, prefix_hit_rate=np.float64(hit)))


def whole(out: Any) -> Any:
    """The `SteadyState` of the whole deployment."""
    return getattr(out, "decode", out)


def mix_of(calls: Calls) -> Mix:
    """The mean sequence of the calls (see the module's text)."""
    sequences = calls.rate * calls.branches
    total = float(sequences.sum())
    if total <= 0:
        return Mix(rate=_IDLE, isl=1.0, hit=0.0, steps=1e-3, osl_cv=0.0)
    share = sequences / total
    steps_i = np.maximum(calls.output - 1.0, 0.0) / calls.gain
    new = float((share * calls.new / calls.branches).sum())
    past = float((share * calls.past / calls.branches).sum())
    steps = float((share * steps_i).sum())
    prompt = calls.new + calls.past
    read = np.where(calls.shared > 0, prompt / calls.branches, prompt)
    weight = share * steps_i
    context = float((weight * (read + calls.spread)).sum() / weight.sum()) if weight.sum() > 0 else new + past
    isl, osl = max(new + past, 1.0), 1.0 + steps
    # the mean context is ISL + OSL (1 + cv^2) / 2: choose the cv that gives it
    cv = np.sqrt(max((context - isl) / (0.5 * osl) - 1.0, 0.0))
    return Mix(rate=total, isl=isl, hit=past / isl, steps=steps, osl_cv=float(cv))
