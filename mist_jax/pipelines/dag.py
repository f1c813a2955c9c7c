"""The graph of a pipeline: parsing, checks, loops unrolled, topological order.

`stages` maps a name to a kind of the registry, a client, what it comes `after` (default: the stage written before
it), and the kind's own parameters. A stage with `repeat` runs that many times in sequence; `loops` repeats a group
of stages (an agent's turns). Both are unrolled, so that what remains is a directed acyclic graph of nodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mist_jax.errors import ConfigError, nearest
from mist_jax.pipelines.clients import MAIN, Client, parse_clients
from mist_jax.schema import Scenario, number, parse, quantity

#: LLM stages that read an answer instead of giving one.
JUDGES = ("guard_llm", "verify")


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """What a stage says besides its kind's own parameters."""

    kind: str | None = None  # default: the stage's name
    client: str | None = None  # default: `engine` for engine stages
    after: Any = None  # names; default: the stage before it
    probability: float = number(1.0, high=1.0)  # of running, once its parents have ended
    repeat: float = number(1, low=1, high=1000)  # times in sequence
    max_batch: float = number(1, low=1)  # requests served together
    window: float = quantity("time", 0.0)  # longest wait for a batch to fill
    wait: bool = True  # false: the request's end does not wait for it


@dataclasses.dataclass(frozen=True)
class LoopSpec:
    """A group of stages that is repeated."""

    stages: list
    times: float = number(1, low=1, high=1000)


@dataclasses.dataclass(frozen=True)
class Node:
    """One stage, or one turn of a repeated one."""

    stage: str  #: name in the description
    kind: str  #: kind in the registry
    type: str  #: service, transfer, delay or engine
    client: str  #: "" for a delay
    parents: tuple[int, ...]
    spec: StageSpec
    params: Any  #: the kind's parameters pytree


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A checked pipeline."""

    name: str
    nodes: tuple[Node, ...]  #: in topological order
    clients: Mapping[str, Client]
    query_tokens: float
    images: float
    answer: int  #: the node whose first token the user waits for

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in the order in which they first run."""
        return list(dict.fromkeys(n.stage for n in self.nodes))

    def parents_ended(self, finish: Any, node: Node) -> Any:
        """When the last parent of `node` has ended, from the nodes' ends so far."""
        return np.maximum.reduce([finish[p] for p in node.parents]) if node.parents else 0.0


def critical_path(pipeline: Pipeline, finish: Any) -> Any:
    """Which nodes are on the longest path to the request's end, from the nodes' ends; both [points, nodes]."""
    ends = [i for i, n in enumerate(pipeline.nodes) if n.spec.wait]
    out = np.zeros(finish.shape, dtype=bool)
    point = np.arange(len(finish))
    out[point, np.array(ends)[np.argmax(finish[:, ends], axis=1)]] = True
    for i in reversed(range(len(pipeline.nodes))):  # children come after their parents
        parents = list(pipeline.nodes[i].parents)
        if parents:
            latest = np.array(parents)[np.argmax(finish[:, parents], axis=1)]
            out[point[out[:, i]], latest[out[:, i]]] = True
    return out


def parse_pipeline(scenario: Scenario) -> Pipeline:
    """The scenario's pipeline, checked.

    Raises:
        ConfigError: a cycle, an unknown client, kind or parameter, a stage that `after` names and that is not there,
            a tier without capacity, hit rates that exceed 1, hardware that cannot run a stage, no engine stage.
    """
    spec = scenario.pipeline
    clients = parse_clients(scenario)
    base = _stages(spec.stages, clients)
    _topological({name: s["after"] for name, s in base.items()})
    copies = _unroll(base, _loops(spec.loops, base))
    order = _topological({key: parents for key, (_, parents) in copies.items()})
    index = {key: i for i, key in enumerate(order)}
    nodes = tuple(
        dataclasses.replace(base[key[0]]["node"], parents=tuple(sorted(index[p] for p in copies[key][1])))
        for key in order
    )
    _check_hits(nodes)
    return Pipeline(
        name=spec.name,
        nodes=nodes,
        clients=clients,
        query_tokens=spec.query_tokens or scenario.workload.isl,
        images=spec.images,
        answer=_answer(spec.answer, nodes),
    )


def _stages(given: Mapping[str, Any], clients: Mapping[str, Client]) -> dict[str, dict[str, Any]]:
    own = {f.name for f in dataclasses.fields(StageSpec)}
    out: dict[str, dict[str, Any]] = {}
    before: list[str] = []
    for name, mapping in given.items():
        key = f"pipeline.stages.{name}"
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"{key}: got {mapping!r}; expected a section with `kind` and `client`")
        spec = parse(StageSpec, {k: v for k, v in mapping.items() if k in own}, key)
        node = _node(str(name), spec, {k: v for k, v in mapping.items() if k not in own}, clients, key)
        after = before if spec.after is None else spec.after
        after = [after] if isinstance(after, str) else after
        if not isinstance(after, list):
            raise ConfigError(f"{key}.after: got {after!r}; expected a list of stages")
        for other in after:
            if other not in given:
                raise ConfigError(
                    f"{key}.after: no stage '{other}'{nearest(str(other), given)}; there are: {', '.join(given)}"
                )
        out[str(name)] = {"node": node, "after": [str(a) for a in after]}
        before = [str(name)]
    return out


def _node(name: str, spec: StageSpec, rest: dict, clients: Mapping[str, Client], key: str) -> Node:
    from mist_jax.stages.registry import get_stage, stage_names

    kind = spec.kind or name
    if kind not in stage_names():
        raise ConfigError(
            f"{key}.kind: no kind of stage '{kind}'{nearest(kind, stage_names())}; "
            f"there are: {', '.join(stage_names())}"
        )
    definition = get_stage(kind)
    params = definition.build(rest, key)
    if definition.kind == "delay":
        return Node(name, kind, "delay", "", (), spec, params)
    where = spec.client or (MAIN if definition.kind == "engine" else None)
    if where is None:
        raise ConfigError(f"{key}.client: missing; there are: {', '.join(clients)}")
    if where not in clients:
        raise ConfigError(
            f"{key}.client: no client '{where}'{nearest(where, clients)}; there are: {', '.join(clients)}"
        )
    client = clients[where]
    if definition.kind == "engine" and client.llm is None:
        raise ConfigError(
            f"{key}: '{kind}' is an LLM call, and client '{where}' ({client.hardware.name}) has no model; "
            f"set pipeline.clients.{where}.model, or choose of: "
            f"{', '.join(c for c, v in clients.items() if v.llm is not None)}"
        )
    if kind in ("kv_load", "kv_store"):
        _check_tier(key, params.tier, client)
    if definition.kind != "engine":
        _check_machine(key, kind, definition, params, client)
    return Node(name, kind, definition.kind, where, (), spec, params)


def _check_tier(key: str, tier: str, client: Client) -> None:
    if client.tiers.get(tier, 0.0) <= 0:
        raise ConfigError(
            f"{key}.tier: '{tier}' has no capacity on client '{client.name}'; "
            f"set pipeline.clients.{client.name}.tiers.{tier}, for example 1 TB"
        )


def _check_machine(key: str, kind: str, definition: Any, params: Any, client: Client) -> None:
    lacks = _lacks(definition, params, client)
    if lacks:
        hints = {
            "cpu": f"set pipeline.clients.{client.name}.cores",
            "storage": f"set pipeline.clients.{client.name}.storage",
            "storage_io": f"set pipeline.clients.{client.name}.storage_io",
            "cxl": f"set pipeline.clients.{client.name}.cxl",
            "pool": f"set pipeline.clients.{client.name}.pool",
            "accelerator": "choose a client with an accelerator, or place: cpu where the stage has it",
        }
        hint = "; ".join(hints[r] for r in lacks if r in hints)
        raise ConfigError(
            f"{key}: '{kind}' cannot run on client '{client.name}' ({client.hardware.name}): it has no "
            f"{', '.join(lacks)}{'; ' + hint if hint else ''}"
        )
    shards = shards_of(params)
    if shards > client.machines:
        raise ConfigError(
            f"{key}.servers: got {shards:g}; client '{client.name}' has {client.machines:g} machines (count)"
        )


#: What demands lack on machines, by stage, parameters and rates: a sweep asks the same again and again.
_LACKS: dict[Any, list[str]] = {}


def _lacks(definition: Any, params: Any, client: Client) -> list[str]:
    """Resources that a stage needs and the client's machines do not have."""
    import jax

    from mist_jax.physics.demand import missing
    from mist_jax.stages.protocol import Work

    machine = client.machine()
    leaves, form = jax.tree.flatten(params)
    key = (definition, form, tuple(map(float, leaves)), tuple(machine.rate.tolist()))
    if key not in _LACKS:
        sample = Work(
            documents=10.0, document_tokens=100.0, images=1.0, kv_bytes_per_token=1e5, kv_layers=32.0
        )
        if len(_LACKS) > 10_000:
            _LACKS.clear()
        _LACKS[key] = missing(definition.function(params, sample), machine)
    return _LACKS[key]


def shards_of(params: Any) -> float:
    """Machines that one request occupies at once: the servers an index is spread over."""
    return float(getattr(params, "servers", 1.0))


def _check_hits(nodes: tuple[Node, ...]) -> None:
    """Hit rates of tiers that one call asks in turn are disjoint probabilities: together at most 1."""
    total: dict[int, float] = {}
    for i, node in enumerate(nodes):
        before = max((total[p] for p in node.parents), default=0.0)
        # a turn of the engine ends the walk over tiers: the next call asks anew
        before = 0.0 if node.type == "engine" else before
        own = float(node.params.hit_rate) * node.spec.probability if node.kind == "kv_load" else 0.0
        total[i] = before + own
        if total[i] > 1.0 + 1e-9:
            raise ConfigError(
                f"pipeline.stages.{node.stage}.hit_rate: got {float(node.params.hit_rate):g}; with the tiers asked "
                f"before it the hit rates are {total[i]:g}, more than 1"
            )


def _answer(name: str | None, nodes: tuple[Node, ...]) -> int:
    engines = [i for i, n in enumerate(nodes) if n.type == "engine"]
    if not engines:
        raise ConfigError(
            "pipeline.stages: no stage calls an LLM; add one of kind generate, reason or speculate"
        )
    if name is not None:
        named = [i for i in engines if nodes[i].stage == name]
        if not named:
            there = list(dict.fromkeys(nodes[i].stage for i in engines))
            raise ConfigError(
                f"pipeline.answer: no LLM stage '{name}'{nearest(name, there)}; there are: {', '.join(there)}"
            )
        return named[-1]
    answers = [i for i in engines if nodes[i].kind not in JUDGES]
    return (answers or engines)[-1]


def _loops(given: Mapping[str, Any], base: Mapping[str, dict]) -> dict[str, tuple[str, int]]:
    """stage → (loop it is in, times)."""
    member: dict[str, tuple[str, int]] = {}
    for name, mapping in given.items():
        key = f"pipeline.loops.{name}"
        loop = parse(LoopSpec, mapping, key)
        for stage in loop.stages:
            if stage not in base:
                raise ConfigError(
                    f"{key}.stages: no stage '{stage}'{nearest(str(stage), base)}; there are: {', '.join(base)}"
                )
            if stage in member:
                raise ConfigError(f"{key}.stages: '{stage}' is in loop '{member[stage][0]}' already")
            member[stage] = (str(name), round(loop.times))
    for name, stage in base.items():
        times = round(stage["node"].spec.repeat)
        if times > 1:
            if name in member:
                raise ConfigError(
                    f"pipeline.stages.{name}.repeat: the stage is in loop '{member[name][0]}' already"
                )
            member[name] = (f"repeat of {name}", times)
    return member


Key = tuple[str, int]


def _unroll(
    base: Mapping[str, dict], member: Mapping[str, tuple[str, int]]
) -> dict[Key, tuple[str, list[Key]]]:
    """(stage, turn) → (stage, parents): the first turn has the loop's parents, a further one the leaves of the last."""
    after = {name: s["after"] for name, s in base.items()}

    def loop(name: str) -> str | None:
        return member[name][0] if name in member else None

    bodies: dict[str, list[str]] = {}
    for name in base:
        if name in member:
            bodies.setdefault(member[name][0], []).append(name)
    leaves = {
        body: [m for m in names if not any(m in after[other] for other in names)]
        for body, names in bodies.items()
    }
    _check_convex(after, bodies)
    out: dict[Key, tuple[str, list[Key]]] = {}
    for name in base:
        times = member[name][1] if name in member else 1
        inside = [p for p in after[name] if loop(p) is not None and loop(p) == loop(name)]
        outside = [p for p in after[name] if p not in inside]
        for k in range(times):
            parents: list[Key] = [(p, k) for p in inside]
            if k == 0:
                parents += [(p, member[p][1] - 1 if p in member else 0) for p in outside]
            elif not inside:
                parents += [(leaf, k - 1) for leaf in leaves[member[name][0]]]
            out[name, k] = (name, parents)
    return out


def _check_convex(after: Mapping[str, list[str]], bodies: Mapping[str, list[str]]) -> None:
    for loop, names in bodies.items():
        below: set[str] = set()
        for name in _topological(after):
            if name not in names and any(p in names or p in below for p in after[name]):
                below.add(name)
        for name in names:
            for parent in after[name]:
                if parent in below:
                    raise ConfigError(
                        f"pipeline.loops.{loop}: stage '{parent}' runs between the loop's stages; add it to the loop"
                    )


def _topological(after: Mapping[Any, list[Any]]) -> list[Any]:
    """Names so that parents come first, otherwise in the given order.

    Raises:
        ConfigError: there is a cycle; the message names it.
    """
    order: list[Any] = []
    done: set[Any] = set()
    left = list(after)
    while left:
        ready = next((n for n in left if all(p in done for p in after[n])), None)
        if ready is None:
            raise ConfigError(f"pipeline.stages: cycle: {' -> '.join(_cycle(after, left))}")
        order.append(ready)
        done.add(ready)
        left.remove(ready)
    return order


def _cycle(after: Mapping[Any, list[Any]], left: list[Any]) -> list[str]:
    path = [left[0]]
    while True:
        step = next(p for p in after[path[-1]] if p in left)
        if step in path:
            loop = [*path[path.index(step) :], step]
            return [str(n) for n in reversed(loop)]
        path.append(step)
