"""Stations and links of the naive simulator (see `simulator.py`)."""

from __future__ import annotations

import math


class Station:
    station = True

    def __init__(self, spec, world):
        self.spec, self.w = spec, world
        self.alive, self.turn, self.end = True, 0, math.inf
        self.waiting, self.serving, self.window_set = [], [], False

    def begin(self, t):
        s = self.spec
        while self.alive and self.waiting and len(self.serving) < s.servers:
            due = self.waiting[0].queued + s.window_s
            if len(self.waiting) < s.max_batch and due > t:
                if not self.window_set:
                    self.window_set = True
                    self.w.timer(due, "window", self)
                return
            batch = self.waiting[: s.max_batch]
            del self.waiting[: s.max_batch]
            a, b, c = s.service_s
            for r in batch:
                r.scheduled = t
            self.serving.append(batch)
            self.w.timer(t + a + b * len(batch) + c * sum(r.work for r in batch), "batch", (self, batch))

    def resident(self):
        return len(self.waiting) + sum(map(len, self.serving))

    tokens = backlog = resident
    kv = resident

    def cached(self, r):
        return 0

    def refusal(self, r):
        return None

    def serves(self, role):
        return True


class FairLink:
    """Equal shares: every transfer in progress is brought forward at every event."""

    def __init__(self, spec):
        self.spec, self.flows, self.at, self.busy = spec, [], 0.0, 0.0

    def idle(self, t):
        self.move(t)
        return t - self.busy

    def move(self, t):
        self.busy += (t - self.at) * bool(self.flows)
        for f in self.flows:
            f[0] -= (t - self.at) * self.spec.bandwidth / len(self.flows)
        self.at = t

    def start(self, r, t, size):
        self.move(t)
        self.flows.append([size, r])

    def next(self):
        if not self.flows:
            return math.inf
        return self.at + max(0.0, min(f[0] for f in self.flows)) * len(self.flows) / self.spec.bandwidth

    def end(self, t):
        self.move(t)
        f = min(self.flows, key=lambda f: f[0])
        self.flows.remove(f)
        return f[1]

    def drop(self, client, t):
        self.move(t)
        lost = [f[1] for f in sorted(self.flows, key=lambda f: f[0]) if f[1].source is client]
        self.flows = [f for f in self.flows if f[1].source is not client]
        return lost

    def requests(self):
        return [f[1] for f in self.flows]


class FcfsLink:
    def __init__(self, spec):
        self.spec, self.flows, self.busy_until, self.busy = spec, [], 0.0, 0.0

    def idle(self, t):
        """All the work ever given, less what is still to be done, kept it busy."""
        return t - (self.busy - max(self.busy_until - t, 0.0))

    def start(self, r, t, size):
        self.busy += size / self.spec.bandwidth
        self.busy_until = max(t, self.busy_until) + size / self.spec.bandwidth
        self.flows.append((self.busy_until, r))

    def next(self):
        return self.flows[0][0] if self.flows else math.inf

    def end(self, t):
        return self.flows.pop(0)[1]

    def drop(self, client, t):
        lost = [f[1] for f in self.flows if f[1].source is client]
        self.flows = [f for f in self.flows if f[1].source is not client]
        return lost

    def requests(self):
        return [f[1] for f in self.flows]
