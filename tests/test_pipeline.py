"""Pipelines: descriptions that cannot be, the graph's laws, and the steady state."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from mist_jax.compose import load
from mist_jax.errors import ConfigError
from mist_jax.evaluate import VARIABLES, evaluate
from mist_jax.paths import conf_dir
from mist_jax.physics.demand import demand
from mist_jax.pipelines.dag import parse_pipeline
from mist_jax.pipelines.queue import erlang_c, side_by_side
from mist_jax.pipelines.steady import Model
from mist_jax.play import play
from mist_jax.pytree import pytree
from mist_jax.schema import PipelineSpec
from mist_jax.stages.protocol import StageDefinition, parameter
from mist_jax.stages.registry import register_stage, unregister_stage

PIPELINES = sorted(p.stem for p in (conf_dir() / "pipeline").glob("*.yaml"))


def hardware(name):
    """One chip of the catalogue as a mapping."""
    import yaml

    return {**yaml.safe_load((conf_dir() / "hardware" / f"{name}.yaml").read_text()), "id": name}


def client(name="xeon_8480", **more):
    return {"hardware": hardware(name), **more}


def scenario(stages, clients=None, overrides=(), **more):
    base = load(["model=llama3_1_8b", "parallelism=tp1", *overrides])
    spec = PipelineSpec(name="test", stages=stages, clients=clients or {}, **more)
    return dataclasses.replace(base, pipeline=spec)


HOST = {"host": client(cores=4)}

BAD = {
    "cycle": (
        {"stages": {"a": {"kind": "generate", "after": ["b"]}, "b": {"kind": "generate", "after": ["a"]}}},
        r"pipeline.stages: cycle: a -> b -> a|pipeline.stages: cycle: b -> a -> b",
    ),
    "unknown client": (
        {"stages": {"tokenize": {"client": "hots"}, "generate": {}}, "clients": HOST},
        r"tokenize.client: no client 'hots' \(did you mean 'host'\?\); there are: engine, host",
    ),
    "missing client": (
        {"stages": {"tokenize": {}, "generate": {}}, "clients": HOST},
        r"tokenize.client: missing; there are: engine, host",
    ),
    "unknown kind": (
        {"stages": {"a": {"kind": "vector_serach", "client": "host"}, "generate": {}}, "clients": HOST},
        r"stages.a.kind: no kind of stage 'vector_serach' \(did you mean 'vector_search'\?\)",
    ),
    "unknown parameter": (
        {"stages": {"tokenize": {"client": "host", "rat": 3}, "generate": {}}, "clients": HOST},
        r"stages.tokenize.rat: unknown; .*\(did you mean 'rate'\?\)",
    ),
    "tier without capacity": (
        {"stages": {"kv_load": {"client": "engine", "tier": "nvme"}, "generate": {}}},
        r"kv_load.tier: 'nvme' has no capacity on client 'engine'; set pipeline.clients.engine.tiers.nvme",
    ),
    "hit rate above 1": (
        {"stages": {"kv_load": {"client": "engine", "hit_rate": 1.2}, "generate": {}}},
        r"kv_load.hit_rate: got 1.2; allowed: 0 to 1",
    ),
    "hit rates exceed 1": (
        {
            "stages": {
                "near": {"kind": "kv_load", "client": "engine", "hit_rate": 0.7},
                "far": {"kind": "kv_load", "client": "engine", "tier": "remote_rdma", "hit_rate": 0.5},
                "generate": {},
            },
            "clients": {"engine": {"tiers": {"remote_rdma": "1 TB"}}},
        },
        r"stages.far.hit_rate: got 0.5; with the tiers asked before it the hit rates are 1.2",
    ),
    "no accelerator": (
        {"stages": {"embed": {"client": "host"}, "generate": {}}, "clients": HOST},
        r"stages.embed: 'embed' cannot run on client 'host' .*: it has no accelerator, device_memory",
    ),
    "no cores": (
        {"stages": {"tokenize": {"client": "engine"}, "generate": {}}},
        r"'tokenize' cannot run on client 'engine' .*: it has no cpu; set pipeline.clients.engine.cores",
    ),
    "LLM call without a model": (
        {"stages": {"generate": {"client": "host"}}, "clients": HOST},
        r"stages.generate: 'generate' is an LLM call, and client 'host' .* has no model; .*choose of: engine",
    ),
    "missing dependency": (
        {"stages": {"tokenize": {"client": "host"}, "generate": {"after": ["tokenise"]}}, "clients": HOST},
        r"stages.generate.after: no stage 'tokenise' \(did you mean 'tokenize'\?\)",
    ),
    "no engine stage": (
        {"stages": {"tokenize": {"client": "host"}}, "clients": HOST},
        r"pipeline.stages: no stage calls an LLM",
    ),
    "probability above 1": (
        {"stages": {"generate": {"probability": 1.5}}},
        r"stages.generate.probability: got 1.5; must be between 0 and 1",
    ),
    "hardware for the engine": (
        {"stages": {"generate": {}}, "clients": {"engine": client()}},
        r"clients.engine.hardware: `engine` is the scenario's own pool",
    ),
    "client without hardware": (
        {"stages": {"generate": {}}, "clients": {"host": {"count": 2}}},
        r"clients.host.hardware: missing",
    ),
    "unknown key of a client": (
        {"stages": {"generate": {}}, "clients": {"host": client(corse=2)}},
        r"clients.host.corse: unknown key \(did you mean 'cores'\?\)",
    ),
    "more servers than machines": (
        {"stages": {"vector_search": {"client": "host", "servers": 4}, "generate": {}}, "clients": HOST},
        r"vector_search.servers: got 4; client 'host' has 1 machines",
    ),
    "stage inside a loop's way": (
        {
            "stages": {"a": {"kind": "generate"}, "b": {"kind": "tool"}, "c": {"kind": "generate"}},
            "loops": {"l": {"stages": ["a", "c"], "times": 2}},
        },
        r"loops.l: stage 'b' runs between the loop's stages; add it to the loop",
    ),
    "loop of nothing": (
        {"stages": {"generate": {}}, "loops": {"l": {"stages": ["generat"]}}},
        r"loops.l.stages: no stage 'generat' \(did you mean 'generate'\?\)",
    ),
    "answer of nothing": (
        {"stages": {"generate": {}}, "answer": "reply"},
        r"pipeline.answer: no LLM stage 'reply'; there are: generate",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_descriptions_get_one_clear_message(case):
    settings, message = BAD[case]
    with pytest.raises(ConfigError, match=message) as caught:
        parse_pipeline(scenario(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [p for p in PIPELINES if p != "chat"])
def test_every_shipped_pipeline_is_sound(name):
    described = load([f"pipeline={name}"])
    pipeline = parse_pipeline(described)
    assert pipeline.name == name
    for i, node in enumerate(pipeline.nodes):
        assert all(p < i for p in node.parents)


def test_loops_are_unrolled_in_turn():
    stages = {
        "first": {"kind": "generate"},
        "act": {"kind": "generate"},
        "tool": {},
        "look": {"kind": "tool", "after": ["act"]},
        "answer": {"kind": "generate", "after": ["tool", "look"], "repeat": 2},
    }
    loops = {"turns": {"stages": ["act", "tool", "look"], "times": 3}}
    nodes = parse_pipeline(scenario(stages, loops=loops)).nodes
    names = [n.stage for n in nodes]
    assert [names.count(s) for s in stages] == [1, 3, 3, 3, 2]
    acts = [i for i, n in enumerate(names) if n == "act"]
    # a further turn comes after all leaves of the one before
    assert [{names[p] for p in nodes[i].parents} for i in acts] == [
        {"first"},
        {"tool", "look"},
        {"tool", "look"},
    ]
    answers = [i for i, n in enumerate(names) if n == "answer"]
    assert {names[p] for p in nodes[answers[0]].parents} == {"tool", "look"}
    assert nodes[answers[1]].parents == (answers[0],)


@pytest.mark.parametrize(
    "overrides",
    [
        ["workload.arrivals=poisson", "workload.rate=3"],
        pytest.param(["workload.arrivals=closed", "workload.concurrency=16"], marks=pytest.mark.slow),
        ["engine.prefix_hit_rate=0.4"],
    ],
)
def test_one_llm_stage_is_exactly_the_plain_evaluation(overrides):
    piped = scenario({"generate": {}}, overrides=overrides)
    plain = dataclasses.replace(piped, pipeline=PipelineSpec())
    a, b = evaluate(plain), evaluate(piped)
    for name in VARIABLES:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-5, err_msg=name)


def test_order_of_writing_does_not_matter():
    stages = {
        "tokenize": {"client": "host", "after": []},
        "search": {"kind": "graph_search", "client": "host", "after": ["tokenize"]},
        "guard": {"client": "host", "after": ["tokenize"]},
        "assemble": {"kind": "assemble_context", "client": "host", "after": ["search"]},
        "generate": {"after": ["assemble", "guard"]},
    }
    clients = {"host": client(cores=32)}
    one = evaluate(scenario(stages, clients))
    other = evaluate(scenario(dict(reversed(stages.items())), clients))
    for name in ("ttft_s", "e2e_s", "energy_per_request_j"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-9)
    for name in stages:
        np.testing.assert_allclose(other.stage_s.sel(stage=name), one.stage_s.sel(stage=name), rtol=1e-9)
    # the shorter of two branches is off the path, and the path adds up
    path = one.stage_on_path.values > 0
    assert float(one.stage_on_path.sel(stage="search")) == 0.0
    assert float(one.stage_s.values[path].sum()) == pytest.approx(float(one.e2e_s), rel=1e-9)


def test_work_flows_along_the_edges():
    stages = {
        "vector_search": {"client": "host", "documents": 5, "document_tokens": 256, "nprobe": 8},
        "assemble_context": {"client": "host", "instructions": 100, "separator": 4},
        "near": {"kind": "kv_load", "client": "engine", "hit_rate": 0.3, "prefix_share": 1.0, "block_tokens": 1},
        "far": {
            "kind": "kv_load", "client": "engine", "tier": "remote_rdma", "hit_rate": 0.4, "prefix_share": 1.0,
            "block_tokens": 1,
        },
        "generate": {},
    }  # fmt: skip
    clients = {"host": client(cores=32), "engine": {"tiers": {"remote_rdma": "1 TB"}}}
    s = scenario(stages, clients, ["workload.isl=1000"])
    with jax.enable_x64(True):
        model = Model(s, parse_pipeline(s))
        call = model.at(0.1).asked.call
    prompt = 1000 + 100 + 5 * (256 + 4)
    assert call.new_tokens[-1] + call.past_tokens[-1] == pytest.approx(prompt)
    # disjoint hit rates of two tiers add up
    assert call.past_tokens[-1] == pytest.approx(0.7 * prompt)


def test_probability_weighs_a_stage():
    always = evaluate(scenario({"tool": {"sigma": 0, "median_s": "2 s", "result_tokens": 0}, "generate": {}}))
    never = evaluate(
        scenario(
            {"tool": {"sigma": 0, "median_s": "2 s", "result_tokens": 0, "probability": 0.0}, "generate": {}}
        )
    )
    plain = evaluate(scenario({"generate": {}}))
    assert float(always.stage_s.sel(stage="tool")) == pytest.approx(2.0)
    assert float(never.stage_s.sel(stage="tool")) == 0.0
    assert float(never.e2e_s) == pytest.approx(float(plain.e2e_s), rel=1e-6)


def test_stages_of_one_client_slow_each_other_and_apart_do_not():
    tiers = {"tiers": {"host": "1 TB"}}
    stages = {
        "scan": {
            "kind": "vector_search", "client": "engine", "index": "exact", "vectors": 2e6, "dim": 128, "cores": 64,
        },
        "kv_load": {"client": "engine", "hit_rate": 1.0, "prefix_share": 0.9, "bandwidth": "200 GB/s"},
        "generate": {},
    }  # fmt: skip
    load_ = ["workload.isl=12000", "workload.rate=8", "hardware.host.memory_bandwidth=30 GB/s"]
    together = scenario(stages, {"engine": {"cores": 64, **tiers}}, load_)
    away = {"engine": tiers, "host": client(cores=64)}
    moved = {**stages, "scan": {**stages["scan"], "client": "host"}}
    apart = scenario(moved, away, load_)
    with jax.enable_x64(True):
        a = Model(together, parse_pipeline(together)).at(8.0)
        b = Model(apart, parse_pipeline(apart)).at(8.0)
    assert a.factor[1] > 1.05
    assert b.factor[1] == 1.0
    assert a.seconds[1] > 1.05 * b.seconds[1]


def test_charges_add_up_to_the_bill():
    s = load(["pipeline=rag", "workload.rate=2"])
    ds = evaluate(s)
    rent = float(ds.cost_per_request_usd)
    assert float(ds.stage_cost_usd.sum()) == pytest.approx(rent, rel=1e-9)
    assert float(ds.stage_energy_j.sum()) == pytest.approx(float(ds.energy_per_request_j), rel=1e-9)
    assert float(ds.cost_per_million_output_tokens_usd) == pytest.approx(
        rent / s.workload.osl * 1e6, rel=1e-9
    )


def test_what_more_of_a_resource_gives_is_in_every_result():
    base = ["model=llama3_1_8b", "parallelism=tp1", "workload.rate=2"]
    ds = evaluate(load(base))
    for resource, path in (("device_memory", "memory.bandwidth"), ("memory_capacity", "memory.capacity")):
        chip = load(base).hardware.memory
        now = getattr(chip, path.split(".")[1])
        ends = [
            evaluate(load([*base, f"hardware.{path}={now * f}"]), elasticities=False) for f in (1.01, 0.99)
        ]
        assert "elasticity" not in ends[0]
        want = float(np.log(ends[0].e2e_s / ends[1].e2e_s)) / np.log(1.01 / 0.99)
        assert float(ds.elasticity.sel(figure="e2e_s", client="engine", resource=resource)) == pytest.approx(
            want, rel=0.02, abs=1e-3
        )
    assert ds.bottleneck == "engine: device_memory"
    pools = evaluate(load([*base, "prefill=pool"]))
    assert list(pools.client.values) == ["prefill", "decode"]
    tpot = pools.elasticity.sel(figure="tpot_s", resource="device_memory")
    assert float(tpot.sel(client="decode")) < -0.4
    assert float(tpot.sel(client="prefill")) == pytest.approx(0.0, abs=1e-6)


def test_elasticities_are_derivatives():
    stages = {
        "scan": {"kind": "vector_search", "client": "host", "index": "exact", "vectors": 4e6, "cores": 56},
        "generate": {},
    }
    base = client(cores=56)

    def end(factor):
        hw = {**base["hardware"]}
        hw["memory"] = {"capacity": "512 GB", "bandwidth": 307.2e9 * factor}
        hw["host"] = {**hw["host"], "memory_bandwidth": 307.2e9 * factor}
        s = scenario(stages, {"host": {**base, "hardware": hw}}, ["workload.rate=0.5"])
        return evaluate(s)

    middle = end(1.0)
    slope = (np.log(float(end(1.01).e2e_s)) - np.log(float(end(0.99).e2e_s))) / np.log(1.01 / 0.99)
    found = float(middle.elasticity.sel(client="host", resource="host_memory"))
    assert found == pytest.approx(slope, abs=0.02 * abs(slope) + 1e-4)


def test_llm_elasticity_says_what_more_bandwidth_gives():
    s = scenario({"generate": {}}, overrides=["workload.rate=3"])
    now = evaluate(s)
    memory = dataclasses.replace(s.hardware.memory, bandwidth=1.03 * s.hardware.memory.bandwidth)
    more = evaluate(dataclasses.replace(s, hardware=dataclasses.replace(s.hardware, memory=memory)))
    said = float(now.elasticity.sel(client="engine", resource="device_memory")) * np.log(1.03)
    assert said < -0.005
    assert np.log(float(more.e2e_s) / float(now.e2e_s)) == pytest.approx(said, rel=0.1)


def test_more_load_than_a_client_can_take_is_one_message():
    stages = {"tokenize": {"client": "host", "base_s": "1 s"}, "generate": {}}
    with pytest.raises(ConfigError, match=r"pipeline.clients.host: 5 requests/s need 1\d\d% of its cpu"):
        evaluate(scenario(stages, {"host": client(cores=4)}, ["workload.rate=5"]))


def test_closed_loop_obeys_littles_law():
    stages = {"tool": {"sigma": 0, "median_s": "3 s", "result_tokens": 0}, "generate": {}}
    ds = evaluate(scenario(stages, overrides=["workload.arrivals=closed", "workload.concurrency=24"]))
    assert float(ds.request_rate) * float(ds.e2e_s) == pytest.approx(24, rel=0.02)
    alone = evaluate(
        scenario({"generate": {}}, overrides=["workload.arrivals=closed", "workload.concurrency=24"])
    )
    assert float(ds.request_rate) < float(alone.request_rate)


def test_a_stage_from_outside_runs_in_a_pipeline():
    @pytree
    class Translate:
        rate: float = parameter(1e4, "frequency", low=1.0)

    def function(params, work):
        return demand(cpu=work.batch * work.query_tokens / params.rate, caps={"cpu": 1.0})

    register_stage(
        StageDefinition(
            name="translate", kind="service", parameters=Translate, function=function, summary="s", source="s",
            valid="s", not_modelled="n", needs=("cpu",),
        )
    )  # fmt: skip
    try:
        ds = evaluate(
            scenario({"translate": {"client": "host", "rate": 1e3}, "generate": {}}, HOST, query_tokens=100)
        )
        assert float(ds.stage_alone_s.sel(stage="translate")) == pytest.approx(0.1)
    finally:
        unregister_stage("translate")


def test_erlang_c_and_servers():
    assert erlang_c(1, 0.6) == pytest.approx(0.6)  # one server: the probability of waiting is the load
    # M/M/2: C = 2 rho^2 / (1 + rho)
    assert erlang_c(2, 1.2) == pytest.approx(2 * 0.36 / 1.6)
    assert side_by_side(1.0) == 1
    assert side_by_side(0.25) == 4
    assert side_by_side(0.3) == 3


def test_a_service_on_the_llm_s_machines_takes_its_share_from_the_iterations():
    stages = {"embed": {"client": "engine", "parameters": 7e9, "layers": 32, "hidden": 4096}, "generate": {}}
    rates = ["workload.arrivals=poisson", "workload.rate=4"]
    shared = evaluate(scenario(stages, overrides=rates))
    model = Model(scenario(stages, overrides=rates), parse_pipeline(scenario(stages, overrides=rates)))
    left = model.at(4.0).left["engine"]
    assert 0.5 < left["peak_flops"] < 1.0
    # the same calls on a chip with so much less of everything, without the services
    chip = {
        "hardware.peak.bf16": 989.4e12 * left["peak_flops"],
        "hardware.memory.bandwidth": 3.35e12 * left["memory_bandwidth"],
    }
    less = evaluate(scenario({"generate": {}}, overrides=[*rates, *(f"{k}={v}" for k, v in chip.items())]))
    alone = evaluate(scenario({"generate": {}}, overrides=rates))
    assert float(shared.tpot_s) == pytest.approx(float(less.tpot_s), rel=1e-3)
    assert float(shared.tpot_s) > float(alone.tpot_s)
    played = play(scenario(stages, overrides=[*rates, "workload.requests=200"]))
    assert "services leave to LLM iterations" in played.attrs["sharing"]
    plain = play(scenario({"generate": {}}, overrides=[*rates, "workload.requests=200"]))
    assert played.attrs["tpot_mean_s"] > plain.attrs["tpot_mean_s"]
