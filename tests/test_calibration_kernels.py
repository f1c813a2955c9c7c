"""The packaged kernel coefficients, their fall-backs, and the fit that makes them."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from calibration import kernel_report
from calibration import kernels as entry
from calibration.datasets import kernels as data
from calibration.kernel_classes import BOUNDS, kernel_classes
from calibration.kernel_hierarchy import Fit, build_problem
from mist_jax.catalog_loader import DEFAULT_FORMATS, catalogue, kernel_coefficients
from mist_jax.physics import kernels as k
from mist_jax.system.hardware import COMPUTE_PRECISIONS


def test_catalogue_holds_all_classes_within_bounds() -> None:
    content = catalogue()
    assert set(content["classes"]) == set(kernel_classes())
    assert {"data_sha256", "commit", "date", "seed"} <= set(content["provenance"])
    for name, table in content["classes"].items():
        kind = kernel_classes()[name]
        assert table["parameters"] == list(kind.prior)
        vectors = [table["all"]]
        for engines in table["values"].values():
            vectors.append(engines["all"])
            for engine, levels in engines.items():
                if engine != "all":
                    vectors += [levels["all"], *levels["generation"].values(), *levels["system"].values()]
        for vector in vectors:
            for field, value in zip(table["parameters"], vector):
                low, high = BOUNDS[field]
                assert low * 0.999 <= value <= high * 1.001, (name, field)


def test_measured_system_uses_its_own_fit() -> None:
    choice = kernel_coefficients("h100_sxm", "hopper", "vllm")
    assert choice.level == "system"
    assert choice.levels["gemm/bf16"] == "system"
    gemm = choice.coefficients.gemm
    assert gemm.compute_efficiency.shape == (len(COMPUTE_PRECISIONS),)
    assert 0.6 < gemm.compute_efficiency[1] < 1.0
    assert 1e-6 < gemm.launch_s[1] < 6e-6
    assert jax.tree.structure(choice.coefficients) == jax.tree.structure(k.default_coefficients())


def test_fall_backs_name_their_level() -> None:
    sibling = kernel_coefficients("h20", "hopper", "vllm")
    assert sibling.level == "generation"
    assert kernel_coefficients("b300", "blackwell_ultra", "trtllm").level == "generation"
    unknown = kernel_coefficients("tpu_v6e", "trillium", "vllm")
    assert unknown.level == "global"
    assert set(unknown.levels.values()) == {"global"}
    assert kernel_coefficients(None, None).level == "global"
    # no latent-attention kernel of vLLM was timed on B200: TensorRT-LLM's on the same chip stands in
    assert (
        kernel_coefficients("b200_sxm", "blackwell", "vllm").levels["decode_mla/bf16"]
        == "system (other engine)"
    )


def test_sglang_uses_the_kernels_of_vllm() -> None:
    one, other = (
        kernel_coefficients("h200_sxm", "hopper", "sglang"),
        kernel_coefficients("h200_sxm", "hopper"),
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, one.coefficients, other.coefficients))
    assert not np.array_equal(
        kernel_coefficients("h200_sxm", "hopper", "trtllm").coefficients.gemm.launch_s,
        other.coefficients.gemm.launch_s,
    )


def test_formats_fill_the_slot_of_their_precision() -> None:
    plain = kernel_coefficients("h100_sxm", "hopper", "trtllm").coefficients
    block = kernel_coefficients("h100_sxm", "hopper", "trtllm", gemm_format="fp8_block").coefficients
    fp8 = COMPUTE_PRECISIONS.index("fp8")
    changed = plain.gemm.compute_efficiency != block.gemm.compute_efficiency
    assert list(np.flatnonzero(changed)) == [fp8]
    cached = kernel_coefficients("h100_sxm", "hopper", "vllm", kv_format="fp8").coefficients
    plain = kernel_coefficients("h100_sxm", "hopper", "vllm").coefficients
    assert cached.decode_attention.tail[1] != plain.decode_attention.tail[1]
    with pytest.raises(ValueError, match="nf3"):
        kernel_coefficients("h100_sxm", "hopper", gemm_format="nf3")
    for name, forms in DEFAULT_FORMATS.items():
        assert len(forms) == len(COMPUTE_PRECISIONS), name


def test_host_bound_floors_are_not_packaged() -> None:
    """Latent attention of vLLM was timed with 0.1 ms of host code, which no served model pays per kernel."""
    for name in ("prefill_mla", "decode_mla"):
        launch = getattr(kernel_coefficients("h100_sxm", "hopper", "vllm").coefficients, name).launch_s
        assert np.all(launch < 40e-6)


def test_packaged_errors_meet_the_targets() -> None:
    """In-sample medians over systems, as the fit recorded them on its check rows."""
    limits = {
        ("gemm", "bf16"): 8.0,
        ("gemm", "fp8"): 10.0,
        ("moe", "bf16"): 12.0,
        ("moe", "fp8"): 12.0,
        ("prefill_attention", "bf16"): 11.0,
        ("decode_attention", "bf16"): 15.0,
        ("all_reduce", "link"): 12.0,
    }
    for (name, form), limit in limits.items():
        found = [r["fit"] for r in catalogue()["classes"][name]["errors"] if r["format"] == form]
        rough = [r["roofline"] for r in catalogue()["classes"][name]["errors"] if r["format"] == form]
        assert np.median(found) <= limit, (name, form)
        assert np.median(found) < 0.5 * np.median(rough)
    for name in ("all_reduce", "p2p"):
        for record in catalogue()["classes"][name]["errors"]:
            if record["engine"] == "torch":
                assert record["fit_large"] <= 12.0, record


def test_power_law_load_conserves_tokens() -> None:
    for tokens, experts, top_k, ep in ((1, 256, 8, 1), (64, 64, 6, 4), (4096, 128, 8, 8)):
        load, touched = data.power_law_load(tokens, experts, top_k, ep, 1.01)
        assert 1.0 - 1e-9 <= load <= ep
        assert 0 < touched <= experts // ep
    assert data.power_law_load(512, 128, 8, 1, 1.2)[0] == pytest.approx(1.0)


def _toy(rng: np.random.Generator, systems: list[str], truth: dict[str, dict[str, float]]) -> pd.DataFrame:
    hardware, _ = _chips(systems)
    kind = kernel_classes()["all_reduce"]
    parts = []
    for system in systems:
        frame = pd.DataFrame(
            {"nbytes": 2.0 ** rng.uniform(8, 30, 300), "ranks": rng.choice([2.0, 4.0, 8.0], 300)}
        )
        columns = {name: frame[name].to_numpy() for name in frame}
        coef = kind.coefficients(**{**kind.prior, **truth[system]})
        seconds = np.asarray(kind.predict(coef, hardware[system], columns)) * np.exp(rng.normal(0, 0.03, 300))
        parts.append(frame.assign(system=system, engine="nccl", format="link", seconds=seconds))
    return pd.concat(parts, ignore_index=True)


def _chips(names: list[str]) -> tuple[dict, dict[str, str]]:
    from tests.test_kernels import chip

    hardware = {name: jax.tree.map(lambda leaf: np.asarray(leaf, float), chip()) for name in names}
    return hardware, {"old": "first", "new": "second", "newer": "second"}


def test_fit_recovers_coefficients_and_shares_them_with_an_unseen_sibling() -> None:
    truth = {
        "old": {"bandwidth_efficiency": 0.5, "launch_s": 8e-6},
        "new": {"bandwidth_efficiency": 0.85, "launch_s": 3e-6},
        "newer": {"bandwidth_efficiency": 0.85, "launch_s": 3e-6},
    }
    systems = list(truth)
    table = _toy(np.random.default_rng(1), systems, truth)
    hardware, generations = _chips(systems)
    fit = Fit(kernel_classes()["all_reduce"], build_problem(table, hardware, generations, 300, 0))
    x = fit.solve()
    found = dict(zip([cell[0] for cell in fit.problem.cells], np.asarray(fit.values(fit.cell_offsets(x)))))
    for system in systems:
        values = dict(zip(fit.names, found[system]))
        assert values["bandwidth_efficiency"] == pytest.approx(
            truth[system]["bandwidth_efficiency"], rel=0.06
        )
    again = fit.solve()
    assert np.array_equal(x, again)
    unseen = fit.residuals(fit.solve(leave_out="newer", start=x))
    position = [cell[0] for cell in fit.problem.cells].index("newer")
    assert np.median(np.abs(np.expm1(unseen[position]))) < 0.10  # its sibling was seen
    alone = fit.residuals(fit.solve(leave_out="old", start=x))
    first = [cell[0] for cell in fit.problem.cells].index("old")
    assert np.median(np.abs(np.expm1(alone[first]))) > np.median(np.abs(np.expm1(unseen[position])))


def test_packaged_coefficients_predict_a_fresh_draw(measured: Path) -> None:
    """The catalogue as loaded, not the fit in memory, reaches its recorded error on other rows."""
    rows, _ = entry.usable_rows("all_reduce")
    hardware, generations = entry.load_hardware()
    kind = kernel_classes()["all_reduce"]
    part = rows[rows.system.eq("h100_sxm") & rows.engine.eq("vllm")]
    choice = kernel_coefficients("h100_sxm", generations["h100_sxm"], "vllm")
    columns = {name: part[name].to_numpy(float) for name in ("nbytes", "ranks")}
    seconds = np.asarray(kind.predict(choice.coefficients.all_reduce, hardware["h100_sxm"], columns))
    assert 100 * np.median(np.abs(seconds / part.seconds - 1)) < 12


def test_left_out_rows_have_reasons(measured: Path) -> None:
    rows, dropped = entry.usable_rows("decode_attention")
    assert all(len(reason) > 10 and count > 0 for reason, count in dropped.items())
    assert len(rows) + sum(dropped.values()) == len(data.READERS["decode_attention"]())


def test_report_renders_every_cell() -> None:
    content = json.loads(json.dumps(catalogue()))
    text = kernel_report.render(content)
    cells = sum(len(table["errors"]) for table in content["classes"].values())
    forms = sum(len({r["format"] for r in table["errors"]}) for table in content["classes"].values())
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| class")]
    assert len([line for line in rows if not line.startswith("| format")]) == cells + forms
