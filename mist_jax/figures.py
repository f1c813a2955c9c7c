"""Which figures of a deployment are better the less of them there is. Imports nothing."""

#: Of all others more is better.
LESS = (
    "ttft_s", "tpot_s", "e2e_s", "step_s", "waiting", "power_w", "energy_per_output_token_j",
    "cost_per_million_output_tokens_usd", "chips", "weights_bytes", "prefill_wait_s", "transfer_s",
    "die_area_mm2", "chip_cost_usd", "chip_power_w",
)  # fmt: skip
