"""Laws of the disaggregated steady state; one compiled program for every model and every pair of chips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from programs import HARDWARE, MODELS, Counted, make_system, make_workload, quick

import mist_jax as mist
from mist_jax import build
from mist_jax.errors import Status
from mist_jax.pytree import replace
from mist_jax.queueing import steady_disaggregated as sd
from mist_jax.system.deployment import Transfer

closed = Counted(sd.closed_loop_disaggregated)
opened = Counted(sd.open_loop_disaggregated)
PROGRAMS = {"closed": closed, "open": opened}


def transfer(bandwidth: float = 50e9, latency: float = 1e-3, overlap: float = 0.0) -> Transfer:
    return build.as_float64(Transfer(bandwidth=bandwidth, latency=latency, overlap=overlap))


def pools(model: str, decode: str = "h100_sxm", prefill: str = "mi300x", **plan: float):
    return make_system(model, decode, **plan), make_system(model, prefill, **plan)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "open")) for k in PROGRAMS]
)
def test_one_program_serves_all_models_and_pairs_of_chips(kind: str) -> None:
    """Every model on several pairs, every chip on either side, other plans and replicas: traced once."""
    program = PROGRAMS[kind]
    around = zip(MODELS, HARDWARE * 3, strict=False)
    pairs = [(model, "b200_sxm", chip) for model, chip in around]
    pairs += [("llama3_1_8b", chip, "h100_sxm") for chip in HARDWARE]
    work = make_workload(concurrency=32, rate=0.5, isl_cv=0.5)
    for model, decode, prefill in pairs:
        out = program(*pools(model, decode, prefill), transfer(), work, 2.0, 3.0)
        # what does not fit says so, and has no latency
        assert np.isfinite(out.decode.ttft) == (out.decode.status in (0, 3)), (model, decode, prefill)
    for plan in ({"tp": 8.0}, {"tp": 4.0, "pp": 2.0}, {"dp": 8.0, "ep": 8.0}):
        program(*pools("deepseek_v3", **plan), transfer(latency=0.0, overlap=1.0), work, 1.0, 1.0)
    assert program.traces == 1


def test_a_wider_link_and_layer_wise_transfers_are_not_slower() -> None:
    pair, work = pools("llama3_1_8b"), make_workload(isl=8000, rate=0.2)
    times = [
        float(opened(*pair, t, work, 1.0, 1.0).decode.e2e)
        for t in (transfer(1e9), transfer(10e9), transfer(100e9), transfer(100e9, overlap=1.0))
    ]
    assert np.all(np.diff(times) <= 1e-12)
    assert times[-1] < times[0]


def test_an_open_loop_at_the_closed_loop_s_rate_agrees_with_little() -> None:
    pair = pools("llama3_1_8b")
    out = closed(*pair, transfer(), make_workload(concurrency=24), 1.0, 1.0)
    inside = float(out.decode.rate * out.decode.e2e)
    assert inside == pytest.approx(24.0, rel=0.02)


@pytest.mark.parametrize("clients", [16, 32, 48, 64, 96])
def test_little_holds_where_the_prefill_pool_is_nearly_always_busy(clients: int) -> None:
    """The wait has a pole at full use: the load that balances is still found."""
    work = make_workload(isl=8000, osl=64, concurrency=clients)
    out = closed(*pools("llama3_1_8b"), transfer(), work, 1.0, 1.0)
    assert float(out.prefill_utilization) > 0.9
    assert float(out.decode.rate * out.decode.e2e) == pytest.approx(clients, rel=0.02)


def test_a_lone_request_waits_for_nobody_and_more_wait_longer() -> None:
    pair = pools("llama3_1_8b")
    waits = [
        float(closed(*pair, transfer(), make_workload(isl=8000, concurrency=n), 1.0, 1.0).prefill_wait)
        for n in (1, 2, 4, 8, 32)
    ]
    assert waits[0] == pytest.approx(0.0, abs=1e-9)
    assert np.all(np.diff(waits) > 0)
    # as many as servers: each has one of its own
    many = closed(*pair, transfer(), make_workload(isl=8000, concurrency=4), 1.0, 4.0)
    assert float(many.prefill_wait) == pytest.approx(0.0, abs=1e-9)


def test_more_prefill_replicas_relieve_the_prefill_pool() -> None:
    pair, work = pools("llama3_1_8b"), make_workload(isl=6000, osl=64, rate=2.0)
    busy = [float(opened(*pair, transfer(), work, 1.0, n).prefill_utilization) for n in (1.0, 2.0, 4.0)]
    assert busy[0] > busy[1] > busy[2]


def test_a_link_that_cannot_carry_the_prompts_is_over_capacity() -> None:
    """2 prompts/s of 6,000 tokens of 131 kB of KV cache are 1.57 GB/s: four links of 0.2 GB/s are not enough."""
    pair, work = pools("llama3_1_8b"), make_workload(isl=6000, osl=64, rate=2.0)
    slow, wide = (opened(*pair, transfer(b), work, 1.0, 4.0).decode for b in (0.2e9, 0.8e9))
    assert int(slow.status) == int(Status.UNSTABLE)
    assert float(slow.load) == pytest.approx(2.0 * 6000 * 131072 / 0.8e9, rel=0.05)
    assert int(wide.status) == int(Status.OK)


@pytest.mark.parametrize("bandwidth", [0.2e9, 20e9])
@pytest.mark.parametrize("layers", [1.0, 80.0])
def test_layer_wise_hides_what_two_machines_in_a_row_hide(bandwidth: float, layers: float) -> None:
    """Layer by layer: a layer is sent when it is computed and the layer before it is sent."""
    nbytes, prefill = 1e9, 0.4
    end = 0.0
    for i in range(int(layers)):
        end = max(end, (i + 1) * prefill / layers) + nbytes / layers / bandwidth
    link = transfer(bandwidth, latency=0.0, overlap=1.0)
    alone = (*np.array([nbytes, layers, prefill, 0.0, 1.0]), None)
    visible, _ = sd._transfer_latency(link, *alone)
    assert float(visible) == pytest.approx(end - prefill, rel=1e-9)
    serial, _ = sd._transfer_latency(transfer(bandwidth, latency=0.0), *alone)
    assert float(serial) == pytest.approx(nbytes / bandwidth)


#: A link as it is; one whose transfers take longer than the prefill, serial, in part and wholly layer by layer (so few
#: requests that no two transfers meet).
SLOW = ["transfer.bandwidth=1GB/s", "workload.rate=0.001"]
LINKS = [
    [],
    SLOW,
    [*SLOW, "transfer.overlap=0.5"],
    [*SLOW, "transfer.overlap=1"],
    [*SLOW, "transfer.overlap=1", "prefill.parallelism.replicas=3"],
]


@pytest.mark.parametrize(
    ("front", "link"),
    [("h100_sxm", link) for link in LINKS] + [("mi300x", LINKS[0]), ("tpu_v6e", LINKS[0])],
)
def test_played_and_evaluated_count_the_same_to_the_first_token(front: str, link: list[str]) -> None:
    """An idle pair of pools: handling, prefill, transfer, handover, decode; the decode engine gives the first token."""
    pools = [
        "prefill=pool",
        f"hardware@prefill.hardware={front}",
        "workload.isl_cv=0",
        "workload.osl_cv=0",
    ]
    load = ["workload.arrivals=poisson", "workload.rate=0.02", "workload.requests=20"]
    scenario = mist.load([*pools, *load, *link])
    steady, played = mist.evaluate(scenario), mist.play(scenario)
    stage = dict(zip(played.stage.values, played.stage_s.values.mean(0), strict=True))
    assert played.attrs["ttft_mean_s"] == pytest.approx(float(steady.ttft_s), rel=0.01)
    assert played.attrs["tpot_mean_s"] == pytest.approx(float(steady.tpot_s), rel=0.02)
    assert played.attrs["e2e_mean_s"] == pytest.approx(float(steady.e2e_s), rel=0.02)
    assert stage["prefill"] == pytest.approx(float(steady.prefill_s), rel=0.02)
    assert stage["handover"] > float(steady.transfer_s)
    assert sum(stage.values()) == pytest.approx(played.attrs["e2e_mean_s"], rel=1e-9)


def test_the_cache_crosses_the_links_of_a_rack() -> None:
    """Both pools in one NVLink domain: its links carry the KV cache; beyond it, or between makers, the adapters do."""
    import mist_jax as mist
    from mist_jax import build

    def bandwidth(*more: str, chip: str = "gb200", other: str = "gb200") -> tuple[float, mist.Scenario]:
        pair = [f"hardware={chip}", "prefill=pool", f"hardware@prefill.hardware={other}", *more]
        scenario = mist.load([*pair, "parallelism.tp=8", "prefill.parallelism.tp=4"])
        return float(build.build_transfer(scenario).bandwidth), scenario

    rate, scenario = bandwidth()
    assert rate == 4 * scenario.hardware.scale_up.bandwidth
    beyond, _ = bandwidth("parallelism.replicas=9")
    mixed, _ = bandwidth(other="h100_sxm")
    assert beyond == pytest.approx(4 * scenario.hardware.scale_out.bandwidth)
    assert mixed < rate
    single, host = bandwidth(chip="h100_sxm", other="h100_sxm")
    assert single == pytest.approx(4 * host.hardware.scale_out.bandwidth)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("cv", [0.0, 1.0])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_open_loops_of_two_pools_beside_the_playback(engine: str, cv: float, replicas: int) -> None:
    base = ["model=llama3_1_8b", "hardware=h100_sxm", "prefill=pool", "hardware@prefill.hardware=h100_sxm"]
    base += ["parallelism=tp1", "parallelism@prefill.parallelism=tp1", f"engine={engine}"]
    base += [f"engine@prefill.engine={engine}", f"prefill.parallelism.replicas={replicas}"]
    base += [f"parallelism.replicas={2 * replicas}", "workload.arrivals=poisson", "workload.isl=2048"]
    base += [f"workload.isl_cv={cv}", "workload.osl=64", "workload.requests=6000"]
    idle = mist.evaluate(mist.load([*base, "workload.rate=0.5"]), elasticities=False)
    capacity = 0.5 / float(idle["prefill_utilization"])
    for load in (0.3, 0.8):
        scenario = mist.load([*base, f"workload.rate={load * capacity}"])
        steady = mist.evaluate(scenario, elasticities=False)
        error = float(steady.ttft_s / mist.play(scenario).ttft_s[600:].mean()) - 1.0
        print(f"{engine} {replicas} replicas, cv {cv}, load {load}: {error:+.3f}")
        assert abs(error) < 0.1


#: Requests in flight per replica of either pool that load the prefill pool little, much and all of the time.
CLOSED = [(512, 8), (512, 128), (4096, 2), (4096, 32), (16384, 1), (16384, 16)]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_closed_loops_of_two_pools_beside_the_playback(engine: str, replicas: int) -> None:
    """A lone request waits for nothing in either, and a pool that is always busy has all of them before it."""
    base = ["model=llama3_1_70b", "hardware=h100_sxm", "prefill=pool", "hardware@prefill.hardware=h100_sxm"]
    base += ["parallelism=tp8", "parallelism@prefill.parallelism=tp8", f"engine={engine}", "workload.osl=256"]
    base += [f"engine@prefill.engine={engine}", "workload=closed_1k_1k", "workload.burst_share=0"]
    base += [f"prefill.parallelism.replicas={replicas}", f"parallelism.replicas={replicas}"]
    base += ["workload.isl_cv=0.1", "workload.osl_cv=0.3"]
    for isl, each in CLOSED:
        clients = replicas * each
        load = [
            f"workload.isl={isl}",
            f"workload.concurrency={clients}",
            f"workload.requests={max(40, 20 * clients)}",
        ]
        scenario = mist.load([*base, *load])
        steady, played = mist.evaluate(scenario, elasticities=False), mist.play(scenario)
        settled = slice(played.request.size // 3, None)
        error = float(steady.ttft_s / played.ttft_s[settled].mean()) - 1.0
        tpot = float(steady.tpot_s / played.tpot_s[settled].mean()) - 1.0
        print(
            f"{engine} {replicas} replicas, ISL {isl}, {each} in flight: TTFT {error:+.3f}, TPOT {tpot:+.3f}"
        )
        assert abs(error) < 0.06
        assert abs(tpot) < 0.03


@pytest.mark.slow
def test_slopes_of_a_closed_loop_with_and_without_a_queue() -> None:
    """Where nobody waits (as many requests as servers) the slopes are finite; all agree with differences."""
    import jax

    decode, prefill = pools("llama3_1_70b", "h100_sxm", "h100_sxm", tp=8.0)

    def ttft(x: Any, clients: Any, servers: Any) -> Any:
        work = replace(make_workload(isl=4096, osl=256), isl=4096.0 * x[0], concurrency=clients)
        link = transfer(bandwidth=50e9)
        link = replace(link, bandwidth=link.bandwidth * x[1])
        return sd.closed_loop_disaggregated(decode, prefill, link, work, 1.0, servers).decode.ttft

    value, slope = quick(ttft), quick(jax.grad(ttft))
    for clients, servers in ((1.0, 1.0), (4.0, 4.0), (2.0, 1.0), (16.0, 1.0), (64.0, 1.0)):
        found = np.asarray(slope(np.ones(2), clients, servers))
        for i, step in enumerate(1e-5 * np.eye(2)):
            up, down = (float(value(np.ones(2) + s, clients, servers)) for s in (step, -step))
            assert found[i] == pytest.approx((up - down) / 2e-5, rel=1e-4), (clients, servers, i)
