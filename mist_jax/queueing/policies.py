"""Batching policies, as flags of one scheduler. `docs/scheduling.md` describes each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from mist_jax.queueing.state import GROW, RESERVE_ALL, RESERVE_PROMPT


@dataclass(frozen=True)
class Policy:
    """How an engine forms its iterations.

    Attributes:
        chunked: a prompt may be split over iterations.
        mix: prompts and decodes share an iteration; else an iteration with prompts holds no decodes.
        budgeted: the token budget limits an iteration; else only the sequence slots and memory do. Where prompts
            are not split the first one of an iteration always fits: decodes cannot keep a long prompt waiting.
        reserve: KV blocks taken at admission: those of the chunk (0), of the prompt (1), of prompt and
            answer (2).
        lock: a batch is admitted together, and the next when all of it is done.
        decode_first: decodes get their tokens before prompts in progress, whatever the order of admission.
    """

    chunked: bool = True
    mix: bool = True
    budgeted: bool = True
    reserve: int = GROW
    lock: bool = False
    decode_first: bool = False


POLICIES = {
    # vLLM V1: one budget, running requests in order of admission, then waiting ones; blocks grow; preemption.
    "vllm": Policy(),
    # Sarathi-Serve (Agrawal et al., OSDI 2024): decodes, then partial prompts, then new ones, in chunks.
    "sarathi": Policy(reserve=RESERVE_PROMPT, decode_first=True),
    # vLLM V0: whole prompts first and alone, decodes when no prompt can be admitted; preemption.
    "prefill_first": Policy(chunked=False, mix=False),
    # SGLang without --enable-mixed-chunk, its default: an iteration holds prompts, in chunks, while there are any to
    # run, else decodes; a prompt's memory is set aside when it is admitted (sglang/srt/managers/scheduler.py,
    # get_next_batch_to_run; schedule_policy.py, PrefillAdder).
    "sglang": Policy(mix=False, reserve=RESERVE_PROMPT),
    # TensorRT-LLM with its default capacity scheduler, GUARANTEED_NO_EVICT: as vLLM, but a request is admitted when its
    # whole answer fits, so that none is preempted (nvidia.github.io/TensorRT-LLM, CapacitySchedulerPolicy).
    "trtllm": Policy(reserve=RESERVE_ALL),
    # Orca (Yu et al., OSDI 2022): whole prompts join the decodes; prompt and answer reserved, so no
    # preemption.
    "orca": Policy(chunked=False, budgeted=False, reserve=RESERVE_ALL),
    # Splitwise mixed pool (Patel et al., ISCA 2024, section IV.D: a new prompt is run at once): whole prompts up to
    # the budget, at least one, with the decodes.
    "mixed": Policy(chunked=False),
    # FasterTransformer: request-level batching.
    "static": Policy(chunked=False, mix=False, budgeted=False, reserve=RESERVE_ALL, lock=True),
}


def policy(name: str | Policy) -> Policy:
    """The policy of this name.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(name, Policy):
        return name
    if name not in POLICIES:
        raise ValueError(f"no batching policy {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name]
