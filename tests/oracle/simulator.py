"""A naive event simulator in plain Python: the oracle of the playback.

Written for reading, not for speed: every iteration is simulated on its own, every request is an object,
    memory is
counted by summing over the requests, and queues are sorted lists. It shares no code with the playback except
the descriptions of clients and traces.
"""

from __future__ import annotations

import dataclasses
import heapq
import math

import numpy as np

from .engine import Engine, Request, Tier
from .links import FairLink, FcfsLink, Station

MASK = (1 << 64) - 1
DEFAULTS = {"model": 0, "session": -1, "priority": 0.0, "work": 1.0, "delay_s": 0.0, "cached": 0}


def splitmix(seed, r, i):
    z = (seed + 0x9E3779B97F4A7C15 * (4 * r + i + 1)) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class World:
    def __init__(self, trace, clients, router, tiers=(), links=(), failures=()):
        self.trace, self.router, self.unit_tokens = trace, router, trace.unit_tokens
        self.requests = self.read(trace, {c.model for c in clients if hasattr(c, "servers")})
        shared = {t.name: Tier(t, trace.unit_tokens) for t in tiers if t.shared}
        by_name = {t.name: t for t in tiers}
        self.clients, self.crews = [], []
        for spec in clients:
            if hasattr(spec, "servers"):
                self.clients += [Station(spec, self) for _ in range(spec.count)]
                continue
            pp = spec.table.pp
            if pp > 1:
                seqs = max(1, spec.max_num_seqs // pp)
                spec = dataclasses.replace(spec, kv_blocks=spec.kv_blocks // pp, max_num_seqs=seqs)
            for _ in range(spec.count // spec.ranks):
                stages = [0.0] * pp  # when each stage has done what was put into it
                for _ in range(pp):
                    crew = []
                    for _ in range(spec.ranks):
                        mine = [
                            shared[n] if n in shared else Tier(by_name[n], trace.unit_tokens)
                            for n in spec.tiers
                        ]
                        crew.append(Engine(spec, self, mine))
                    self.crews.append((crew, stages))
                    self.clients += crew
        self.links = {k.name: (FairLink if k.sharing == "fair" else FcfsLink)(k) for k in links}
        self.heap, self.count, self.turn, self.now = [], 0, 0, 0.0
        self.sessions, self.limbo = {}, []
        self.recoveries = 0
        for f in sorted(failures, key=lambda f: f.at_s):
            self.timer(f.at_s, "fail", self.clients[f.client])
            if math.isfinite(f.until_s):
                self.timer(f.until_s, "recover", self.clients[f.client])
                self.recoveries += 1
        when = [
            r.arrival if math.isfinite(r.arrival) and r.arrival >= 0 else -math.inf for r in self.requests
        ]
        order = sorted(range(len(when)), key=lambda i: when[i])
        order = [self.requests[i] for i in order if not self.requests[i].parents]
        k = trace.closed_loop or len(order)
        self.arrivals, self.pool = order[:k], order[k:]

    def read(self, trace, stations):
        out = []
        for i in range(trace.size):
            row = {}
            for name, default in DEFAULTS.items():
                column = getattr(trace, name)
                row[name] = default if column is None else column[i]
            units = ()
            if trace.units is not None:
                units = tuple(trace.units[trace.unit_offsets[i] : trace.unit_offsets[i + 1]].tolist())
            p, o = float(trace.prompt_tokens[i]), float(trace.output_tokens[i])
            a = float(trace.arrival_s[i])
            good = all(math.isfinite(x) and x >= 0 for x in (p, o, a)) and p == int(p) and o == int(o)
            model = int(row["model"])
            r = Request(i, a, int(p) if good else 0, int(o) if good else 0, model, int(row["session"]))
            r.priority, r.work, r.delay = float(row["priority"]), float(row["work"]), float(row["delay_s"])
            r.units, r.cached = units, min(int(row["cached"]), max(0, r.prompt - 1))
            if not good or (model not in stations and (p < 1 or o < 1)):
                r.status = "invalid"
            out.append(r)
        for a, b in [] if trace.edges is None else trace.edges.tolist():
            out[a].children.append(out[b])
            out[b].parents += 1
        return out

    def timer(self, t, kind, what):
        self.count += 1
        heapq.heappush(self.heap, (t, self.count, kind, what))

    def link_of(self, engine):
        return self.links[engine.spec.link]

    def held_by(self, engine):
        return [r for k in self.links.values() for r in k.requests() if r.source is engine]

    def finish(self, r, t, status):
        r.done, r.status = True, status
        if status == "ok":
            r.finish = t
        for c in r.children:
            c.parents -= 1
            if status != "ok" and c.status == "ok":
                c.status = "blocked"
            if not c.parents:
                self.timer(t + c.delay, "release", c)
        if self.pool:
            self.timer(t + self.trace.think_s, "release", self.pool.pop(0))

    def pick(self, r, clients, rule, role):
        if not clients:
            return None
        if rule in ("random", "power_of_two"):
            shift = 2 if role == "decode" else 0
            i = splitmix(self.router.seed, r.i, shift) % len(clients)
            if rule == "random" or len(clients) == 1:
                return clients[i]
            j = splitmix(self.router.seed, r.i, shift + 1) % (len(clients) - 1)
            j = j if j < i else j + 1
            return clients[j] if clients[j].resident() < clients[i].resident() else clients[i]
        load = {
            "round_robin": lambda c: c.turn,
            "least_requests": lambda c: c.resident(),
            "least_tokens": lambda c: c.tokens(),
            "least_kv": lambda c: c.kv(),
        }[rule]
        return min(clients, key=load)

    def route(self, r, role, group):
        fit = [c for c in self.clients if c.alive and c.spec.model == r.model and c.serves(role)]
        fit = [c for c in fit if (group is None or c.station or c.spec.group == group) and not c.refusal(r)]
        rule, c = self.router.rule, None
        if rule in ("session", "heavy_light", "prefix_affinity"):
            special, rule = rule, self.router.fallback
            if special == "session" and r.session >= 0 and role != "decode":
                c = self.sessions.get(r.session)
                if c is None or c not in fit:
                    c = self.pick(r, fit, rule, role)
                    self.sessions[r.session] = c
            if special == "heavy_light":
                heavy = r.prompt >= self.router.heavy_tokens
                c = self.pick(r, [e for e in fit if getattr(e.spec, "heavy", False) == heavy], rule, role)
            if special == "prefix_affinity" and fit:
                best = max(fit, key=lambda e: (e.cached(r), -e.tokens()))
                least = min(e.backlog() for e in fit)
                if best.cached(r) and best.backlog() <= least + self.router.backlog_cap_tokens:
                    c = best
        c = c or self.pick(r, fit, rule, role)
        if c is not None:
            self.turn += 1
            c.turn = self.turn
        return c

    def arrive(self, r, t):
        if r.status != "ok":
            return self.finish(r, t, r.status)
        if math.isnan(r.queued):
            r.queued = t
        role = "decode" if r.sending else "prefill"
        group = r.source.spec.group if r.sending and self.router.local else None
        c = self.route(r, role, group)
        if c is None:
            able = [e for e in self.clients if e.spec.model == r.model and e.serves(role)]
            whys = [e.refusal(r) for e in able]
            if any(w is None for w in whys):
                if self.recoveries:
                    self.limbo.append(r)
                    return None
                return self.finish(r, t, "no_client")
            return self.finish(r, t, whys[-1] if whys else "no_client")
        r.target = r.prompt
        if c.station:
            r.queued, r.client = t, c
            c.waiting.append(r)
            c.begin(t)
            return None
        if not r.sending:
            r.computed = r.emitted = 0
        r.sending = False
        c.put(r)
        return None

    def retry(self, r, t):
        r.computed = r.emitted = r.blocks = r.shared = 0
        r.decoding = r.sending = False
        r.first = r.scheduled = math.nan
        r.token_times = []
        r.retries += 1
        self.timer(t + self.router.retry_delay_s, "release", r)

    def fail(self, c, t):
        c.alive = False
        if c.station:
            lost = list(c.waiting) + sorted((r for b in c.serving for r in b), key=lambda r: r.i)
            c.waiting, c.serving, c.window_set = [], [], False
        else:
            lost = c.running + [w[2] for w in sorted(c.waiting, key=lambda x: x[:2])]
            for k in self.links.values():
                lost += k.drop(c, t)
            seq, front, adm = c.seq, c.front, c.admissions
            c.reset()
            c.seq, c.front, c.admissions = seq, front, adm
        for r in lost:
            self.retry(r, t)

    def happen(self, t, kind, what):
        if kind == "release":
            if what.retries == 0:
                what.arrival = t
            self.arrive(what, t)
        elif kind == "fail":
            self.fail(what, t)
        elif kind == "recover":
            what.alive = True
            self.recoveries -= 1
            back, self.limbo = self.limbo, []
            for r in back:
                self.arrive(r, t)
        elif kind == "window":
            what.window_set = False
            what.begin(t)
        elif kind == "batch":
            station, batch = what
            if any(b is batch for b in station.serving):
                station.serving = [b for b in station.serving if b is not batch]
                for r in batch:
                    r.first = t
                    self.finish(r, t, "ok")
                station.begin(t)
        elif kind == "kv":
            self.arrive(what, t)

    def play(self):
        i = 0
        engines = [c for c in self.clients if not c.station]
        while True:
            t = self.arrivals[i].arrival if i < len(self.arrivals) else math.inf
            if i < len(self.arrivals) and not math.isfinite(t):
                t = 0.0
            t = min([t, self.heap[0][0] if self.heap else math.inf])
            t = min([t] + [k.next() for k in self.links.values()] + [e.end for e in engines])
            if t == math.inf:
                return self
            self.now = t
            for e in engines:
                if e.end <= t:
                    e.complete()
            while True:
                if i < len(self.arrivals) and not self.arrivals[i].arrival > t:
                    i += 1
                    self.arrive(self.arrivals[i - 1], t)
                elif self.heap and self.heap[0][0] <= t:
                    when, _, kind, what = heapq.heappop(self.heap)
                    self.happen(when, kind, what)
                else:
                    k = next((k for k in self.links.values() if k.next() <= t), None)
                    if k is None:
                        break
                    r = k.end(t)
                    r.source.release(r)
                    self.timer(t + k.spec.latency_s, "kv", r)
            for crew, stages in self.crews:
                if all(e.batch is None for e in crew):
                    self.step(t, crew, stages)

    def step(self, t, crew, stages):
        """One iteration of engines that step together, through every stage of their pipeline."""
        times = [e.choose(t) for e in crew if e.alive and (e.running or e.waiting)]
        times = [dt for dt in times if dt is not None]
        if not times:
            return
        at, duration = t, max(times)
        if len(crew) > 1:
            width = crew[0].table.t.decode_width
            counted = [[width if r.decoding else n for r, n in e.batch] for e in crew if e.batch is not None]
            tokens = [sum(each) for each in counted]
            own = [dt - crew[0].table.experts(n) for dt, n in zip(times, tokens, strict=True)]
            duration = max(own) + crew[0].table.experts(sum(tokens) / len(crew))
        if len(stages) == 1:
            at = t + duration
        else:
            for i, free in enumerate(stages):
                at = stages[i] = max(at, free) + duration / len(stages)
        for e in crew:
            if e.batch is not None:
                e.end = at


def simulate(trace, clients, router, **parts):
    """Play `trace` naively; returns arrays by name, as the playback's `requests` names them."""
    from mist_jax.queueing.state import STATUS

    clients = clients if isinstance(clients, (list, tuple)) else [clients]
    w = World(trace, clients, router, **parts).play()
    rs = w.requests
    out = {
        n: np.array([getattr(r, n) for r in rs], dtype=float)
        for n in ("arrival", "scheduled", "first", "finish")
    }
    out |= {n: np.array([getattr(r, n) for r in rs]) for n in ("preemptions", "retries", "emitted")}
    out["hits"] = np.array([r.hits for r in rs])
    out["status"] = np.array([STATUS.index(r.status) for r in rs])
    out["log"] = [[] if c.station else c.log for c in w.clients]
    out["token_times"] = [r.token_times for r in rs]
    return out
