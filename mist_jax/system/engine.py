"""The serving engine's settings that change what an iteration holds or costs."""

from __future__ import annotations

from typing import Any

from mist_jax.pytree import pytree

Array = Any


@pytree
class Engine:
    """Settings of one engine instance (vLLM names where they exist)."""

    max_num_batched_tokens: Array  #: token budget of an iteration
    max_num_seqs: Array  #: sequences an iteration may hold
    block_size: Array  #: tokens in a KV block
    memory_utilization: Array  #: fraction of device memory the engine may use
    reserve_bytes: (
        Array  #: bytes per chip the engine keeps for itself (context, graphs, communication buffers)
    )
    activation_bytes_per_token: (
        Array  #: peak activation bytes per batched token per chip; 0 = derive from the model
    )
    eager: Array  #: 1.0 = kernels launched one by one, 0.0 = captured graphs for decode iterations
    prefix_hit_rate: Array  #: fraction of prompt tokens found in the prefix cache
    draft_tokens: Array = 0.0  #: tokens drafted per sequence and iteration (speculative decoding; 0: none)
    #: 1.0 = an iteration holds prompts or decodes, never both (SGLang without mixed chunks)
    separate_prefill: Array = 0.0
    #: share of the memory that is left after weights and reserves which the KV cache may take (TensorRT-LLM's
    #: free_gpu_memory_fraction; vLLM and SGLang bound the whole instead: 1.0)
    kv_free_fraction: Array = 1.0
    #: 1.0 = `memory_utilization` is of weights and KV cache alone, activations take of the rest (SGLang's
    #: mem_fraction_static); 0.0 = of them too (vLLM, TensorRT-LLM)
    activations_apart: Array = 0.0
    #: 1.0 = a request is admitted when its prompt fits (SGLang), 0.0 = when the first chunk of it does (vLLM)
    reserves_prompt: Array = 0.0
    #: 1.0 = a request is admitted when its whole answer fits (TensorRT-LLM's GUARANTEED_NO_EVICT); 0.0 = when its
    #: prompt does: answers grow, and the youngest is preempted where they meet the end of the memory
    reserves_answer: Array = 0.0
    kv_blocks: Array = (
        0.0  #: KV blocks of one attention-DP rank as the engine reports them; 0 = what the memory holds
    )
    #: 1.0 = attention-DP ranks with unlike batches exchange tokens by one broadcast a rank (`physics.operators`)
    uneven_exchange: Array = 0.0
    #: rows of queries that an attention kernel works on at a time where prompts and decodes share a launch; a decode
    #: is alone in such a tile (`physics.operators`). 0: decodes have a launch of their own
    query_tile: Array = 0.0
    #: 1.0 = two micro-batches take turns, so that the exchange of tokens between experts hides behind computation
    two_batches: Array = 0.0
    #: 1.0 = an iteration is formed while the one before it runs: a new request waits for both (docs/scheduling.md)
    ahead: Array = 0.0
    #: 1.0 = attention-DP ranks hold prompts back to run them together (`queueing.admission`)
    gathers_prompts: Array = 0.0
    #: 1.0 = the prompt is tokenized once more where it is handed over to an engine that decodes
    tokenizes_again: Array = 0.0
    #: decode iterations from one look at new requests to the next, unless prompts ran in between
    scheduler_recv_interval: Array = 1.0
