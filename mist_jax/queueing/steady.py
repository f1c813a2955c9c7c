"""Steady state of one pool: mean TTFT, TPOT and throughput, closed loop or Poisson arrivals.

The unit is a *lane* (`queueing.lane`). In it, n sequences decode on average; a decoding sequence sees a batch
of m of them, itself included, and the prefill of others in a share f of its iterations:

    tau(m)  = tau_d(m) + f (tau_m(m, p) - tau_d(m))          mean iteration, = TPOT
    f       = min(1, x / p),  x = ISL (m - 1) / (OSL - 1)    prefill tokens that flow balance asks of an iteration
    lambda  = n / ((OSL - 1) tau(m))                         Little's law for the decoding sequences
    TTFT    = wait + residual iteration + prefill iterations

The closed loop solves n + lambda TTFT = C, the open loop lambda(n) = lambda_offered. By PASTA a Poisson arrival
sees m = 1 + n, which reproduces the negative-binomial mean of a processor-sharing chain with a linear rate; by the
arrival theorem of closed networks m = 1 + n (C - 1) / C (M. Reiser, S. Lavenberg, J. ACM 27(2), 1980).
The wait is that of an M/D/1 queue whose server is the prefill budget: s rho / (2 (1 - rho)).

Where the memory is full, requests are preempted (`Lane.evicted`), prompts begin in vain (`_thrash`), or all wait for
the memory of their whole answer (`Engine.reserves_answer`).

Not modelled: the prompts of preempted requests, which are computed again, percentiles, length distributions beyond
their effect on the mean context, load that moves between lanes. Near saturation play the trace instead
(`queueing.playback`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mist_jax.errors import Status
from mist_jax.numerics import safe_divide
from mist_jax.physics import step as physics_step
from mist_jax.physics.memory import kv_bytes_per_chip
from mist_jax.physics.step import StepTime
from mist_jax.physics.step_energy import ENERGY_SHARES, iteration_energy
from mist_jax.pytree import pytree, replace
from mist_jax.queueing.admission import admission_lag, between_looks, iterations_late
from mist_jax.queueing.gated import gated_ttft, others_seen
from mist_jax.queueing.lane import Lane, chunk_tokens, lanes_of, make_lane, mixed_batch
from mist_jax.queueing.places import place_wait
from mist_jax.queueing.root import is_short, solve_load
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System, Workload

Array = Any

# Jitted so that the many places of one program that call them share one trace: half of the time to trace it.
_step_time = jax.jit(physics_step.step_time, static_argnames="together")
_step_seconds = jax.jit(physics_step.step_seconds, static_argnames="together")


def step_time(system: System, batch: Batch) -> StepTime:
    """`physics.step.step_time`, short or quick as the program is written."""
    return _step_time(system, batch, together=is_short())


def step_seconds(system: System, batch: Batch) -> Array:
    """`physics.step.step_seconds`, likewise."""
    return _step_seconds(system, batch, together=is_short())


@pytree
class SteadyState:
    """Means of one deployment; scalars."""

    ttft: Array  #: s
    tpot: Array  #: s
    e2e: Array  #: s
    rate: Array  #: completed requests/s, whole deployment
    running: Array  #: decoding sequences of one lane
    waiting: Array  #: requests of one lane that do not decode: without first token yet, or preempted
    step: Array  #: s, mean iteration
    prefill_share: Array  #: share of iterations that hold prefill
    load: Array  #: rate over the rate at which the lane saturates (closed loop: busy share)
    kv_occupancy: Array  #: share of the KV budget in use
    power: Array  #: [len(ENERGY_SHARES)] W per chip
    breakdown: Array  #: [len(STEP_PARTS)] s per mean iteration
    flops_utilization: Array  #: achieved over peak FLOP/s of the bf16 unit
    bandwidth_utilization: Array  #: achieved over peak memory bandwidth
    status: Array  #: errors.Status


def _both(lane: Lane, others: Array, step: Any) -> Any:
    """`step` of (a decode iteration, a mixed iteration) that a sequence sees which decodes beside `others`."""
    m = 1.0 + others
    _, tokens, _ = chunk_tokens(lane, m, others)
    # one vectorized call for both: half the program to compile
    return jax.vmap(lambda p: step(lane.system, mixed_batch(lane, m, p)))(
        jnp.stack([jnp.zeros_like(tokens), tokens])
    )


def _times(lane: Lane, others: Array) -> Array:
    """Seconds of the two iterations, [2]."""
    return _in_turn(lane, _both(lane, others, step_seconds))


def _whole(lane: Lane, others: Array) -> tuple[Array, StepTime]:
    """(`_times`, the two iterations with their breakdown)."""
    both = _both(lane, others, step_time)
    return _in_turn(lane, both.seconds), both


def _in_turn(lane: Lane, both: Array) -> Array:
    """(decode, mixed) seconds; apart, an inserted iteration of prefill delays the decode iteration after it."""
    after = lane.system.engine.separate_prefill * both[0]
    return jnp.stack([both[0], jnp.maximum(both[1] + after, both[0])])


def _flow(lane: Lane, n: Array, others: Array, times: Array, residual: Array) -> tuple[Array, Array, Array]:
    """(mean iteration, requests/s of the lane, TTFT) for n decoding sequences of which `others` are seen."""
    decode, mixed = times[0], times[1]
    room, tokens, share = chunk_tokens(lane, 1.0 + others, others)
    mean = decode + share * (mixed - decode)
    rate = n / (lane.steps * mean)
    chunks = jnp.maximum(lane.isl / room, 1.0)
    # what runs apart has its first token before the decode iteration that follows
    after = lane.system.engine.separate_prefill * decode
    # a prompt of a bit more than one chunk pays for a whole further iteration, which the next prompts may fill
    prefill = chunks * (mixed - after) + (jnp.ceil(chunks - 1e-9) - chunks) * (mean - share * after)
    # while prompts queue, iterations fill the budget
    full = decode - after + (mixed - decode) * room / tokens
    service = full * lane.isl / room
    rho = jnp.clip(lane.isl * others / lane.steps / room, 0.0, 0.999)
    wait = service * (rho / (2.0 * (1.0 - rho)) + lane.ahead)
    busy = jnp.minimum(others, 1.0)
    start = jnp.maximum(residual + iterations_late(lane.system), 0.0) * busy * mean
    queue_scale = lane.system.calibration.step.queue_scale
    return mean, rate, lane.outside + queue_scale * wait + start + prefill


def closed_loop(
    system: System, workload: Workload, replicas: Array = 1.0, *, strict: bool = True
) -> SteadyState:
    """A fixed number of requests in flight, as benchmarks run: the next is sent when one completes.

    Args:
        system: one replica.
        workload: `concurrency` is that of the whole deployment, shared evenly.
        replicas: number of such replicas.
        strict: figures are NaN where memory or context do not suffice (the status says so); else one request at a
            time is taken to fit.

    Returns:
        `SteadyState`. A new request arrives while the next iteration already runs, so it waits for a whole one. That
        vLLM has formed another one ahead is not counted: measured closed loops do not show it (docs/scheduling.md).
    """
    lane = make_lane(system, workload)
    lanes = lanes_of(system, replicas)
    clients = jnp.maximum(workload.concurrency / lanes, 1e-3)
    lane, seen = _benchmark(replace(lane, limit=jnp.minimum(lane.limit, clients)), workload, clients)
    residual = jnp.asarray(1.0)

    def others_of(n: Array) -> Array:
        return n * seen

    def excess(n: Array, times: Array) -> Array:
        _, rate, ttft = _flow(lane, n, others_of(n), times, residual)
        return 1.0 - clients / (n + rate * ttft)

    n, at_limit, _, whole = solve_load(
        lambda o: _times(lane, o), lambda o: _whole(lane, o), others_of, excess, lane.limit
    )
    waiting = jnp.maximum(clients - n, 0.0)
    full = replace(lane, thrash=jnp.where(at_limit, _thrash(lane, workload, n, waiting), 0.0))
    point = _point(full, n, others_of(n), residual, *whole)
    # beyond the limit of running sequences the rest waits, before its first token or preempted: Little's law
    queued = safe_divide(waiting, point.rate)
    # from plays: few that wait are shared out between both, of many no more than `evicted` are preempted
    ttft = jnp.where(
        at_limit, jnp.maximum(point.ttft, queued * waiting / (waiting + lane.evicted + 1e-30)), point.ttft
    )
    stall = jnp.where(at_limit, jnp.maximum(queued - ttft, 0.0), 0.0) / lane.steps
    cold = workload.burst_share * lane.system.calibration.step.first_round_s
    point = after_a_cold_start(replace(point, ttft=ttft, stall=stall), clients, cold)
    return _result(lane, workload, point, lanes, load=jnp.ones_like(n), unstable=False, strict=strict)


def _thrash(lane: Lane, workload: Workload, n: Array, waiting: Array) -> Array:
    """Share of the iterations that hold a part of a prompt that is given up again, where memory is full.

    An engine that takes blocks chunk by chunk starts the prompt at the head of its queue when the first chunk fits.
    What is free is anything up to a prompt, so that a prompt of L tokens, more than a chunk of c, begins in vain with
    1 - c / L, comes to the end of the memory, and begins again, until a running request ends. A long one stays at the
    head for longer: the mean is weighted by L, which for exponential lengths gives exp(-c / ISL); between equal and
    exponential lengths the squared coefficient of variation interpolates.
    """
    room, _, _ = chunk_tokens(lane, 1.0 + n, n)
    begins = jnp.where(lane.evicted > 0, 1.0 - lane.system.engine.reserves_prompt, 0.0)
    ratio, spread = room / lane.isl, jnp.minimum(workload.isl_cv**2, 1.0)
    in_vain = (1.0 - spread) * jnp.maximum(1.0 - ratio, 0.0) + spread * jnp.exp(-ratio)
    return begins * in_vain * waiting / (1.0 + waiting)


def after_a_cold_start(point: Any, clients: Array, cold: Array) -> Any:
    """`point` of a lane, with the mean wait for kernels and connections in a benchmark's first round.

    All wait at once and nobody decodes meanwhile, so what runs later is as full as without it: the wait lengthens the
    mean cycle clients / rate, in which rate and sequences are counted.
    """
    kept = 1.0 / (1.0 + cold * point.rate / clients)
    return replace(point, ttft=point.ttft + cold, rate=point.rate * kept, n=point.n * kept)


#: Loss of a benchmark's mean load in its last round, when no further request follows, per share of a round.
#: From iteration-level plays of 10 rounds of closed loops (4 to 256 clients, prefill load 0.02 to 2): 0.055 of 0.1.
DRAIN = 0.55
#: Coefficient of variation of the lengths above which rounds lose their lockstep (0.064: gone; 0: kept for good).
LOCKSTEP_CV = 0.02


def _benchmark(lane: Lane, workload: Workload, clients: Array) -> tuple[Lane, Array]:
    """(lane, share of the others that a request sees) of a closed loop that starts with all its requests at once.

    The first round of c prompts is a burst, in which (c - 1) / 2 are ahead of the mean one; spread lengths dissolve
    it within a round. Where prompts run before any decode continues, all of them decode their second token together;
    with equal lengths a share `lockstep` of the prompts then ends together and comes back together in every round:
    those wait for half of the others, and meet the prefill of only half of them while they decode. Where prompts and
    decodes share iterations, the prompts of one budget decode while the next ones are filled, so they end and come
    back an iteration apart, and none waits.
    """
    burst = workload.burst_share
    running = jnp.maximum(jnp.minimum(lane.limit, clients), 1.0)
    spread = (workload.isl_cv**2 + workload.osl_cv**2) / LOCKSTEP_CV**2
    engine, step = lane.system.engine, lane.system.calibration.step
    lock = jnp.where(burst > 0, jnp.exp(-spread), 0.0) * step.lockstep * engine.separate_prefill
    ahead = 0.5 * (running - 1.0) * (burst + (1.0 - burst) * lock)
    seen = jnp.maximum(clients - 1.0, 0.0) / jnp.maximum(clients, 1.0) * (1.0 - DRAIN * burst)
    return replace(lane, ahead=ahead, interference=1.0 - 0.5 * lock), seen


#: Exponent with which c lanes lessen the variance of what comes to each, beside that of Poisson arrivals: c^-0.4. From
#: plays of 2 to 8 replicas behind the default router (tests/test_bridge.py). What each holds is evened out whole, c^-1.
EVENNESS = 0.4


def open_loop(system: System, workload: Workload, replicas: Array = 1.0) -> SteadyState:
    """Poisson arrivals at `workload.rate`, shared evenly over lanes. An unstable load gives status UNSTABLE and the
    figures at the limit."""
    lane = make_lane(system, workload)
    lane = replace(lane, bunched=jnp.ones_like(lane.bunched))
    lanes = lanes_of(system, replicas)
    offered = workload.rate / lanes

    # a router that sends to the lane with the fewest requests evens out what each has, and less what comes to each
    scatter = lanes**-EVENNESS

    def others_of(n: Array) -> Array:
        return others_seen(n, 1.0 / lanes)

    residual = jnp.asarray(0.5)

    def excess(n: Array, times: Array) -> Array:
        _, rate, _ = _flow(lane, n, others_of(n), times, residual)
        return 1.0 - offered / rate

    # beyond this batch the prompts that flow balance asks for exceed the token budget: prefill saturates first
    width = lane.width * (1.0 - lane.system.engine.separate_prefill)
    budget = lane.system.engine.max_num_batched_tokens
    saturated = jnp.maximum(budget - width, 0.05 * budget) / (lane.isl / lane.steps + width)
    top = jnp.minimum(lane.limit, saturated)
    n, _, at_top, whole = solve_load(
        lambda o: _times(lane, o), lambda o: _whole(lane, o), others_of, excess, top
    )
    # where memory fills first it stays full, with prompts begun in vain
    full = replace(
        lane, thrash=jnp.where(lane.limit <= saturated, _thrash(lane, workload, top, jnp.asarray(1e9)), 0.0)
    )
    _, capacity, _ = _flow(full, top, others_of(top), at_top, residual)
    load = offered / jnp.maximum(capacity, 1e-30)
    point = _point(lane, n, others_of(n), residual, *whole)
    # the places of all lanes together: the router sends to where one is free
    wait = place_wait(lane.limit * lanes, point.n / lane.limit, lane.steps * point.mean, workload.osl_cv)
    ttft = _open_ttft(lane, workload, point, scatter) + jnp.where(load > 1.0, 0.0, wait)
    point = replace(point, ttft=ttft, seen=_seen(lane, workload, point, scatter))
    return _result(lane, workload, point, lanes, load=load, unstable=load > 1.0)


def _seen(lane: Lane, workload: Workload, point: Any, scatter: Array) -> Array:
    """Mean iteration that a decoding request sees: E[n tau] / E[n] = E[tau] + Cov(n, tau) / E[n].

    Prompts gather behind a long iteration and make the next one long, by when those of the last decode. With a prompts
    in an iteration of g seconds each, rho = lambda g and E[n] = E[a] steps, as a is Poisson given the iteration before:

        Var(a) = E[a] (1 + rho^2 cv^2) / (1 - rho^2),    Cov(a_i, a_{i-k}) = rho^k Var(a)
        Cov(n, tau) = g sum_k (1 - 1 / steps)^k rho^k Var(a)
    """
    _, tokens, _ = chunk_tokens(lane, 1.0 + point.n, point.n)
    prompt = (point.times[1] - point.times[0]) * lane.isl / tokens
    rho = jnp.clip(point.rate * prompt, 0.0, 0.98)
    kept = rho * (1.0 - 1.0 / jnp.maximum(lane.steps, 1.0))
    bunch = (scatter + rho**2 * workload.isl_cv**2) / (1.0 - rho**2)
    return point.mean + prompt * bunch * kept / (1.0 - kept) / jnp.maximum(lane.steps, 1.0)


def _open_ttft(lane: Lane, workload: Workload, point: Any, scatter: Array) -> Array:
    """TTFT of Poisson arrivals (`queueing.gated`), and what is outside of iterations."""
    room, tokens, _ = chunk_tokens(lane, 1.0 + point.n, point.n)
    decode, mixed = point.times[0], point.times[1]
    prompt = (mixed - decode) * lane.isl / tokens
    occupied = -jnp.expm1(-(point.n + point.rate * prompt))
    step = lane.system.calibration.step
    lag, looks = admission_lag(lane.system), between_looks(lane.system)
    # prompts run right after a look, so that the iterations between two looks only decode; who comes while prompts run
    # is looked at when they end, or with a lag waits for the next look
    decoding = 1.0 - jnp.clip(point.rate * prompt, 0.0, 1.0)
    missed = 2.0 * jnp.minimum(lag, 1.0) * (1.0 - decoding)
    late = (lag + lane.system.engine.ahead) * point.mean + looks * (decoding + missed) * decode
    late = occupied * late
    apart = lane.system.engine.separate_prefill
    fixed = jnp.minimum(step.prefill_host_s, mixed - decode)
    own = (mixed - decode - fixed) * lane.isl / tokens
    return (
        lane.outside
        + late
        + gated_ttft(
            point.rate,
            decode,
            own,
            lane.isl,
            workload.isl_cv,
            room,
            occupied,
            fixed,
            1.0 - apart,
            lane.system.engine.scheduler_recv_interval,
            scatter,
        )
    )


@pytree
class _Point:
    """One operating point of a lane."""

    n: Array
    share: Array
    mean: Array
    rate: Array
    ttft: Array
    seen: Array  #: s of the iteration that a decoding request sees
    step: StepTime
    times: Array  #: [2] s of a decode and a mixed iteration
    stall: Array = 0.0  #: s an iteration of a request takes longer, as it is preempted now and then


def _point(lane: Lane, n: Array, others: Array, residual: Array, times: Array, both: StepTime) -> _Point:
    _, _, share = chunk_tokens(lane, 1.0 + others, others)
    mean, rate, ttft = _flow(lane, n, others, times, residual)
    step = jax.tree.map(lambda x: x[0] + share * (x[1] - x[0]), both)
    return _Point(n=n, share=share, mean=mean, rate=rate, ttft=ttft, seen=mean, step=step, times=times)


def _result(
    lane: Lane,
    workload: Workload,
    point: _Point,
    lanes: Array,
    *,
    load: Array,
    unstable: Array | bool,
    strict: bool = True,
) -> SteadyState:
    system, step = lane.system, point.step
    rate, ttft = point.rate, point.ttft
    # over time, where the solution is over iterations: long ones hold more
    n = point.n * point.seen / point.mean
    # share of time with an iteration running: a lane with nobody decoding or prefilling idles
    pp = system.parallel.pp
    busy = jnp.clip(1.0 - jnp.exp(-(n + rate * ttft)), 0.0, 1.0)
    hw = system.hardware
    shares = iteration_energy(system, step, pp)
    # idle power is drawn all the time, the rest while an iteration runs
    power = shares / step.seconds * jnp.where(jnp.arange(len(ENERGY_SHARES)) == 0, 1.0, busy)
    memory = lane.memory
    kept = kv_bytes_per_chip(system.model, system.parallel, lane.context)
    occupancy = safe_divide(n * pp * kept, jnp.maximum(memory.kv_budget, 0.0))
    status = _status(memory.kv_budget, memory.kv_tokens, lane.request_kv, system.model.max_context, unstable)
    bad = (
        (status == Status.OUT_OF_MEMORY)
        | (status == Status.KV_TOO_SMALL)
        | (status == Status.CONTEXT_TOO_LONG)
    )

    def good(x: Array) -> Array:
        return jnp.where(bad, jnp.nan, x) if strict else x

    tpot = (point.seen + point.stall) / lane.gain
    return SteadyState(
        ttft=good(ttft),
        tpot=good(tpot),
        e2e=good(ttft + tpot * jnp.maximum(workload.osl - 1.0, 0.0)),
        rate=good(rate * lanes),
        running=good(n),
        waiting=good(rate * (ttft + point.stall * lane.steps)),
        step=good(point.mean),
        prefill_share=good(point.share),
        load=good(load),
        kv_occupancy=good(occupancy),
        power=good(power),
        breakdown=good(step.by_operator),
        flops_utilization=good(busy * step.flops.sum() / step.seconds * pp / hw.peak_flops[..., 1]),
        bandwidth_utilization=good(busy * step.bytes.sum() / step.seconds * pp / hw.memory_bandwidth),
        status=status,
    )


def _status(
    budget: Array, kv_tokens: Array, request_kv: Array, max_context: Array, unstable: Array | bool
) -> Array:
    status = jnp.where(unstable, Status.UNSTABLE, Status.OK)
    status = jnp.where(kv_tokens < request_kv, Status.KV_TOO_SMALL, status)
    status = jnp.where(budget <= 0, Status.OUT_OF_MEMORY, status)
    return jnp.where(request_kv > max_context, Status.CONTEXT_TOO_LONG, status)
