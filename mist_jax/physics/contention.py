"""Who gets how much of what is shared: weighted max-min shares with per-job caps.

A job progresses at a rate x_j (in its own unit of work per second) and consumes D[j, r] * x_j of resource r.
All rates rise together in proportion to the weights, x_j = w_j * level, until a resource is full or a job
reaches its cap; those jobs stop, the others go on (progressive filling: Bertsekas & Gallager, Data Networks,
2nd ed., 6.5.2). The roofline is the case of one job: x = min(cap, min_r C_r / D_r).

`fair_shares` is the only function that decides shares. The steady state calls it inside a fixed point
(`shared_slowdown`), the playback whenever a flow starts or ends (`fluid_play`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any

#: Relative slack within which two constraints count as reached at the same level.
_TIE = 1e-9


def interference(jobs: Array, kappa: Array, floor: Array = 0.0) -> Array:
    """Share of a resource's capacity left to n jobs together, max(floor, 1 / (1 + kappa (n - 1))).

    One job has all of it. kappa = 0.2 for a PCIe 5 link used in both directions: 83.4 GB/s of 2 x 50 GB/s
    (vLLM blog, "KV offloading connector", 2026-01-08), i.e. 1 / 1.2. Memory and L2 interference on GPUs:
    Elvinger et al., "Understanding GPU Resource Interference One Level Deeper", arXiv 2501.16909, where the
    loss depends on the pair; kappa is a mean over pairs.

    Args:
        jobs: number of jobs on the resource (any shape, may be fractional); below 1 counts as 1.
        kappa: loss per further job, >= 0.
        floor: smallest share.
    """
    import jax.numpy as jnp

    xp = np if isinstance(jobs, np.ndarray | float | int) else jnp
    return xp.maximum(floor, 1.0 / (1.0 + kappa * xp.maximum(jobs - 1.0, 0.0)))


def dominant_weights(demand: Array, capacity: Array) -> Array:
    """Weights that make rates equal in their dominant share, w_j = 1 / max_r (D[j, r] / C_r); shape [jobs].

    The same as the rate each job would have alone, caps aside. With them `fair_shares` is dominant resource
    fairness (Ghodsi et al., NSDI 2011): right where jobs use several resources in different units. Jobs that
    demand nothing get weight 1.
    """
    import jax.numpy as jnp

    from mist_jax.physics.extremes import largest

    share = largest(demand / capacity)
    busy = share > 0
    return jnp.where(busy, 1.0 / jnp.where(busy, share, 1.0), 1.0)


def _fill_once(xp: Any, state: tuple, demand: Array, capacity: Array, caps: Array, weights: Array) -> tuple:
    """One round of progressive filling: raise the level to the next constraint, stop who meets it."""
    rate, active = state
    growing = xp.where(active, weights, 0.0) @ demand  # consumption of each resource per unit of level
    taken = xp.where(active, 0.0, rate) @ demand
    slack = xp.maximum(capacity - taken, 0.0)
    used = growing > 0
    level_resource = xp.where(used, slack / xp.where(used, growing, 1.0), xp.inf)
    pull = active & (weights > 0)
    # An infinite cap must not enter the quotient: its slope in the weight is infinite, and 0 * inf is NaN.
    capped = pull & xp.isfinite(caps)
    level_cap = xp.where(capped, xp.where(capped, caps, 1.0) / xp.where(capped, weights, 1.0), xp.inf)
    # By index, not by value: see `physics.extremes`.
    level = xp.minimum(level_resource[xp.argmin(level_resource)], level_cap[xp.argmin(level_cap)])
    bounded = xp.isfinite(level)
    level = xp.where(bounded, level, 0.0)
    reach = level * (1.0 + _TIE)
    hit = ((demand > 0) & (level_resource <= reach)[None, :]).any(axis=1)
    stop = active & ((level_cap <= reach) | hit | (weights <= 0)) & bounded
    rate = xp.where(stop, xp.minimum(weights * level, caps), rate)
    return rate, active & ~stop


def fair_shares(
    demand: Array, capacity: Array, caps: Array | None = None, weights: Array | None = None
) -> Array:
    """Weighted max-min rates of jobs that share resources: shape [jobs], units of work per second.

    x = progressive filling of {sum_j D[j, r] x_j <= C_r, x_j <= cap_j} with x_j rising as w_j * level. At
    most `jobs` rounds, each of which stops one job at least; the trip count is fixed, so it is differentiable
    in reverse mode and under vmap. Differentiable almost everywhere (kinks where the binding constraint
    changes).

    Args:
        demand: [jobs, resources] amount of each resource per unit of work, >= 0.
        capacity: [resources] per second, > 0 (already derated, see `interference`).
        caps: [jobs] largest rate of each job (its cores, its queue depth, its compute); inf = none.
        weights: [jobs] >= 0; equal by default, which shares out units of work: flows in bytes with D = 1 get
            equal bytes/s. 0 gets nothing. See `dominant_weights` for jobs with different units.

    Returns:
        inf for a job that nothing limits.

    Not modelled: preference by arrival order or burstiness, and time slicing that wastes a resource.
    """
    import jax
    import jax.numpy as jnp

    demand, capacity = jnp.asarray(demand), jnp.asarray(capacity)
    dtype = jnp.result_type(float, demand.dtype, capacity.dtype)
    jobs = demand.shape[0]
    caps = jnp.full((jobs,), jnp.inf, dtype) if caps is None else jnp.asarray(caps, dtype)
    weights = jnp.ones((jobs,), dtype) if weights is None else jnp.asarray(weights, dtype)
    state = (jnp.zeros((jobs,), dtype), jnp.ones((jobs,), bool))
    rate, active = jax.lax.fori_loop(
        0,
        jobs,
        lambda _, s: _fill_once(jnp, s, demand.astype(dtype), capacity.astype(dtype), caps, weights),
        state,
    )
    return jnp.where(active, jnp.where(weights > 0, jnp.inf, 0.0), rate)


def fair_shares_numpy(demand: Any, capacity: Any, caps: Any = None, weights: Any = None) -> np.ndarray:
    """`fair_shares` on NumPy arrays, for event-driven use on the host; the same rounds."""
    demand, capacity = np.asarray(demand, float), np.asarray(capacity, float)
    jobs = demand.shape[0]
    caps = np.full(jobs, np.inf) if caps is None else np.asarray(caps, float)
    weights = np.ones(jobs) if weights is None else np.asarray(weights, float)
    state = (np.zeros(jobs), np.ones(jobs, bool))
    for _ in range(jobs):
        state = _fill_once(np, state, demand, capacity, caps, weights)
        if not state[1].any():
            break
    rate, active = state
    return np.where(active, np.where(weights > 0, np.inf, 0.0), rate)


def single_job_rate(demand: Array, capacity: Array, cap: Array = np.inf) -> Array:
    """The roofline, min(cap, min_r C_r / D_r): the rate of one job alone; [resources] each."""
    import jax.numpy as jnp

    from mist_jax.physics.extremes import smallest

    used = demand > 0
    return jnp.minimum(cap, smallest(jnp.where(used, capacity / jnp.where(used, demand, 1.0), jnp.inf)))


def fluid_play(
    arrival: Any,
    work: Any,
    demand: Any,
    capacity: Any,
    caps: Any = None,
    weights: Any = None,
    kappa: Any = 0.0,
) -> np.ndarray:
    """Exact fluid solution: finish times [jobs] in s when shares are recomputed at every start and finish.

    Between events every running job progresses at its max-min rate; capacities are derated by
    `interference(n_r, kappa_r)` with n_r the running jobs that use resource r. NumPy, event by event, for
    tests and for playing transfers.

    Args:
        arrival: [jobs] s.  work: [jobs] units.  demand: [jobs, resources].  capacity: [resources].
        caps, weights: [jobs], see `fair_shares`.  kappa: [resources] or scalar.

    Raises:
        ValueError: if a job can never finish (zero weight or zero capacity).
    """
    arrival, left = np.asarray(arrival, float), np.array(work, float)
    demand, capacity = np.asarray(demand, float), np.asarray(capacity, float)
    jobs = len(arrival)
    caps = np.full(jobs, np.inf) if caps is None else np.asarray(caps, float)
    weights = np.ones(jobs) if weights is None else np.asarray(weights, float)
    order = np.argsort(arrival, kind="stable")
    finish = np.full(jobs, np.nan)
    running: list[int] = []
    now, k = 0.0, 0
    while k < jobs or running:
        if not running:
            now = max(now, arrival[order[k]])
        while k < jobs and arrival[order[k]] <= now:
            running.append(int(order[k]))
            k += 1
        index = np.array(running)
        users = (demand[index] > 0).sum(axis=0).astype(float)
        derated = capacity * interference(users, kappa)
        rate = fair_shares_numpy(demand[index], derated, caps[index], weights[index])
        with np.errstate(divide="ignore", invalid="ignore"):
            until = np.where(left[index] <= 0, 0.0, left[index] / rate)
        step = float(np.min(until))
        next_arrival = arrival[order[k]] - now if k < jobs else np.inf
        if not np.isfinite(min(step, next_arrival)):
            raise ValueError("a job gets no share of a resource it needs and nothing will change that")
        if next_arrival < step:
            left[index] -= np.where(np.isfinite(rate), rate, 0.0) * next_arrival
            left[index[~np.isfinite(rate)]] = 0.0
            now = arrival[order[k]]
            continue
        now += step
        done = until <= step * (1.0 + _TIE)
        left[index] -= np.where(np.isfinite(rate), rate, 0.0) * step
        finish[index[done]] = now
        running = [j for j, d in zip(running, done) if not d]
    return finish


def shared_slowdown(
    arrival_rate: Array,
    work: Array,
    demand: Array,
    capacity: Array,
    caps: Array | None = None,
    weights: Array | None = None,
    kappa: Array = 0.0,
    iterations: int = 40,
) -> dict[str, Array]:
    """Mean service times of job classes that share resources, in steady state: a fixed point.

    T_k = work_k / x_k, where x_k is the rate of one job of class k among the jobs it meets: n_l = lambda_l
    T_l of each class (Little's law) and itself (Poisson arrivals see time averages). For one resource without
    caps this is the M/G/1 processor-sharing queue exactly, T = S / (1 - rho) (Kleinrock, Queueing Systems II,
    4.4). Differentiated implicitly: a last Newton step carries the gradient of the fixed point.

    Args:
        arrival_rate: [classes] jobs/s.  work: [classes] units per job.  demand: [classes, resources] per
            unit.
        capacity: [resources].  caps, weights: [classes], per job.  kappa: interference per further job.
        iterations: of the damped iteration, before Newton steps, at most.

    Returns:
        `seconds` [classes] mean time of a job, `alone` [classes] its time without others, `slowdown`
        [classes], `utilization` [resources] offered, `stable` (all < 1). Where unstable, the times are large
        and finite and mean nothing: report the status.

    Range of validity: mean-field; with caps and several resources it ignores how the numbers of jobs
        fluctuate.
    Against the exact fluid solution with Poisson arrivals (tests/test_contention.py, host DRAM and PCIe):
    within 9 % at 38 % load, -5 to +21 % at 64 %, down to -28 % for the light class at 84 %.
    """
    import jax
    import jax.numpy as jnp

    dtype = jnp.result_type(float)
    rate_in, work, demand, capacity = (jnp.asarray(a, dtype) for a in (arrival_rate, work, demand, capacity))
    classes = work.shape[0]
    caps = jnp.full((classes,), jnp.inf, dtype) if caps is None else jnp.asarray(caps, dtype)
    weights = jnp.ones((classes,), dtype) if weights is None else jnp.asarray(weights, dtype)
    limit = 1e6  # jobs of a class in flight; only reached when unstable
    uses = (demand > 0).astype(dtype)

    def step(log_t: Array, p: tuple) -> Array:
        lam, wk, dem, cap_r, cap_j, wgt, kap = p
        n = jnp.minimum(lam * jnp.exp(log_t), limit)

        def one(k: Array) -> Array:
            met = n + jnp.where(jnp.arange(classes) == k, 1.0, 0.0)
            derated = cap_r * jnp.maximum(1.0 / (1.0 + kap * jnp.maximum(met @ uses - 1.0, 0.0)), 1e-3)
            # `met` identical jobs of a class are one job with that many times the demand, cap unchanged.
            return fair_shares(dem * met[:, None], derated, cap_j, wgt)[k]

        x = jax.vmap(one)(jnp.arange(classes))
        return jnp.log(wk) - jnp.log(jnp.minimum(x, 1e300))

    params = (rate_in, work, demand, capacity, caps, weights, jnp.asarray(kappa, dtype))
    alone = jnp.stack([work[k] / single_job_rate(demand[k], capacity, caps[k]) for k in range(classes)])
    frozen = jax.lax.stop_gradient(params)
    top = jnp.log(limit / jnp.maximum(frozen[0], 1e-12))

    def iterate(log_t: Array) -> Array:
        return 0.5 * log_t + 0.5 * jnp.minimum(step(log_t, frozen), top)

    def newton(log_t: Array) -> Array:
        # The damped iteration contracts like rho and crawls near saturation; Newton does not. Steps are
        # clipped because the slope is wrong across a kink.
        slope = jax.jacfwd(lambda v: step(v, frozen))(log_t)
        move = jnp.linalg.solve(identity - slope, step(log_t, frozen) - log_t)
        return jnp.clip(log_t + jnp.clip(move, -2.0, 2.0), jnp.log(jax.lax.stop_gradient(alone)), top)

    identity = jnp.eye(classes, dtype=dtype) * (1.0 + 1e-12)

    def settle(turn: Any, log_t: Array, most: int, close: float) -> Array:
        """`turn` until it moves no logarithm by more than `close`, at most `most` times."""

        def again(state: tuple) -> Array:
            return (state[0] < most) & (state[2] > close)

        def once(state: tuple) -> tuple:
            new = turn(state[1])
            return state[0] + 1, new, jnp.max(jnp.abs(new - state[1]))

        return jax.lax.while_loop(again, once, (0, log_t, jnp.asarray(jnp.inf, dtype)))[1]

    start = settle(iterate, jnp.log(jax.lax.stop_gradient(alone)), iterations, 1e-6)
    found = jax.lax.stop_gradient(settle(newton, start, 12, 1e-13))
    slope = jax.lax.stop_gradient(jax.jacfwd(lambda v: step(v, frozen))(found))
    residual = step(found, params) - found
    log_t = found + jnp.linalg.solve(identity - slope, residual)
    offered = (rate_in * work) @ demand / capacity
    stable = jnp.all(offered < 1.0)
    seconds = jnp.exp(jnp.where(stable, log_t, found))
    return {
        "seconds": seconds,
        "alone": alone,
        "slowdown": seconds / alone,
        "utilization": offered,
        "stable": stable,
    }
