"""Engines, requests and memory of the naive simulator (see `simulator.py`)."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from mist_jax.queueing.policies import policy

from .table import Table


@dataclass(eq=False)
class Request:
    i: int
    arrival: float
    prompt: int
    output: int
    model: int = 0
    session: int = -1
    priority: float = 0.0
    work: float = 1.0
    delay: float = 0.0
    cached: int = 0
    units: tuple = ()
    children: list = field(default_factory=list)
    parents: int = 0
    status: str = "ok"
    done: bool = False
    client: object = None
    source: object = None
    decoding: bool = False
    sending: bool = False
    computed: int = 0
    emitted: int = 0
    target: int = 0
    blocks: int = 0
    looked_at: int = 0  # decode iterations of the engine after which its scheduler looks at the request
    shared: int = 0
    admission: int = 0
    queued: float = math.nan
    scheduled: float = math.nan
    first: float = math.nan
    finish: float = math.nan
    preemptions: int = 0
    retries: int = 0
    hits: list = field(default_factory=lambda: [0] * 5)
    token_times: list = field(default_factory=list)


class Tier:
    def __init__(self, spec, unit_tokens):
        self.spec, self.units = spec, OrderedDict()
        self.capacity = int(spec.capacity_tokens // unit_tokens)

    def touch(self, h):
        if self.capacity <= 0:
            return
        if h in self.units:
            self.units.move_to_end(h)
            return
        if len(self.units) >= self.capacity:
            self.units.popitem(last=False)
        self.units[h] = True


class Engine:
    station = False

    def __init__(self, spec, world, tiers):
        self.spec, self.p, self.w = spec, policy(spec.policy), world
        self.table = Table(spec.table)
        self.tiers = tiers
        self.alive = True
        self.turn = 0
        self.decode_steps = 0
        self.log = []  # of each iteration: end, prompt tokens, decodes, blocks in use
        self.reset()

    def reset(self):
        self.running, self.waiting = [], []
        self.refs, self.lru = {}, OrderedDict()
        self.zombies = 0
        self.batch, self.end = None, math.inf
        self.later_load = 0.0
        self.seq = self.front = self.admissions = 0

    def fresh(self):
        s = self.spec
        return math.inf if not self.p.budgeted else s.max_num_batched_tokens

    # memory
    @property
    def ub(self):
        return self.w.unit_tokens // self.spec.block_size

    def free(self):
        own = sum(r.blocks - r.shared * self.ub for r in self.running + self.w.held_by(self))
        return self.spec.kv_blocks - own - len(self.refs) * self.ub - self.zombies

    def blocks_for(self, tokens):
        return -(-tokens // self.spec.block_size)

    def make_room(self):
        while self.lru and self.free() < len(self.lru) * self.ub:
            self.lru.popitem(last=False)

    def grow(self, r, blocks):
        if blocks > r.blocks:
            r.blocks = blocks
            self.make_room()

    def hold(self, h):
        if h in self.lru:
            del self.lru[h]
        self.refs[h] = self.refs.get(h, 0) + 1

    def share(self, r, tokens):
        if not self.spec.prefix_caching:
            return
        upto = min(len(r.units), tokens // self.w.unit_tokens)
        while r.shared < upto:
            h = r.units[r.shared]
            self.hold(h)
            r.shared += 1
            for t in self.tiers:
                t.touch(h)

    def release(self, r):
        self.share(r, r.computed)
        if self.p.lock and not r.sending:
            self.zombies += r.blocks - r.shared * self.ub
        for h in reversed(r.units[: r.shared]):
            self.refs[h] -= 1
            if not self.refs[h]:
                del self.refs[h]
                self.lru[h] = True
        r.blocks = r.shared = 0

    def find(self, r):
        if not self.spec.prefix_caching:
            return 0, 0
        limit = min(len(r.units), (r.target - 1) // self.w.unit_tokens)
        n = cost = 0
        for h in r.units[:limit]:
            if h in self.refs:
                pass
            elif h in self.lru or any(h in t.units for t in self.tiers):
                cost += self.ub
            else:
                break
            n += 1
        return n, cost

    def take(self, r, n):
        first = r.preemptions == 0 and r.retries == 0
        where = []
        for h in r.units[:n]:
            if h in self.refs or h in self.lru:
                self.hold(h)
                where.append(-1)
            else:
                where.append(next(j for j, t in enumerate(self.tiers) if h in t.units))
        load = 0.0
        for j in sorted(set(where) - {-1}):
            load += self.tiers[j].spec.latency_s
        for j in where:
            if j >= 0:
                load += self.w.unit_tokens * self.spec.kv_bytes_per_token / self.tiers[j].spec.bandwidth
            if first:
                r.hits[j + 1] += 1
        for h, j in zip(r.units[:n], where):
            if j >= 0:
                now = next((k for k, t in enumerate(self.tiers) if h in t.units), len(self.tiers))
                for t in self.tiers[: now + 1]:
                    t.touch(h)
                self.hold(h)
                self.make_room()
        r.shared = n
        r.blocks = n * self.ub
        return load

    # queue
    def put(self, r, front=False):
        r.client = self
        key = 0.0
        if self.spec.order == "priority":
            key = r.priority
        elif self.spec.order == "shortest":
            key = -1.0 if front else float(r.prompt)
        coming = self.decode_steps + any(r.decoding for r, _ in self.batch or [])
        wait = math.floor((coming + 1.0) * self.spec.lag) - math.floor(coming * self.spec.lag)
        looked = math.ceil((coming + wait) / self.spec.poll) * self.spec.poll
        r.looked_at = 0 if front else looked
        if front:
            self.front -= 1
            self.waiting.append((key, self.front, r))
        else:
            self.seq += 1
            self.waiting.append((key, self.seq, r))
        self.waiting.sort(key=lambda x: x[:2])

    def preempt(self, r):
        self.release(r)
        self.running.remove(r)
        r.decoding = False
        r.target = r.prompt + r.emitted
        r.computed = 0
        r.preemptions += 1
        self.put(r, front=True)

    def chunk(self, r, budget):
        n = r.target - r.computed
        if self.spec.long_prefill_threshold:
            n = min(n, self.spec.long_prefill_threshold)
        return min(n, budget)

    def schedule_running(self, budget, batch, prompts_only=False):
        order = [r for r in self.running if not (prompts_only and r.decoding)]
        if self.p.decode_first:
            order.sort(key=lambda r: not r.decoding)
        lost = False
        for r in order:
            if r not in self.running or budget <= 0:
                continue
            n = 1 if r.decoding else self.chunk(r, budget)
            want = (
                r.blocks
                if r.decoding and self.p.reserve == 2
                else max(r.blocks, self.blocks_for(r.computed + n))
            )
            while r in self.running and want - r.blocks > self.free():
                self.preempt(self.running[-1])
                lost = True
            if r not in self.running:
                continue
            self.grow(r, want)
            if not r.decoding:
                self.share(r, r.computed + n)
            batch.append((r, n))
            budget -= n
        return budget, lost

    def wanted_next(self, batch):
        """Tokens that what runs will want of the iteration after this one."""
        now, total = dict(batch), 0
        for r in self.running:
            n = now.get(r, 0)
            rest = 0 if r.decoding else r.target - r.computed - n
            if rest:
                total += min(rest, self.spec.long_prefill_threshold or rest)
                continue
            gets_one = n > 0  # of this iteration
            if r.output - r.emitted - gets_one > 0 and (r.decoding or self.spec.role != "prefill"):
                total += 1
        return total

    def admit(self, t, budget, batch, later=False):
        """Admit to this iteration, or (`later`) to the one after it; returns the seconds of loading."""
        load, prompts = 0.0, 0
        idle = not any(r.decoding for r in self.running)
        while self.waiting and budget > 0 and len(self.running) < self.spec.max_num_seqs:
            r = self.waiting[0][2]
            if not idle and r.looked_at > self.decode_steps:
                break
            ready = r.computed > 0
            n_units, cost = (0, 0) if ready else self.find(r)
            have = max(n_units * self.w.unit_tokens, min(r.cached, r.target - 1))
            if ready:
                n, upto = 1, r.computed + (1 if self.p.mix and not later else 0)
            else:
                n = r.target - have
                if self.p.chunked:
                    if self.spec.long_prefill_threshold:
                        n = min(n, self.spec.long_prefill_threshold)
                    n = min(n, budget)
                elif n > budget and prompts:
                    break
                upto = have + n
            if self.p.reserve == 2:
                upto = r.prompt + r.output - 1 if self.spec.role != "prefill" else r.target
            elif self.p.reserve == 1 and not ready:
                upto = r.target
            new = self.blocks_for(upto) - n_units * self.ub
            mark = int(self.spec.watermark * self.spec.kv_blocks) if self.running else 0
            if new + cost + mark > self.free():
                break
            self.waiting.pop(0)
            if math.isnan(r.scheduled):
                r.scheduled = t
            self.admissions += 1
            r.admission = self.admissions
            budget -= n
            self.running.append(r)
            if ready:
                self.grow(r, new)
                self.share(r, r.computed)
                r.decoding = True
                if self.p.mix and not later:
                    batch.append((r, 1))
                continue
            if self.spec.prefix_caching:
                load += self.take(r, n_units)
            r.computed, r.idle_then = have, None
            self.grow(r, r.blocks + new)
            self.share(r, have + n)
            if not later:  # else the next iteration gives it its chunk
                batch.append((r, n))
            prompts += 1
        return load

    def choose(self, t):
        batch, load = [], self.later_load
        self.later_load = 0.0
        if self.p.mix:
            budget, lost = self.schedule_running(self.fresh(), batch)
            fixed = self.spec.ahead and batch  # since the iteration before this one began
            if not fixed and not lost:
                load += self.admit(t, budget, batch)
            if self.spec.ahead and batch:
                self.later_load = self.admit(t, self.fresh() - self.wanted_next(batch), batch, later=True)
        else:
            budget, lost = self.schedule_running(self.fresh(), batch, prompts_only=True)
            if not lost and not (self.p.lock and self.running):
                load = self.admit(t, budget, batch)
            if not batch:
                self.schedule_running(self.fresh(), batch)
        if not batch:
            return None
        for r, _ in batch:
            if self.spec.role == "prefill" and r.idle_then is None:
                r.idle_then = self.w.link_of(self).idle(t)
        chunks = [(n, r.computed) for r, n in batch if not r.decoding]
        contexts = [r.computed + 1 for r, _ in batch if r.decoding]
        emitting = len(contexts) + sum(not r.decoding and r.computed + n == r.target for r, n in batch)
        dt = self.table.step(chunks, contexts, emitting)
        dt = max(dt, load) if self.spec.overlap_load else dt + load
        self.batch = batch
        return dt

    def complete(self):
        t, batch = self.end, self.batch
        prompts = sum(n for r, n in batch if not r.decoding)
        self.log.append((t, prompts, sum(r.decoding for r, _ in batch), self.spec.kv_blocks - self.free()))
        self.batch, self.end = None, math.inf
        self.decode_steps += any(r.decoding for r, _ in batch)
        decodes = [r for r, _ in batch if r.decoding]
        prompts = [(r, n) for r, n in batch if not r.decoding]
        for r in sorted(decodes, key=lambda r: r.admission):
            r.computed += 1
            self.emit(r, t)
            if r.emitted == r.output:
                self.leave(r, t)
        for r, n in prompts:
            r.computed += n
            if r.computed < r.target:
                continue
            self.emit(r, t)
            if r.emitted == r.output:
                self.leave(r, t)
            elif self.spec.role == "prefill":
                self.running.remove(r)
                r.sending, r.source = True, self
                link, size = self.w.link_of(self), r.computed * self.spec.kv_bytes_per_token
                # what the link could do beside its other work since the prompt began
                could = link.spec.bandwidth * max(link.idle(t) - r.idle_then, 0.0)
                hidden = link.spec.behind * min(size, could)
                link.busy += hidden / link.spec.bandwidth
                link.start(r, t, size - hidden)
            else:
                r.decoding = True
        if self.p.lock and not self.running:
            self.zombies = 0

    def emit(self, r, t):
        r.emitted += 1
        r.token_times.append(t)
        if math.isnan(r.first):
            r.first = t

    def leave(self, r, t):
        self.release(r)
        self.running.remove(r)
        r.decoding = False
        self.w.finish(r, t, "ok")

    # what routers see
    def resident(self):
        return len(self.running) + len(self.waiting)

    def rest(self, r):
        return (
            (0 if r.decoding or r.computed >= r.target > 0 else r.target - r.computed) + r.output - r.emitted
        )

    def tokens(self):
        return sum(self.rest(r) for r in self.running + [w[2] for w in self.waiting])

    def backlog(self):
        rs = self.running + [w[2] for w in self.waiting]
        return sum(0 if r.decoding else max(0, r.target - r.computed) for r in rs)

    def kv(self):
        return (self.spec.kv_blocks - self.free()) / self.spec.kv_blocks

    def cached(self, r):
        if not self.spec.prefix_caching:
            return 0
        n = 0
        for h in r.units[: (r.prompt - 1) // self.w.unit_tokens]:
            if h not in self.refs and h not in self.lru:
                break
            n += 1
        return n

    def refusal(self, r):
        if r.prompt + r.output > self.spec.max_model_len:
            return "too_long"
        tokens = r.prompt if self.spec.role == "prefill" else r.prompt + r.output - 1
        return "too_large" if self.blocks_for(tokens) > self.spec.kv_blocks else None

    def serves(self, role):
        return self.spec.role in ("both", role)
