"""Steady state of disaggregated pools: prefill replicas hand their KV cache to decode replicas.

    n_d lanes_d + lambda (TTFT) = C                 closed loop
    lambda = n_d lanes_d / ((OSL - 1) tau_d(m))     decode pool, no prefill in its iterations
    TTFT   = request + wait + prefill + transfer + what is left of a decode iteration

The lanes of the prefill pool are servers that take all who wait (`batch_server`). The transfer is a latency and the KV
bytes over the replica's link, shared by the transfers under way, as the link's own M/D/1 wait. In a closed loop an
arrival meets the others alone (`_others`), and a server that is always busy has all of them before it. Splitwise
(arXiv 2311.18677) and DistServe (arXiv 2401.09670) describe the split; the queues are ours.

Not modelled: decode replicas that refuse transfers when their KV is full (they wait in the closed form of the limit),
affinity between particular replicas.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mist_jax.numerics import safe_divide
from mist_jax.physics.memory import kv_bytes_total
from mist_jax.physics.step import StepTime
from mist_jax.physics.step_energy import ENERGY_SHARES, iteration_energy
from mist_jax.pytree import pytree, replace
from mist_jax.queueing.batch_server import batch_wait
from mist_jax.queueing.gated import norm, others_seen
from mist_jax.queueing.lane import Lane, lanes_of, make_lane, mixed_batch
from mist_jax.queueing.places import place_wait
from mist_jax.queueing.root import solve_load
from mist_jax.queueing.steady import (
    DRAIN,
    SteadyState,
    _Point,
    _result,
    after_a_cold_start,
    step_seconds,
    step_time,
)
from mist_jax.system.batch import Batch
from mist_jax.system.deployment import System, Transfer, Workload

Array = Any


@pytree
class PrefillPool:
    """What one lane of the prefill pool takes; scalars."""

    lanes: Array
    ranks: Array  #: attention-DP ranks, which step together
    alone: Array  #: s, all iterations of one prompt alone
    fixed: Array  #: s of an iteration, however few tokens it holds
    single: Array  #: tokens of an iteration with one prompt
    step_single: StepTime  #: of it
    step_full: Array  #: s of an iteration that fills the token budget
    budget: Array  #: tokens
    isl: Array


@pytree
class Disaggregated:
    """The deployment's means, and each pool's own figures."""

    decode: SteadyState  #: TTFT, TPOT, E2E and rate are those of the whole; power and utilization of the decode pool
    prefill_utilization: Array  #: busy share of the prefill pool
    prefill_wait: Array  #: s, mean wait for a prefill replica
    prefill_seconds: Array  #: s, mean prefill
    transfer_seconds: Array  #: s, visible part of the KV transfer
    transfer_utilization: Array  #: busy share of the prefill pool's links
    prefill_power_share: Array  #: [len(ENERGY_SHARES)] W per chip of the prefill pool


def _prefill_batch(lane: Lane, tokens: Array) -> Batch:
    batch = mixed_batch(lane, jnp.zeros_like(tokens), tokens)
    return replace(batch, decode_seqs=jnp.zeros_like(tokens))


def prefill_pool(system: System, workload: Workload, replicas: Array) -> PrefillPool:
    """Times of the prefill pool, independent of its load."""
    lane = make_lane(system, workload)
    budget = lane.system.engine.max_num_batched_tokens
    single = jnp.minimum(lane.isl, budget)
    chunks = jnp.maximum(lane.isl / budget, 1.0)
    extra = jnp.ceil(chunks - 1e-9) - chunks
    # one vectorized call for the three: a third of the program to compile
    sizes = jnp.stack([single, budget, jnp.minimum(16.0, single)])
    steps = jax.vmap(lambda tokens: step_time(lane.system, _prefill_batch(lane, tokens)))(sizes)
    of_one, of_budget, small = steps.seconds
    return PrefillPool(
        lanes=lanes_of(system, replicas),
        ranks=system.parallel.dp,
        alone=chunks * of_one + extra * small,
        fixed=_intercept(sizes, steps.seconds),
        single=single,
        step_single=jax.tree.map(lambda x: x[0], steps),
        step_full=jnp.maximum(of_budget, of_one),
        budget=budget,
        isl=lane.isl,
    )


def _intercept(sizes: Array, seconds: Array) -> Array:
    """Seconds of an iteration of no tokens: the line through one prompt and a full budget, or, where that is the same,
    through one prompt and a few tokens.

    Args:
        sizes, seconds: [3] tokens and s of one prompt, of the budget, and of a few tokens.
    """
    tokens = sizes - sizes[0]
    slope = (seconds - seconds[0]) / jnp.where(tokens == 0, 1.0, tokens)
    slope = jnp.where(sizes[1] > 1.01 * sizes[0], slope[1], slope[2])
    return jnp.clip(seconds[0] - slope * sizes[0], 0.0, seconds[0])


#: Power of the busy share with which a closed loop gathers at a server; from plays (tests/test_disaggregated.py).
GATHERING = 50.0


def _others(clients: Array | None, servers: Array) -> tuple[Array, Array]:
    """(share of the load that an arrival at `servers` alike meets, most requests before it at its own).

    Under Poisson arrivals all of it, and no limit is needed. In a closed loop those who are not the request itself
    (arrival theorem: M. Reiser, S. Lavenberg, J. ACM 27(2), 1980), less the one in each server that none waits for.
    """
    if clients is None:
        return jnp.asarray(1.0), jnp.asarray(0.0)
    others = jnp.maximum(clients - servers, 0.0)
    return others / jnp.maximum(clients, 1e-9), others / servers


def _scatter(clients: Array | None, load: Array, cv: Array) -> Array:
    """Variance of the arrivals at servers over that of Poisson arrivals, where they have that `load`.

    A closed loop is one stream for each request in flight, whose cycles vary as answers do. Few streams of little
    variation do not come at random: w cv^2 + 1 - w with w = 1 / (1 + 4 (1 - rho)^2 (C - 1)) (W. Whitt, "The Queueing
    Network Analyzer", Bell System Technical Journal 62(9), 1983, section 4.3).
    """
    if clients is None:
        return jnp.asarray(1.0)
    weight = 1.0 / (1.0 + 4.0 * (1.0 - load) ** 2 * jnp.maximum(clients - 1.0, 0.0))
    return weight * jnp.minimum(cv, 1.0) ** 2 + 1.0 - weight


def _gathered(wait: Array, most: Array, service: Array, load: Array) -> Array:
    """`wait`, or where a closed loop saturates a server at its `load` the whole population before it."""
    return norm(wait, most * service * jnp.clip(load, 0.0, 1.0) ** GATHERING)


def _prefill_latency(
    pool: PrefillPool, rate: Array, workload: Workload, clients: Array | None
) -> tuple[Array, ...]:
    """(wait, prefill) in seconds and the busy share at `rate` requests/s over the pool; `clients` of a closed loop."""
    each = rate / pool.lanes
    share, most = _others(clients, pool.lanes)
    own = jnp.maximum(pool.alone - jnp.maximum(pool.isl / pool.budget, 1.0) * pool.fixed, 0.0)
    service = pool.step_full * pool.isl / pool.budget
    scatter = _scatter(clients, jnp.clip(each * service, 0.0, 1.0), workload.osl_cv)
    prompts = (pool.isl, workload.isl_cv, pool.budget)
    wait, prefill, busy = batch_wait(share * each, pool.fixed, own, *prompts, pool.lanes, scatter)
    # ranks step together: an idle one waits for the prompts of the others
    met = 1.0 - (1.0 - 0.999 * busy) ** pool.ranks - 0.999 * busy
    wait = wait + 0.5 * met * pool.step_single.seconds
    wait = _gathered(wait, most, service, each * service)
    return wait, prefill, jnp.clip(each * jnp.maximum(service, pool.alone), 0.0, 1.0)


def again_s(prefill: System, isl: Array) -> Array:
    """Seconds to tokenize a prompt once more where it is handed over."""
    return prefill.engine.tokenizes_again * prefill.calibration.step.prompt_token_s * isl


def share_behind(transfer: Transfer, layers: Array) -> Array:
    """Share of a transfer that can go while its prompt is computed: all layers but the last, where it overlaps.

    Two machines in a row, L items of p and f seconds: L max(p, f) + min(p, f), so that (L - 1) min(p, f) hides.
    """
    return transfer.overlap * (1.0 - 1.0 / layers)


def _transfer_latency(
    transfer: Transfer,
    nbytes: Array,
    layers: Array,
    prefill: Array,
    rate: Array,
    replicas: Array,
    clients: Array | None,
) -> tuple[Array, Array]:
    """(visible seconds, busy share of the links) of moving `nbytes` per request.

    Serial: alpha + S / BW. Layer by layer the transfer hides behind the rest of the prefill, and what shows is the
    last layer or what the link is slower by (Splitwise, arXiv 2311.18677, section 4.3). The playback hides the same
    share (`queueing.transfer`).
    """
    flight = nbytes / transfer.bandwidth
    rho = jnp.clip(rate / replicas * flight, 0.0, 0.999)
    share, most = _others(clients, replicas)
    wait = flight * share * rho / (2.0 * (1.0 - share * rho))
    wait = _gathered(wait, most, flight, rho)
    hidden = share_behind(transfer, layers) * jnp.minimum(flight, prefill)
    return transfer.latency + flight - hidden + wait, rho


def closed_loop_disaggregated(
    decode: System,
    prefill: System,
    transfer: Transfer,
    workload: Workload,
    decode_replicas: Array,
    prefill_replicas: Array,
    *,
    strict: bool = True,
) -> Disaggregated:
    """A fixed number of requests in flight over both pools.

    Args:
        decode, prefill: one replica of each pool.
        transfer: link of one prefill replica.
        workload: `concurrency` of the whole deployment.
        strict: as in `closed_loop`.
    """
    pools = (decode_replicas, prefill_replicas)
    return _disaggregated(decode, prefill, transfer, workload, *pools, workload.concurrency, None, strict)


def open_loop_disaggregated(
    decode: System,
    prefill: System,
    transfer: Transfer,
    workload: Workload,
    decode_replicas: Array,
    prefill_replicas: Array,
) -> Disaggregated:
    """Poisson arrivals at `workload.rate` over both pools; unstable where either pool saturates."""
    return _disaggregated(
        decode, prefill, transfer, workload, decode_replicas, prefill_replicas, None, workload.rate
    )


def _disaggregated(
    decode: System,
    prefill: System,
    transfer: Transfer,
    workload: Workload,
    decode_replicas: Array,
    prefill_replicas: Array,
    clients: Array | None,
    offered: Array | None,
    strict: bool = True,
) -> Disaggregated:
    lane = make_lane(decode, workload)
    lanes = lanes_of(decode, decode_replicas)
    pool = prefill_pool(prefill, workload, prefill_replicas)
    nbytes = kv_bytes_total(lane.system.model, workload.isl)
    layers = lane.system.model.layers
    outside = prefill.calibration.step
    request = outside.request_s + outside.prompt_token_s * workload.isl
    request = request + outside.handover_s + again_s(prefill, workload.isl)

    # a benchmark that starts with all its requests at once fills the queues of the prefill pool
    first = (
        jnp.zeros_like(pool.isl) if clients is None else 0.5 * jnp.maximum(clients / pool.lanes - 1.0, 0.0)
    )
    burst = workload.burst_share * first * pool.step_full * pool.isl / pool.budget
    burst = outside.pool_burst_scale * burst

    def ttft_at(rate: Array, others: Array, step: Array) -> tuple[Array, ...]:
        wait, run, busy = _prefill_latency(pool, rate, workload, clients)
        wait = wait + burst
        move, moving = _transfer_latency(
            transfer, nbytes * outside.transfer_scale, layers, run, rate, prefill_replicas, clients
        )
        # who is handed over joins the next iteration of the decode pool
        met = -jnp.expm1(-others) if clients is None else jnp.minimum(others, 1.0)
        return request + wait + run + move + 0.5 * met * step, wait, run, busy, move, moving

    def decode_batch(others: Array) -> Batch:
        return mixed_batch(lane, 1.0 + others, jnp.zeros_like(others))

    def times(others: Array) -> Array:
        return jnp.reshape(step_seconds(lane.system, decode_batch(others)), (1,))

    def in_full(others: Array) -> tuple[Array, StepTime]:
        step = step_time(lane.system, decode_batch(others))
        return jnp.reshape(step.seconds, (1,)), step

    # the pool can serve no more than its prefill side: a rate at which a prefill lane is always busy
    if clients is not None:
        per_lane = clients / lanes
        lane = replace(lane, limit=jnp.minimum(lane.limit, jnp.maximum(per_lane, 1e-3)))
        seen = jnp.maximum(per_lane - 1.0, 0.0) / jnp.maximum(per_lane, 1.0)
        seen = seen * (1.0 - DRAIN * workload.burst_share)

    def others_of(n: Array) -> Array:
        return others_seen(n, 1.0 / lanes) if clients is None else n * seen

    def rate_at(n: Array, step: Array) -> Array:
        return n * lanes / (lane.steps * step)

    def excess(n: Array, t: Array) -> Array:
        rate = rate_at(n, t[0])
        if clients is None:
            return 1.0 - offered / rate
        return 1.0 - clients / (n * lanes + rate * ttft_at(rate, others_of(n), t[0])[0])

    n, at_limit, at_top, (_, step) = solve_load(times, in_full, others_of, excess, lane.limit)
    rate = rate_at(n, step.seconds)
    ttft, wait, run, busy, move, moving = ttft_at(rate, others_of(n), step.seconds)
    capacity = rate_at(lane.limit, at_top[0])
    if clients is None:
        prefill_capacity = pool.lanes * pool.budget / (pool.step_full * pool.isl)
        # nor more prompts than the links of its replicas carry, each at most busy all the time
        link_capacity = prefill_replicas * transfer.bandwidth / (nbytes * outside.transfer_scale)
        capacity = jnp.minimum(capacity, jnp.minimum(prefill_capacity, link_capacity))
        assert offered is not None  # one of the two loads is given
        load = offered / jnp.maximum(capacity, 1e-30)
        unstable = load > 1.0
        # a prompt whose KV is there waits for a place to decode
        places = place_wait(lane.limit * lanes, n / lane.limit, lane.steps * step.seconds, workload.osl_cv)
        ttft = ttft + jnp.where(unstable, 0.0, places)
    else:
        ttft = jnp.where(at_limit, jnp.maximum(ttft, safe_divide(clients - n * lanes, rate)), ttft)
        load, unstable = jnp.ones_like(n), jnp.zeros_like(n, dtype=bool)
    point = _Point(
        n=n,
        share=jnp.zeros_like(n),
        mean=step.seconds,
        rate=rate / lanes,
        ttft=ttft,
        seen=step.seconds,
        step=step,
        times=step.seconds,
    )
    if clients is not None:
        cold = workload.burst_share * (outside.first_round_s + outside.first_handover_s)
        point = after_a_cold_start(point, clients / lanes, cold)
        rate, ttft = point.rate * lanes, point.ttft
    state = _result(lane, workload, point, lanes, load=load, unstable=unstable, strict=strict)
    state = replace(state, waiting=rate * ttft / lanes)
    one = pool.step_single
    shares = iteration_energy(prefill, one, prefill.parallel.pp)
    power = shares / one.seconds * jnp.where(jnp.arange(len(ENERGY_SHARES)) == 0, 1.0, busy)
    return Disaggregated(
        decode=state,
        prefill_utilization=busy,
        prefill_wait=wait,
        prefill_seconds=run,
        transfer_seconds=move,
        transfer_utilization=moving,
        prefill_power_share=power,
    )
