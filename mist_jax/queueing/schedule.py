"""What an engine does in one iteration: choose the batch, run it, hand out tokens.

One scheduler serves every policy; a policy is a set of flags of the client (`policies.py`). The order of
work is that of vLLM V1 (vllm/v1/core/sched/scheduler.py, `schedule`): the running requests first, then
admission from the waiting queue, both under one token budget; a running request that finds no KV block
preempts the last of the running, by recompute. Engines whose decodes all advance by one token an iteration
need no work per sequence: the decode step counter of the client stands for all of them.
"""

from __future__ import annotations

import numpy as np

from mist_jax.queueing.kernel import kernel
from mist_jax.queueing.prefix_cache import (
    blocks_for,
    find_prefix,
    share_units,
    take_blocks,
    take_prefix,
)
from mist_jax.queueing.queues import ring_insert, ring_remove, run_append
from mist_jax.queueing.residence import computed_now, dequeue, join_decode, log_segment, preempt
from mist_jax.queueing.state import (
    DECODE,
    NONE,
    PREFILL,
    RESERVE_ALL,
    RESERVE_PROMPT,
    ROLE_DECODE,
    ROLE_PREFILL,
)
from mist_jax.queueing.table import decode_time, mixed_time, prefill_time, seqs_time, tokens_time
from mist_jax.queueing.transfer import note_prefills
from mist_jax.queueing.views import (
    chunk_request,
    chunk_tokens,
    clients,
    phase,
    requests,
    ring,
    tables,
)


@kernel
def _put_chunk(S, c, r, n, new):
    k = clients(S)[c]
    take_blocks(S, c, new)
    requests(S)[r].blocks += new
    chunk_request(S)[c, k.chunks] = r
    chunk_tokens(S)[c, k.chunks] = n
    k.chunks += 1
    k.step_prefill += n
    share_units(S, c, r, np.int64(requests(S)[r].computed + n))


@kernel
def _want(S, c, rest):
    """Tokens that a prompt with `rest` tokens to compute wants of an iteration."""
    k = clients(S)[c]
    return min(rest, k.threshold) if k.threshold > 0 else rest


@kernel
def _chunk(S, c, r, budget):
    return min(_want(S, c, requests(S)[r].target - requests(S)[r].computed), budget)


@kernel
def _skip_decode(S, c, r):
    """The token budget is used up before r: it keeps its place and emits one step later."""
    k = clients(S)[c]
    q = requests(S)[r]
    ring_remove(S, c, r, q.base_step + q.output - q.emitted)
    if k.reserve != RESERVE_ALL:
        phase(S)[c, (q.base - q.base_step) % k.block] -= 1
    done = np.int32(k.step - q.base_step)
    q.emitted += done
    q.base += done
    q.base_step = k.step + 1
    ring_insert(S, c, r, q.base_step + q.output - q.emitted)
    if k.reserve != RESERVE_ALL:
        phase(S)[c, (q.base - q.base_step) % k.block] += 1
    log_segment(S, c, r, np.nan)


@kernel
def _run_each(S, c, budget, kinds):
    """One pass over the running requests in order: decodes (1), prompts (2) or both (3).

    Returns (budget left, decodes scheduled, what the skipped ones take from the context, preempted).
    """
    k = clients(S)[c]
    count = 0
    context = 0
    preempted = False
    r = np.int64(k.run_head)
    while r != NONE:
        q = requests(S)[r]
        if not kinds & (1 if q.state == DECODE else 2):
            r = np.int64(q.run_next)
            continue
        if budget <= 0:
            if q.state == DECODE:
                here = computed_now(S, c, r) + 1
                _skip_decode(S, c, r)
                context -= here  # it stays in the client's sum; the caller takes it from the step's
            r = np.int64(q.run_next)
            continue
        n = 1
        new = 0
        if q.state == DECODE:
            here = computed_now(S, c, r)
            if k.reserve != RESERVE_ALL and here % k.block == 0:
                new = 1
        else:
            n = _chunk(S, c, r, budget)
            new = max(0, blocks_for(q.computed + n, k.block) - q.blocks)
        lost = False
        while new > k.free:
            v = np.int64(k.run_tail)
            preempt(S, c, v)
            preempted = True
            if v == r:
                lost = True
                break
        if lost:
            break
        if q.state == DECODE:
            take_blocks(S, c, new)
            count += 1
        else:
            _put_chunk(S, c, r, n, new)
        budget -= n
        r = np.int64(q.run_next)
    return budget, count, context, preempted


@kernel
def run_running(S, c, budget):
    """Schedule the running requests; returns (budget left, sum of the context, preempted)."""
    k = clients(S)[c]
    grow = 0
    if k.decoding > 0 and k.reserve != RESERVE_ALL:
        grow = phase(S)[c, (-k.step) % k.block]
    quick = k.decoding <= budget
    n = 0
    new = 0
    if k.partial == 1 and quick:
        r = np.int64(k.run_tail)
        quick = requests(S)[r].state == PREFILL
        if quick:
            n = _chunk(S, c, r, budget - k.decoding)
            if n > 0:
                new = max(0, blocks_for(requests(S)[r].computed + n, k.block) - requests(S)[r].blocks)
    elif k.partial > 1:
        quick = False
    if quick and grow + new <= k.free:
        take_blocks(S, c, grow)
        k.step_decodes = k.decoding
        if n > 0:
            _put_chunk(S, c, np.int64(k.run_tail), n, new)
        return budget - k.decoding - n, k.context, False
    kinds = np.int64(3 - 2 * k.decode_first)  # a variable: numba compiles anew for each literal
    budget, count, skipped, preempted = _run_each(S, c, budget, kinds)
    if k.decode_first:
        budget, _, _, _ = _run_each(S, c, budget, kinds + 1)
    k.step_decodes = count
    return budget, k.context + skipped, preempted


@kernel
def left_ahead(S, c):
    """Tokens that the iteration after the one just formed leaves to new requests.

    The running want a token for each decode that goes on, and the rest of each prompt in progress.
    """
    k = clients(S)[c]
    left = k.budget - k.decoding
    if k.step_decodes > 0:
        r = np.int64(ring(S)[c, (k.step + 1) & (ring(S).shape[1] - 1)])
        while r != NONE:  # ends with the iteration just formed
            left += 1
            r = np.int64(requests(S)[r].ring_next)
    for i in range(k.chunks):
        q = requests(S)[chunk_request(S)[c, i]]
        rest = q.target - q.computed - chunk_tokens(S)[c, i]
        if rest > 0:
            left -= _want(S, c, rest)
        elif q.emitted + 1 < q.output and k.role & ROLE_DECODE:
            left -= 1
    unreached = k.partial - k.chunks  # the budget ran out before them: they are the last prompts
    r = np.int64(k.run_tail)
    while unreached > 0:
        q = requests(S)[r]
        if q.state == PREFILL:
            unreached -= 1
            left -= _want(S, c, q.target - q.computed)
        r = np.int64(q.run_prev)
    return left


@kernel
def admit(S, c, t, budget, ahead):
    """Admit from the head of the waiting queue while budget, slots and blocks last.

    Returns (budget left, admitted, context). Requests that come with their KV (from a prefill engine) decode at once
    where prompts and decodes mix; `context` is their share of the step's. `ahead`: into the iteration after the one
    just formed; blocks are taken now.
    """
    k = clients(S)[c]
    admitted = 0
    context = 0
    at_work = k.decoding > 0
    while k.waiting > 0 and budget > 0 and k.running < k.max_seqs:
        r = np.int64(k.queue)
        q = requests(S)[r]
        if at_work and q.due > k.step:
            break
        ready = q.computed > 0
        units, cost = (0, 0) if ready else find_prefix(S, c, r)
        have = max(units * k.unit_tokens, min(np.int64(q.cached), np.int64(q.target) - 1))
        if ready:
            n = 1
            upto = q.computed + (1 if k.mix and not ahead else 0)
        else:
            n = q.target - have
            if k.chunked:
                n = min(_want(S, c, n), budget)
            elif n > budget and k.chunks > 0:
                break  # the first prompt of an iteration may exceed what decodes leave of the budget
            upto = have + n
        if k.reserve == RESERVE_ALL:
            upto = q.prompt + q.output - 1 if k.role & ROLE_DECODE else q.target
        elif k.reserve == RESERVE_PROMPT and not ready:
            upto = q.target
        new = blocks_for(upto, k.block) - units * k.unit_blocks
        if new + cost + (k.watermark if k.running > 0 else 0) > k.free:
            break
        dequeue(S, c)
        if np.isnan(q.scheduled):
            q.scheduled = t
        run_append(S, c, r)
        admitted += 1
        budget -= n
        if ready:
            take_blocks(S, c, new)
            q.blocks = new
            share_units(S, c, r, np.int64(q.computed))
            if k.mix and not ahead:
                k.step_decodes += 1
                context += q.computed + 1
            if np.isnan(q.transferred):
                q.transferred = t
            # the decode step in flight is not one of its own
            after = 1 if ahead and k.step_decodes > 0 else 0
            join_decode(S, c, r, np.int64(q.computed), np.nan, after)
            continue
        if k.prefix:
            load = take_prefix(S, c, r, units)
            if ahead:
                k.load_ahead += load
            else:
                k.load += load
        q.state = PREFILL
        q.flow = np.nan
        q.computed = have
        k.backlog -= have
        k.tokens -= have
        k.partial += 1
        if ahead:
            take_blocks(S, c, new)
            q.blocks += new
            share_units(S, c, r, np.int64(have + n))
        else:
            _put_chunk(S, c, r, n, new)
    return budget, admitted, context


@kernel
def begin_step(S, c, t):
    """Form the batch of client c at t; returns (duration in s, plain), 0 if there is nothing to run.

    `plain` means that the next iteration will hold the same requests, unless one ends, memory runs out or
    something arrives.
    """
    k = clients(S)[c]
    k.chunks = 0
    k.step_decodes = 0
    k.step_prefill = 0
    k.load = k.load_ahead
    k.load_ahead = 0.0
    context = np.int64(0)
    admitted = 0
    preempted = False
    if k.mix:
        budget, context, preempted = run_running(S, c, k.budget)
        # an engine that schedules ahead has fixed the iteration that begins now, unless it was idle
        if not (preempted or (k.ahead > 0 and k.chunks + k.step_decodes > 0)):
            _, admitted, more = admit(S, c, t, budget, False)
            context += more
        if k.ahead > 0 and k.chunks + k.step_decodes > 0 and k.waiting > 0:
            _, later, _ = admit(S, c, t, left_ahead(S, c), True)
            admitted += later
    else:
        budget = k.budget
        if k.partial > 0:  # prompts that were split go on before new ones
            budget, _, _, preempted = _run_each(S, c, budget, np.int64(2))
        if not (preempted or (k.lock and k.running > 0)):
            _, admitted, _ = admit(S, c, t, budget, False)
        if k.chunks == 0:
            _, context, preempted = run_running(S, c, k.budget)
    if k.chunks == 0 and k.step_decodes == 0:
        return 0.0, False
    if k.role == ROLE_PREFILL:
        note_prefills(S, c, t)
    plain = k.chunks == 0 and admitted == 0 and not preempted and k.step_decodes == k.running
    if k.waiting > 0 and requests(S)[np.int64(k.queue)].due > k.step:
        plain = False  # it will be looked at soon
    return step_duration(S, c, context), plain


@kernel
def step_tokens(S, c):
    """Tokens of the chosen batch, those that verify drafts included."""
    k = clients(S)[c]
    return k.step_prefill + tables(S)[k.table].decode_width * k.step_decodes


@kernel
def step_duration(S, c, context):
    """Seconds that the chosen batch takes."""
    k = clients(S)[c]
    emitting = k.step_decodes
    pre = 0.0
    for i in range(k.chunks):
        q = requests(S)[chunk_request(S)[c, i]]
        n = chunk_tokens(S)[c, i]
        pre += prefill_time(S, k.table, np.float64(n), np.float64(q.computed))
        if q.computed + n == q.target:
            emitting += 1
    out = tokens_time(S, k.table, step_tokens(S, c))
    out += seqs_time(S, k.table, np.float64(emitting))
    out += pre
    if k.chunks > 0:
        out += tables(S)[k.table].prefill_floor
    if k.step_decodes > 0:
        mean = context / k.step_decodes
        if k.chunks > 0:
            out += mixed_time(S, k.table, np.float64(k.step_decodes), mean)
        else:
            out += decode_time(S, k.table, np.float64(k.step_decodes), mean)
    if k.overlap_load:
        return max(out, k.load)
    return out + k.load
