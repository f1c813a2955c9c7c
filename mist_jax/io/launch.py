"""The command that starts the described engine: vLLM or SGLang, every flag with what it does and why it is there.

Flags as documented: vLLM "Engine Arguments" (docs.vllm.ai), SGLang "Server Arguments" (docs.sglang.io). Only settings
that the model used are written, so that the server is what was evaluated; the rest is left to the engine.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from mist_jax.errors import ConfigError
from mist_jax.schema import EngineSpec, HardwareSpec, ParallelismSpec, Scenario

_HUB = re.compile(r"huggingface\.co/([^/\s]+/[^/\s]+)")

#: vLLM's and SGLang's names of cache formats; 16 bits is what both take without a flag
_KV_DTYPES = {"fp8": ("fp8", "fp8_e4m3")}


@dataclass(frozen=True)
class Flag:
    """One argument of a launch command."""

    name: str
    value: str | None  #: None: a switch
    why: str

    @property
    def words(self) -> list[str]:
        """As the shell gets it."""
        return [self.name] if self.value is None else [self.name, self.value]


@dataclass(frozen=True)
class LaunchCommand:
    """How to start one replica of a pool."""

    engine: str
    role: str  #: serve, prefill or decode
    start: tuple[str, ...]  #: program and what comes before the flags
    flags: tuple[Flag, ...]
    replicas: int
    notes: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        """The command as a list of words."""
        return [*self.start, *(w for f in self.flags for w in f.words)]

    def shell(self) -> str:
        """The command as it is typed, one flag a line."""
        lines = [shlex.join(self.start), *("    " + shlex.join(f.words) for f in self.flags)]
        return " \\\n".join(lines)

    def explained(self) -> str:
        """The command, then each flag with its reason, then notes."""
        width = max(len(" ".join(f.words)) for f in self.flags)
        rows = [f"{' '.join(f.words):<{width}}  {f.why}" for f in self.flags]
        notes = [f"Note: {n}" for n in self.notes]
        return "\n".join([self.shell(), "", *rows, *([""] if notes else []), *notes])


def launch_command(scenario: Scenario, *, engine: str | None = None, model: str | None = None,
                   role: str | None = None) -> LaunchCommand:  # fmt: skip
    """The command that starts one replica of the scenario.

    Args:
        engine: "vllm" or "sglang"; default: the scenario's.
        model: repository or path of the weights; default: the one that the model's description names.
        role: of a disaggregated scenario "prefill" or "decode" (default).

    Raises:
        ConfigError: an engine without a command here, no known weights, or a plan that the engine cannot run.
    """
    pool_role = role or ("serve" if scenario.prefill is None else "decode")
    allowed = ("serve",) if scenario.prefill is None else ("decode", "prefill")
    if pool_role not in allowed:
        raise ConfigError(f"role: got {pool_role!r}; allowed for this scenario: {', '.join(allowed)}")
    pool = scenario.prefill if pool_role == "prefill" else scenario
    assert pool is not None
    name = engine or pool.engine.name
    if name not in _BUILDERS:
        raise ConfigError(
            f"engine.name: no launch command for {name!r}; there is one for {', '.join(_BUILDERS)}"
        )
    weights = model or hub_name(scenario)
    return _BUILDERS[name](scenario, pool.hardware, pool.parallelism, pool.engine, weights, pool_role)


def hub_name(scenario: Scenario) -> str:
    """`organisation/model` of the scenario's weights.

    Raises:
        ConfigError: the description names none.
    """
    match = _HUB.search(scenario.model.source or "")
    if not match:
        raise ConfigError(
            f"model.source: {scenario.model.name} names no weights; give `model=organisation/name`"
        )
    return match.group(1)


def _count(value: float) -> str:
    return f"{round(value):d}"


def _expert_degree(par: ParallelismSpec, engine: str) -> bool:
    """Whether experts are spread over all chips.

    Raises:
        ConfigError: a degree in between; vLLM shards experts over tp * dp ranks or not at all.
    """
    if par.ep == 1:
        return False
    if par.ep != par.tp * par.dp:
        raise ConfigError(
            f"parallelism.ep: got {par.ep:g}; {engine} runs ep = tp * dp = {par.tp * par.dp:g} or no expert parallelism"
        )
    return True


def _vllm(scenario: Scenario, hardware: HardwareSpec, par: ParallelismSpec, eng: EngineSpec, weights: str, role: str
          ) -> LaunchCommand:  # fmt: skip
    """`vllm serve`."""
    f = [Flag("--tensor-parallel-size", _count(par.tp), "chips that share each layer (parallelism.tp)")]
    if par.pp > 1:
        f.append(Flag("--pipeline-parallel-size", _count(par.pp), "stages of layers (parallelism.pp)"))
    if par.dp > 1:
        f.append(
            Flag("--data-parallel-size", _count(par.dp), "attention-DP ranks, each with its own KV cache")
        )
    if _expert_degree(par, "vLLM"):
        f.append(
            Flag(
                "--enable-expert-parallel",
                None,
                "whole experts on each chip instead of slices (ep = tp * dp)",
            )
        )
    f += [
        Flag("--max-num-batched-tokens", _count(eng.max_num_batched_tokens),
             "token budget of an iteration: larger is better for TTFT, smaller for TPOT under load"),
        Flag("--max-num-seqs", _count(eng.max_num_seqs), "sequences that an iteration may hold, per DP rank"),
        Flag("--block-size", _count(eng.block_size), "tokens of a KV block"),
        Flag("--gpu-memory-utilization", f"{eng.memory_utilization:g}",
             "share of device memory for weights, activations and KV cache together"),
    ]  # fmt: skip
    if eng.num_gpu_blocks:
        f.append(
            Flag(
                "--num-gpu-blocks-override", _count(eng.num_gpu_blocks), "KV blocks fixed in the description"
            )
        )
    f += _kv_flag(scenario, 0)
    if not eng.cuda_graphs:
        f.append(Flag("--enforce-eager", None, "no captured graphs: every kernel is launched on its own"))
    cached = eng.prefix_hit_rate > 0
    f.append(
        Flag(
            "--enable-prefix-caching",
            None,
            f"the description counts on {eng.prefix_hit_rate:.0%} prefix hits",
        )
        if cached
        else Flag(
            "--no-enable-prefix-caching", None, "the description assumes no prefix hits; drop it to cache"
        )
    )
    if role != "serve":
        connector = json.dumps({"kv_connector": "NixlConnector", "kv_role": "kv_both"})
        f.append(Flag("--kv-transfer-config", connector, f"hands the KV cache over; this is the {role} side"))
    return LaunchCommand(
        "vllm",
        role,
        ("vllm", "serve", weights),
        tuple(f),
        round(par.replicas),
        _notes(scenario, par, eng, role),
    )


def _sglang(scenario: Scenario, hardware: HardwareSpec, par: ParallelismSpec, eng: EngineSpec, weights: str, role: str
            ) -> LaunchCommand:  # fmt: skip
    """`python -m sglang.launch_server`. With attention DP, --tp-size counts all chips of a stage, and SGLang divides
    --chunked-prefill-size and --max-running-requests by --dp-size (sglang/srt/server_args.py, tp_worker.py)."""
    if par.tp * par.dp % par.ep:
        raise ConfigError(
            f"parallelism.ep: got {par.ep:g}; must divide tp * dp = {par.tp * par.dp:g} for SGLang"
        )
    per = f", times {par.dp:g}: SGLang divides it by --dp-size" if par.dp > 1 else ""
    f = [Flag("--tp-size", _count(par.tp * par.dp), "chips of one pipeline stage (parallelism.tp * dp)")]
    if par.pp > 1:
        f.append(Flag("--pp-size", _count(par.pp), "stages of layers (parallelism.pp)"))
    if par.dp > 1:
        f.append(Flag("--dp-size", _count(par.dp), "attention-DP ranks"))
        f.append(Flag("--enable-dp-attention", None, "each DP rank computes attention for its own requests"))
    if par.ep > 1:
        f.append(
            Flag("--ep-size", _count(par.ep), "ranks that whole experts are spread over (parallelism.ep)")
        )
    f += [
        Flag("--chunked-prefill-size", _count(eng.max_num_batched_tokens * par.dp),
             "prompt tokens of a prefill iteration" + per),
        Flag("--max-running-requests", _count(eng.max_num_seqs * par.dp), "requests in an iteration" + per),
        Flag("--page-size", _count(eng.block_size), "tokens of a KV page"),
        Flag("--mem-fraction-static", f"{eng.memory_utilization:g}", "share of device memory for weights and KV cache"),
    ]  # fmt: skip
    if eng.num_gpu_blocks:
        tokens = eng.num_gpu_blocks * eng.block_size
        f.append(Flag("--max-total-tokens", _count(tokens), "KV tokens fixed in the description"))
    if eng.scheduler_recv_interval > 1:
        text = "decode iterations between two looks at new requests"
        f.append(Flag("--scheduler-recv-interval", _count(eng.scheduler_recv_interval), text))
    f += _kv_flag(scenario, 1)
    if not eng.cuda_graphs:
        f.append(Flag("--disable-cuda-graph", None, "every kernel is launched on its own"))
    if eng.prefix_hit_rate == 0:
        f.append(
            Flag("--disable-radix-cache", None, "the description assumes no prefix hits; drop it to cache")
        )
    if role != "serve":
        f.append(Flag("--disaggregation-mode", role, "which side of the disaggregated deployment this is"))
    start = ("python", "-m", "sglang.launch_server", "--model-path", weights)
    return LaunchCommand(
        "sglang", role, start, tuple(f), round(par.replicas), _notes(scenario, par, eng, role)
    )


def _kv_flag(scenario: Scenario, which: int) -> list[Flag]:
    kv = scenario.model.precision.kv
    if kv is None or kv not in _KV_DTYPES:
        return []
    return [Flag("--kv-cache-dtype", _KV_DTYPES[kv][which], "format of the KV cache (model.precision.kv)")]


def _notes(scenario: Scenario, par: ParallelismSpec, eng: EngineSpec, role: str) -> tuple[str, ...]:
    out = []
    if par.replicas > 1:
        out.append(f"start {par.replicas:g} of these behind a router that balances the load")
    asked = scenario.model.precision.weights
    if asked is not None:
        out.append(f"the description computes with {asked} weights: serve a checkpoint in that format")
    out.append(
        "compare the KV capacity that the server logs at its start with `kv_tokens` of the evaluation; set "
        "engine.num_gpu_blocks to the logged one if they differ"
    )
    out.append(
        "if the server says that its KV cache is smaller than the model's context, add --max-model-len"
        if eng.name != "sglang"
        else "if requests are retracted, lower --max-running-requests"
    )
    if role != "serve":
        out.append("a disaggregated deployment also needs a router that knows both pools")
    if eng.draft_tokens:
        flag = "--speculative-config" if eng.name == "vllm" else "--speculative-algorithm and its companions"
        out.append(
            f"{eng.draft_tokens:g} drafts a step: name the method and the draft model with {flag}; measure the "
            "acceptance on your own text and set engine.acceptance"
        )
    if eng.policy != (eng.name if eng.name in ("sglang", "trtllm") else "vllm"):
        out.append(f"engine.policy={eng.policy} has no flag: the engine schedules in its own way")
    return tuple(out)


_BUILDERS: dict[str, Callable[..., LaunchCommand]] = {"vllm": _vllm, "sglang": _sglang}
