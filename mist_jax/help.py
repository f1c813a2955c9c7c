"""What `mist-jax --help` prints: made from the names in `conf/`, without composing anything."""

from __future__ import annotations

import textwrap

from mist_jax.paths import conf_dir

_TEXT = """\
mist-jax: how fast, how dear and how power-hungry will a deployment of LLM serving be?

Usage: mist-jax [mode] [group=option] [key=value] [-m]

  mist-jax                                                   Llama-3.1-70B on 8 x H100, steady state
  mist-jax hardware=mi300x model=qwen3_32b parallelism=tp4 workload.rate=12
  mist-jax play workload=azure_code                          a production trace, request by request
  mist-jax prefill=pool hardware@prefill.hardware=mi300x     disaggregated, across vendors
  mist-jax pipeline=rag_rerank_guard                         retrieval, reranking and guards around the model
  mist-jax play experiment=demo                              the main job
  mist-jax compare run=RESULT.json hardware=h100_sxm         your benchmark beside the prediction
  mist-jax calibrate from=RESULT.json hardware=h100_sxm      refit the engine's coefficients to it

mode (or mode=): evaluate (steady state) | play (exact playback) | {modes}

Groups and their options:

{groups}

Quantities take units: hardware.memory.bandwidth="4.8 TB/s", workload.rate="12 requests/s", slo.ttft="500 ms".
--cfg job shows the composed description, --config-dir DIR adds chips and models of your own, -m runs many at once,
--hydra-help lists the flags of the composition.
"""


def help_text() -> str:
    """The help page, about 40 lines."""
    from mist_jax.application import MODES

    groups = []
    for folder in sorted(p for p in conf_dir().iterdir() if p.is_dir()):
        options = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        line = f"{folder.name}: {options}"
        groups.append(textwrap.fill(line, 116, subsequent_indent="    ", break_on_hyphens=False))
    others = " | ".join(m for m in MODES if m not in ("evaluate", "play"))
    return _TEXT.format(groups="\n".join(groups), modes=others)
