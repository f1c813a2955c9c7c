"""Published launch recipes of the InferenceX runs: what the lossy dumps no longer say about a deployment.

The 2026-03-25 and 2026-04-06 dumps dropped attention DP, worker counts and the flag of speculative decoding
of the disaggregated runs. The launch configurations are public and hold no measurement:
SemiAnalysisAI/InferenceX, `.github/configs/nvidia-master.yaml` (Apache-2.0; state of late April 2026).
Pools are written `<workers>x<kind><gpus>` with kind
    T  tensor parallel, experts tensor parallel     (tp = gpus, ep = 1)
    E  tensor parallel attention, expert parallel   (tp = gpus, ep = gpus)
    D  attention data parallel, expert parallel     (dp = gpus, ep = gpus)
    N  attention data parallel, experts in tensor   (dp = gpus, moe_tp = gpus)
Speculative decoding is the number of drafted tokens per step (0 none, `m` = on, depth not named).
`batch` is the decode engine's maximal batch per attention-DP rank where the recipe's name states it (0: not).
It decides TTFT: with slots = batch x DP x workers, what exceeds the slots waits (DATA.md).
The H200 TensorRT-LLM dumps multiply the recipe's concurrency by its decode workers: both are listed. Lines
with osl 8192 and a few older ones come from the rows of the 2026-04-27 dump, which kept the layout and holds
no speculative runs; the same launches were run with speculation too, so they are listed twice. One name is
not believed: `batch8` of the B200 FP4 8192/1024 launch at up to 100 requests, where TTFT shows no wait for 40
slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

#: [model], then: system engine precision isl osl speculative concurrencies prefill decode batch
_TABLE = """
[deepseek_r1]
b200_sxm trtllm fp4 1024 1024 2 1214 1xD4 2xD8 64
b200_sxm trtllm fp4 1024 1024 3 875 1xD4 5xD8 16
b200_sxm trtllm fp4 1024 1024 3 6 1xD4 5xE8 1
b200_sxm trtllm fp4 1024 1024 3 10,15,25,45,90,180 1xD4 5xE8 32
b200_sxm trtllm fp4 1024 1024 1 4968 3xD4 4xD8 128
b200_sxm trtllm fp4 1024 1024 1 10860 3xD4 5xD4 512
b200_sxm trtllm fp4 1024 1024 0 4096 1xD4 1xD8 512
b200_sxm trtllm fp4 1024 1024 0 2192 1xD4 2xD8 128
b200_sxm trtllm fp4 1024 1024 0 1365 1xD4 5xD8 32
b200_sxm trtllm fp4 1024 1024 0 6 1xD4 5xE8 1
b200_sxm trtllm fp4 1024 1024 0 10,15,25,45,90,180 1xD4 5xE8 32
b200_sxm trtllm fp4 1024 1024 0 450 1xD4 6xE8 64
b200_sxm trtllm fp4 8192 1024 3 90 1xD4 1xD8 8
b200_sxm trtllm fp4 8192 1024 3 66 1xD4 3xE8 16
b200_sxm trtllm fp4 8192 1024 3 6 1xD4 5xE8 1
b200_sxm trtllm fp4 8192 1024 3 10,15,30,60 1xD4 5xE8 8
b200_sxm trtllm fp4 8192 1024 3 548 3xD4 1xD8 64
b200_sxm trtllm fp4 8192 1024 1 1096,1691 5xD4 1xD8 192
b200_sxm trtllm fp4 8192 1024 3 658 5xD4 2xD8 32
b200_sxm trtllm fp4 8192 1024 0 6 1xD4 5xE8 1
b200_sxm trtllm fp4 8192 1024 0 10,15,25,50,100 1xD4 5xE8 0
b200_sxm trtllm fp4 8192 1024 0 370 2xD4 5xE8 64
b200_sxm trtllm fp4 8192 1024 0 1606 4xD4 1xD8 192
b200_sxm trtllm fp4 8192 1024 0 837 4xD4 3xD8 32
b200_sxm trtllm fp4 8192 1024 0 2222 7xD4 2xD8 128
b200_sxm trtllm fp8 1024 1024 3 8 1xD8 8xT8 1
b200_sxm trtllm fp8 1024 1024 3 32 1xD8 8xT8 4
b200_sxm trtllm fp8 1024 1024 3 64 1xD8 8xT8 8
b200_sxm trtllm fp8 1024 1024 3 256 1xD8 8xT8 32
b200_sxm trtllm fp8 1024 1024 3 896 1xD8 7xD8 128
b200_sxm trtllm fp8 1024 1024 3 1024 1xD8 4xD8 256
b200_sxm trtllm fp8 1024 1024 3 1184 1xD8 3xD8 384
b200_sxm trtllm fp8 1024 1024 2 1600 1xD8 2xD8 768
b200_sxm trtllm fp8 1024 1024 0 4,32,128 1xD8 3xT8 1024
b200_sxm trtllm fp8 1024 1024 0 1920 1xD8 5xD8 48
b200_sxm trtllm fp8 1024 1024 0 4096 1xD8 1xD8 512
b200_sxm trtllm fp8 1024 1024 0 5152 2xD8 5xD8 128
b200_sxm trtllm fp8 8192 1024 3 8,48 1xN8 6xT8 8
b200_sxm trtllm fp8 8192 1024 3 8 1xN8 2xT8 32
b200_sxm trtllm fp8 8192 1024 3 64 1xN8 4xT8 16
b200_sxm trtllm fp8 8192 1024 3 224 2xN8 3xD8 8
b200_sxm trtllm fp8 8192 1024 3 288 2xN8 1xD8 32
b200_sxm trtllm fp8 8192 1024 2 1088 4xN8 1xD8 128
b200_sxm trtllm fp8 8192 1024 0 1 1xT8 1xT8 1
b200_sxm trtllm fp8 8192 1024 0 32,128 1xN8 4xT8 32
b200_sxm trtllm fp8 8192 1024 0 96 1xN8 6xT8 16
b200_sxm trtllm fp8 8192 1024 0 128 1xN8 1xD8 128
b200_sxm trtllm fp8 8192 1024 0 128 1xN8 2xD8 64
b200_sxm trtllm fp8 8192 1024 0 256 1xN8 1xD8 256
b200_sxm trtllm fp8 8192 1024 0 640 2xN8 1xD8 640
h200_sxm trtllm fp8 1024 1024 3 1,13 1xD8 11xE8 1
h200_sxm trtllm fp8 1024 1024 3 4,44,8,88,32,352 1xD8 11xE8 128
h200_sxm trtllm fp8 1024 1024 3 16,144 1xD8 9xE8 128
h200_sxm trtllm fp8 1024 1024 3 64,512 1xD8 8xD8 128
h200_sxm trtllm fp8 1024 1024 3 128,896 1xD8 7xD8 128
h200_sxm trtllm fp8 1024 1024 3 256,1024 1xD8 4xD8 128
h200_sxm trtllm fp8 1024 1024 1 512,1024 1xD8 2xD8 256
h200_sxm trtllm fp8 1024 1024 0 1,11 1xD8 9xE8 1
h200_sxm trtllm fp8 1024 1024 0 4,36,8,72,16,144,32,288,64,576 1xD8 9xE8 256
h200_sxm trtllm fp8 1024 1024 0 128,1152 1xD8 9xD8 512
h200_sxm trtllm fp8 1024 1024 0 256,1536 1xD8 6xD8 512
h200_sxm trtllm fp8 1024 1024 0 512,3584 2xD8 7xD8 512
h200_sxm trtllm fp8 8192 1024 3 1,9 1xE8 7xE8 1
h200_sxm trtllm fp8 8192 1024 3 4,28 1xE8 7xE8 32
h200_sxm trtllm fp8 8192 1024 3 8,48 1xE8 6xE8 32
h200_sxm trtllm fp8 8192 1024 2 16,48 1xE8 3xE8 32
h200_sxm trtllm fp8 8192 1024 3 32,160 3xE8 5xE8 32
h200_sxm trtllm fp8 8192 1024 2 64 1xE8 1xD8 32
h200_sxm trtllm fp8 8192 1024 2 128 2xE8 1xD8 32
h200_sxm trtllm fp8 8192 1024 2 256 3xE8 1xD8 32
h200_sxm trtllm fp8 8192 1024 1 512 3xE8 1xD8 64
h200_sxm trtllm fp8 8192 1024 0 1,9 1xE8 7xE8 1
h200_sxm trtllm fp8 8192 1024 0 4,28 1xE8 7xE8 32
h200_sxm trtllm fp8 8192 1024 0 8,48 1xE8 6xE8 16
h200_sxm trtllm fp8 8192 1024 0 16,48 1xE8 3xE8 32
h200_sxm trtllm fp8 8192 1024 0 32,160 2xE8 5xE8 128
h200_sxm trtllm fp8 8192 1024 0 64,192 2xE8 3xD8 128
h200_sxm trtllm fp8 8192 1024 0 128 1xE8 1xD8 256
h200_sxm trtllm fp8 8192 1024 0 256,768 5xE8 3xD8 256
h200_sxm trtllm fp8 8192 1024 0 512 3xE8 1xD8 512
h100_sxm trtllm fp8 1024 1024 3 6 1xD16 3xE16 1
h100_sxm trtllm fp8 1024 1024 3 9 1xD16 3xE16 2
h100_sxm trtllm fp8 1024 1024 3 30 1xD16 3xE16 8
h100_sxm trtllm fp8 1024 1024 3 60 1xD16 3xE16 16
h100_sxm trtllm fp8 1024 1024 3 117 1xD16 3xE16 32
h100_sxm trtllm fp8 1024 1024 3 231 1xD16 3xD16 4
h100_sxm trtllm fp8 1024 1024 3 462 1xD16 3xE16 128
h100_sxm trtllm fp8 1024 1024 2 615 1xD16 1xD16 32
h100_sxm trtllm fp8 1024 1024 1 1229 1xD16 1xD16 64
h100_sxm trtllm fp8 1024 1024 0 6 1xD16 3xE16 1
h100_sxm trtllm fp8 1024 1024 0 9 1xD16 3xE16 2
h100_sxm trtllm fp8 1024 1024 0 30 1xD16 3xE16 8
h100_sxm trtllm fp8 1024 1024 0 60 1xD16 3xE16 16
h100_sxm trtllm fp8 1024 1024 0 231 1xD16 3xD16 4
h100_sxm trtllm fp8 1024 1024 0 462 1xD16 3xD16 8
h100_sxm trtllm fp8 1024 1024 0 924 1xD16 3xD16 16
h100_sxm trtllm fp8 1024 1024 0 1845 1xD16 3xD16 32
h100_sxm trtllm fp8 1024 1024 0 4916 2xD16 1xD16 256
h100_sxm trtllm fp8 8192 1024 3 6 1xD16 3xE16 1
h100_sxm trtllm fp8 8192 1024 3 9 1xD16 3xE16 2
h100_sxm trtllm fp8 8192 1024 3 30 1xD16 3xE16 8
h100_sxm trtllm fp8 8192 1024 3 77 1xD16 1xD16 4
h100_sxm trtllm fp8 8192 1024 3 154 2xD16 1xD16 8
h100_sxm trtllm fp8 8192 1024 0 6 1xD16 3xE16 1
h100_sxm trtllm fp8 8192 1024 0 9 1xD16 3xE16 2
h100_sxm trtllm fp8 8192 1024 0 30 1xD16 3xE16 8
h100_sxm trtllm fp8 8192 1024 0 154 1xD16 2xE16 64
h100_sxm trtllm fp8 8192 1024 0 308 2xD16 1xD16 16
gb200 trtllm fp4 1024 1024 3 180 1xD4 1xD32 4
gb200 trtllm fp4 1024 1024 3 4,8,12,24,48 1xD4 4xE8 8
gb200 trtllm fp4 1024 1024 1 4301 2xD4 1xD16 256
gb200 trtllm fp4 1024 1024 1 2253 3xD4 1xD32 64
gb200 trtllm fp4 1024 1024 1 16130 3xD4 5xD4 768
gb200 trtllm fp4 1024 1024 0 4301 1xD4 1xD8 512
gb200 trtllm fp4 1024 1024 0 666 1xD4 1xD32 16
gb200 trtllm fp4 1024 1024 0 6144 1xD4 2xD4 768
gb200 trtllm fp4 1024 1024 0 12,24,48,96,192 1xD4 4xE8 32
gb200 trtllm fp4 1024 1024 0 5 1xD4 4xE8 1
gb200 trtllm fp4 1024 1024 0 4301 2xD4 1xD16 256
gb200 trtllm fp4 1024 1024 0 2253 2xD4 1xD32 64
gb200 trtllm fp4 8192 1024 3 4,8,12,24,48 1xD4 4xE8 8
gb200 trtllm fp4 8192 1024 3 180 3xD4 1xD32 4
gb200 trtllm fp4 8192 1024 1 1229 7xD4 1xD16 64
gb200 trtllm fp4 8192 1024 3 666 8xD4 1xD32 16
gb200 trtllm fp4 8192 1024 1 4301 11xD4 1xD16 256
gb200 trtllm fp4 8192 1024 0 12,44,76 1xD4 4xE8 16
gb200 trtllm fp4 8192 1024 0 5 1xD4 4xE8 1
gb200 trtllm fp4 8192 1024 0 333 2xD4 1xD32 8
gb200 trtllm fp4 8192 1024 0 1229 7xD4 1xD32 32
gb200 trtllm fp4 8192 1024 0 2253 8xD4 1xD16 128
gb200 trtllm fp4 8192 1024 0 4096 10xD4 1xD16 256
gb200 trtllm fp8 1024 1024 1 4301 1xD8 1xD8 512
gb200 trtllm fp8 1024 1024 1 2151 1xD8 1xD8 256
gb200 trtllm fp8 1024 1024 1 1229 1xD8 1xD16 64
gb200 trtllm fp8 1024 1024 3 615 1xD8 1xD32 16
gb200 trtllm fp8 1024 1024 3 36 1xD8 3xE8 8
gb200 trtllm fp8 1024 1024 3 18 1xD8 3xE8 4
gb200 trtllm fp8 1024 1024 3 9 1xD8 3xE8 2
gb200 trtllm fp8 1024 1024 0 6144 1xD8 1xD8 768
gb200 trtllm fp8 1024 1024 0 4301 1xD8 1xD8 512
gb200 trtllm fp8 1024 1024 0 2151 1xD8 1xD16 128
gb200 trtllm fp8 1024 1024 0 1127 1xD8 1xD32 32
gb200 trtllm fp8 1024 1024 0 256 1xD8 1xD32 8
gb200 trtllm fp8 1024 1024 0 27 1xD8 3xE8 8
gb200 trtllm fp8 1024 1024 0 3 1xD8 3xE8 1
gb200 trtllm fp8 8192 1024 3 666 3xD8 1xD8 64
gb200 trtllm fp8 8192 1024 3 666 5xD8 1xD16 32
gb200 trtllm fp8 8192 1024 3 333 3xD8 1xD16 16
gb200 trtllm fp8 8192 1024 3 333 4xD8 1xD32 8
gb200 trtllm fp8 8192 1024 3 90 2xD8 1xD32 2
gb200 trtllm fp8 8192 1024 3 15 1xD8 3xE8 4
gb200 trtllm fp8 8192 1024 3 6 1xD8 3xE8 2
gb200 trtllm fp8 8192 1024 0 1229 5xD8 1xD16 64
gb200 trtllm fp8 8192 1024 0 666 4xD8 1xD32 16
gb200 trtllm fp8 8192 1024 0 615 3xD8 1xD16 32
gb200 trtllm fp8 8192 1024 0 333 2xD8 1xD32 8
gb200 trtllm fp8 8192 1024 0 63 1xD8 3xE8 16
gb200 trtllm fp8 8192 1024 0 18 1xD8 3xE8 4
gb200 trtllm fp8 8192 1024 0 6 1xD8 3xE8 1
gb300 trtllm fp4 1024 1024 1 3226 1xD2 1xD4 768
gb300 trtllm fp4 1024 1024 3 333 1xD2 1xD32 8
gb300 trtllm fp4 1024 1024 3 5 1xD2 4xE8 1
gb300 trtllm fp4 1024 1024 3 8,12,24,48 1xD2 4xE8 8
gb300 trtllm fp4 1024 1024 1 2253 3xD2 1xD16 128
gb300 trtllm fp4 1024 1024 3 1229 3xD2 1xD32 32
gb300 trtllm fp4 1024 1024 0 5 1xD2 4xE8 1
gb300 trtllm fp4 1024 1024 0 12,48,96,192 1xD2 4xE8 32
gb300 trtllm fp4 1024 1024 0 8192 2xD2 1xD8 1024
gb300 trtllm fp4 1024 1024 0 1229 2xD2 1xD32 32
gb300 trtllm fp4 1024 1024 0 4301 3xD2 1xD16 256
gb300 trtllm fp4 1024 1024 0 2253 3xD2 1xD32 64
gb300 trtllm fp4 8192 1024 3 33 1xD2 3xE8 8
gb300 trtllm fp4 8192 1024 3 5 1xD2 4xE8 1
gb300 trtllm fp4 8192 1024 3 12,24 1xD2 4xE8 4
gb300 trtllm fp4 8192 1024 3 180 4xD2 1xD32 4
gb300 trtllm fp4 8192 1024 3 308 8xD2 1xD32 8
gb300 trtllm fp4 8192 1024 1 2253 10xD2 1xD8 256
gb300 trtllm fp4 8192 1024 3 666 10xD2 1xD16 32
gb300 trtllm fp4 8192 1024 3 1127 13xD2 1xD16 64
gb300 trtllm fp4 8192 1024 0 72 1xD2 3xE8 16
gb300 trtllm fp4 8192 1024 0 5 1xD2 4xE8 1
gb300 trtllm fp4 8192 1024 0 12 1xD2 4xE8 2
gb300 trtllm fp4 8192 1024 0 5,15,30,60 1xD2 5xE4 4
gb300 trtllm fp4 8192 1024 0 666 7xD2 1xD32 16
gb300 trtllm fp4 8192 1024 0 1229 9xD2 1xD16 64
gb300 trtllm fp4 8192 1024 0 3228 11xD2 3xD4 256
gb300 trtllm fp4 8192 1024 0 2253 14xD2 1xD16 128
gb300 trtllm fp8 1024 1024 3 8 1xD4 4xE8 1
gb300 trtllm fp8 1024 1024 3 24 1xD4 4xE8 4
gb300 trtllm fp8 1024 1024 3 180 1xD4 1xD32 4
gb300 trtllm fp8 1024 1024 3 564 2xD4 1xD32 16
gb300 trtllm fp8 1024 1024 3 666 1xD4 1xD16 32
gb300 trtllm fp8 1024 1024 1 2253 2xD4 1xD16 128
gb300 trtllm fp8 1024 1024 1 8192 3xD4 2xD8 512
gb300 trtllm fp8 1024 1024 0 4 1xD4 4xE8 1
gb300 trtllm fp8 1024 1024 0 24 1xD4 4xE8 4
gb300 trtllm fp8 1024 1024 0 84 1xD4 4xE8 16
gb300 trtllm fp8 1024 1024 0 1229 2xD4 1xD32 32
gb300 trtllm fp8 1024 1024 0 2253 2xD4 1xD16 128
gb300 trtllm fp8 1024 1024 0 8602 3xD4 2xD8 512
gb300 trtllm fp8 1024 1024 0 12288 3xD4 2xD8 768
gb300 trtllm fp8 8192 1024 3 8 1xD4 4xE8 1
gb300 trtllm fp8 8192 1024 3 24 1xD4 4xE8 4
gb300 trtllm fp8 8192 1024 3 333 6xD4 1xD32 8
gb300 trtllm fp8 8192 1024 3 666 8xD4 1xD16 32
gb300 trtllm fp8 8192 1024 1 1229 10xD4 1xD16 64
gb300 trtllm fp8 8192 1024 1 1229 7xD4 1xD8 128
gb300 trtllm fp8 8192 1024 0 4 1xD4 4xE8 1
gb300 trtllm fp8 8192 1024 0 24 1xD4 4xE8 4
gb300 trtllm fp8 8192 1024 0 36 1xD4 4xE8 8
gb300 trtllm fp8 8192 1024 0 512 6xD4 1xD32 16
gb300 trtllm fp8 8192 1024 0 666 4xD4 1xD16 32
gb300 trtllm fp8 8192 1024 0 1229 7xD4 1xD16 64
gb300 trtllm fp8 8192 1024 0 2151 7xD4 1xD8 256
gb200 sglang fp8 1024 1024 0 4,8 1xT4 1xT4 0
gb200 sglang fp8 1024 1024 0 1024,2048,4096 3xD8 1xD48 0
gb200 sglang fp8 1024 1024 0 1024,2048,4096,6144 2xD8 1xD32 0
gb200 sglang fp8 1024 1024 0 4096 1xD8 1xD8 0
gb200 sglang fp8 8192 1024 0 4,8,16 1xT8 1xT8 0
gb200 sglang fp8 8192 1024 0 512,1024,2048,6144 5xD8 1xD32 0
gb200 sglang fp8 8192 1024 0 2048,4096,6144 6xD8 1xD24 0
gb300 sglang fp8 1024 1024 0 4,8,16,32 1xT4 4xT4 0
gb300 sglang fp8 1024 1024 0 1024,2048,4096,6144 2xD8 1xD32 0
gb300 sglang fp8 1024 1024 0 4096,7168,7680 1xD8 1xD8 0
gb300 sglang fp8 8192 1024 0 4,8 1xT4 1xT4 0
gb300 sglang fp8 8192 1024 0 128,256,512,1024 5xD8 1xD32 0
gb300 sglang fp8 8192 1024 0 2048,4096 6xD8 1xD24 0
gb200 sglang fp4 1024 1024 0 4,8,32 1xT4 2xT4 0
gb200 sglang fp4 1024 1024 0 512,2048,4096,8192 4xD4 1xD32 0
gb200 sglang fp4 1024 1024 0 2048,4096 4xD4 1xD48 0
gb200 sglang fp4 8192 1024 0 4,8 1xT4 4xT4 0
gb200 sglang fp4 8192 1024 0 512,2048,4096 6xT4 1xD48 0
gb200 sglang fp4 8192 1024 0 2048 10xT4 1xD32 0
gb300 sglang fp4 1024 1024 0 4,8,32 1xT4 2xT4 0
gb300 sglang fp4 1024 1024 0 512,2048,4096,8192 4xD4 1xD32 0
gb300 sglang fp4 1024 1024 0 512,2048,4096,8192 4xD4 1xD48 0
gb300 sglang fp4 8192 1024 0 4,8,32,64 1xT4 4xT4 0
gb300 sglang fp4 8192 1024 0 512,2048,4096 6xT4 1xD48 0
gb300 sglang fp4 8192 1024 0 2048 10xT4 1xD32 0
h100_sxm sglang fp8 1024 1024 0 1,2,4,8,16,32,64,128 1xT16 2xT16 0
h100_sxm sglang fp8 1024 1024 0 1,2,4,8,16,32,64 1xT16 1xD16 0
h100_sxm sglang fp8 1024 1024 m 1,2,4,8,16,32,64,128 1xT16 2xT16 0
h100_sxm sglang fp8 1024 1024 m 1,2,4,8,16,32,64 1xT16 1xD16 0
h100_sxm sglang fp8 8192 1024 0 1,2,4,8,16,32,64,128 1xT16 1xT16 0
h100_sxm sglang fp8 8192 1024 0 1,2,4,8,16,32,64 1xT16 1xD16 0
h100_sxm sglang fp8 8192 1024 m 1,2,4,8,16,32,64,128 1xT16 1xT16 0
h100_sxm sglang fp8 8192 1024 m 1,2,4,8,16,32,64 1xT16 1xD16 0
h200_sxm sglang fp8 1024 1024 0 1,4,8,16,32,64,128,256 1xT8 9xT8 0
h200_sxm sglang fp8 1024 1024 0 512,1024,2048 1xT8 6xT8 256
h200_sxm sglang fp8 1024 1024 0 128,256,512,1024,2048 1xD8 6xD8 256
h200_sxm sglang fp8 1024 1024 m 1,4,8,16,32,64,128,256 1xT8 9xT8 0
h200_sxm sglang fp8 1024 1024 m 512,1024,2048 1xT8 6xT8 256
h200_sxm sglang fp8 1024 1024 m 128,256,512,1024,2048 1xD8 6xD8 256
h200_sxm sglang fp8 8192 1024 0 1,4,8 1xT8 7xT8 4
h200_sxm sglang fp8 8192 1024 0 4,8,16 1xT8 6xT8 8
h200_sxm sglang fp8 8192 1024 0 8,16,32 1xT8 3xT8 16
h200_sxm sglang fp8 8192 1024 0 32,64,128 2xT8 3xT8 64
h200_sxm sglang fp8 8192 1024 0 64,128,256 1xT8 1xD8 128
h200_sxm sglang fp8 8192 1024 m 1,4,8 1xT8 7xT8 4
h200_sxm sglang fp8 8192 1024 m 2,4,8,16,32 1xT8 6xT8 8
h200_sxm sglang fp8 8192 1024 m 4,8,16,32,64 1xT8 3xT8 16
h200_sxm sglang fp8 8192 1024 m 32,64,128 2xT8 3xT8 64
h200_sxm sglang fp8 8192 1024 m 32,64,128,256,512 1xT8 1xD8 128
b200_sxm sglang fp4 1024 1024 0 16,128 1xD4 5xE8 0
b200_sxm sglang fp4 1024 1024 0 32,64,256 1xD4 6xE8 0
b200_sxm sglang fp4 1024 1024 0 512 1xD4 1xD8 0
b200_sxm sglang fp4 1024 1024 0 512 1xD4 2xD8 0
b200_sxm sglang fp4 8192 1024 0 64,128 1xD4 1xE8 0
b200_sxm sglang fp4 8192 1024 0 8 1xD4 5xE8 0
b200_sxm sglang fp4 8192 1024 0 4,128 2xD4 5xE8 0
b200_sxm sglang fp4 8192 1024 0 4,8,16,64 1xT4 1xT8 0
b200_sxm sglang fp4 8192 1024 0 1024,2048 7xD4 2xD8 0
b200_sxm sglang fp4 1024 1024 m 16,512 1xD4 5xE8 0
b200_sxm sglang fp4 1024 1024 m 32,64,256,512 1xD4 6xE8 0
b200_sxm sglang fp4 1024 1024 m 512,1024 1xD4 1xD8 0
b200_sxm sglang fp4 1024 1024 m 512 1xD4 2xD8 0
b200_sxm sglang fp4 8192 1024 m 64,128 1xD4 1xE8 0
b200_sxm sglang fp4 8192 1024 m 8 1xD4 5xE8 0
b200_sxm sglang fp4 8192 1024 m 4,128 2xD4 5xE8 0
b200_sxm sglang fp4 8192 1024 m 4,8,16,64 1xT4 1xT8 0
b200_sxm sglang fp8 1024 1024 0 4 1xE8 1xE8 0
b200_sxm sglang fp8 1024 1024 0 16,32,64,128,256 1xE8 3xE8 0
b200_sxm sglang fp8 1024 1024 0 1024,2048,4096 1xD8 5xD8 0
b200_sxm sglang fp8 1024 1024 0 2048,4096 2xD8 5xD8 0
b200_sxm sglang fp8 8192 1024 0 128 1xN8 3xT8 0
b200_sxm sglang fp8 8192 1024 0 128 1xN8 4xT8 0
b200_sxm sglang fp8 8192 1024 0 8,16,32,64,128 1xN8 6xT8 0
b200_sxm sglang fp8 8192 1024 0 288 1xN8 2xD8 0
b200_sxm sglang fp8 8192 1024 0 160,288 1xN8 1xD8 0
b200_sxm sglang fp8 8192 1024 0 512 2xN8 1xD8 0
b200_sxm sglang fp8 8192 1024 0 1024 3xN8 1xD8 0
b200_sxm sglang fp8 1024 1024 m 4,64 1xE8 1xE8 0
b200_sxm sglang fp8 1024 1024 m 4,8,16,32,128 1xE8 3xE8 0
b200_sxm sglang fp8 1024 1024 m 512,4096 1xD8 5xD8 0
b200_sxm sglang fp8 1024 1024 m 1024,2048,4096 2xD8 5xD8 0
b200_sxm sglang fp8 1024 1024 m 512,1024,2048 1xD8 2xD8 0
b200_sxm sglang fp8 8192 1024 m 128 1xN8 3xT8 0
b200_sxm sglang fp8 8192 1024 m 128 1xN8 4xT8 0
b200_sxm sglang fp8 8192 1024 m 8,16,32,64,128 1xN8 6xT8 0
b200_sxm sglang fp8 8192 1024 m 288 1xN8 2xD8 0
b200_sxm sglang fp8 8192 1024 m 160,288 1xN8 1xD8 0
b200_sxm sglang fp8 8192 1024 m 512 2xN8 1xD8 0
b200_sxm sglang fp8 8192 1024 m 1024 3xN8 1xD8 0
b300_sxm trtllm fp4 1024 1024 3 654 1xD2 1xD8 64
b300_sxm trtllm fp4 1024 1024 3 271 1xD2 2xD8 16
b300_sxm trtllm fp4 1024 1024 3 11 1xD2 5xE8 1
b300_sxm trtllm fp4 1024 1024 3 10,20,25,60,120,200 1xD2 5xE8 32
b300_sxm trtllm fp4 1024 1024 1 2342 2xD2 1xD8 256
b300_sxm trtllm fp4 1024 1024 1 8609 5xD2 2xD8 512
b300_sxm trtllm fp4 1024 1024 1 12926 5xD2 2xD8 768
b300_sxm trtllm fp4 1024 1024 0 1176 1xD2 2xD8 64
b300_sxm trtllm fp4 1024 1024 0 6 1xD2 4xE8 1
b300_sxm trtllm fp4 1024 1024 0 5,10,15,25 1xD2 5xE4 4
b300_sxm trtllm fp4 1024 1024 0 60,110,195,395 1xD2 5xE8 64
b300_sxm trtllm fp4 1024 1024 0 4405 2xD2 1xD8 512
b300_sxm trtllm fp4 1024 1024 0 8192 3xD2 1xD8 1024
b300_sxm trtllm fp4 1024 1024 0 4611 3xD2 2xD8 256
b300_sxm trtllm fp4 8192 1024 1 2198 10xD2 1xD8 256
b300_sxm trtllm fp4 8192 1024 3 52 1xD2 4xE4 8
b300_sxm trtllm fp4 8192 1024 3 8 1xD2 4xE8 1
b300_sxm trtllm fp4 8192 1024 3 32 1xD2 4xE8 4
b300_sxm trtllm fp4 8192 1024 3 181 3xD2 1xD8 16
b300_sxm trtllm fp4 8192 1024 1 1197 9xD2 1xD8 128
b300_sxm trtllm fp4 8192 1024 0 105 1xD2 3xE4 32
b300_sxm trtllm fp4 8192 1024 0 63 1xD2 3xE8 16
b300_sxm trtllm fp4 8192 1024 0 4 1xD2 3xE8 1
b300_sxm trtllm fp4 8192 1024 0 12 1xD2 4xE4 2
b300_sxm trtllm fp4 8192 1024 0 589 5xD2 2xD8 32
b300_sxm trtllm fp4 8192 1024 0 1093 6xD2 1xD8 128
b300_sxm trtllm fp4 8192 1024 0 2048 8xD2 1xD8 256
b300_sxm trtllm fp8 1024 1024 3 10 1xN4 8xT8 1
b300_sxm trtllm fp8 1024 1024 3 160 1xN4 8xT8 16
b300_sxm trtllm fp8 1024 1024 1 3072 1xN4 1xN8 256
b300_sxm trtllm fp8 1024 1024 1 2560 1xN4 2xD8 128
b300_sxm trtllm fp8 1024 1024 2 720 1xN4 5xD8 16
b300_sxm trtllm fp8 1024 1024 1 11264 3xN4 2xN8 512
b300_sxm trtllm fp8 1024 1024 0 2112 1xN4 1xD8 256
b300_sxm trtllm fp8 1024 1024 0 3072 1xN4 2xN8 128
b300_sxm trtllm fp8 1024 1024 0 1280 1xN4 3xN8 48
b300_sxm trtllm fp8 1024 1024 0 12,128,384 1xN4 8xT8 64
b300_sxm trtllm fp8 1024 1024 0 16384 2xN4 1xN8 1024
b300_sxm trtllm fp8 8192 1024 3 40 1xN4 2xT8 16
b300_sxm trtllm fp8 8192 1024 3 8 1xN4 4xT8 1
b300_sxm trtllm fp8 8192 1024 3 20 1xN4 4xT8 4
b300_sxm trtllm fp8 8192 1024 3 72 1xN4 1xN8 8
b300_sxm trtllm fp8 8192 1024 3 144 2xN4 1xN8 16
b300_sxm trtllm fp8 8192 1024 2 512 4xN4 1xN8 64
b300_sxm trtllm fp8 8192 1024 0 64 1xN4 4xT8 16
b300_sxm trtllm fp8 8192 1024 0 16 1xN4 8xT8 2
b300_sxm trtllm fp8 8192 1024 0 256 2xN4 1xN8 32
b300_sxm trtllm fp8 8192 1024 0 512 3xN4 1xN8 64
b300_sxm trtllm fp8 8192 1024 0 256 3xN4 5xT8 64
b300_sxm trtllm fp8 8192 1024 0 1075 5xN4 1xN8 128
b300_sxm trtllm fp8 8192 1024 0 3072 7xN4 1xD8 384
b200_sxm sglang fp8 8192 1024 0 128 1xD8 1xD8 0
b200_sxm sglang fp8 8192 1024 0 4,32,64 1xE8 1xE8 0
b200_sxm sglang fp8 8192 1024 0 64 1xE8 4xE8 0
b200_sxm sglang fp8 8192 1024 0 256 2xD8 1xD8 0
gb200 sglang fp4 1024 1024 0 8,32,64 1xN4 2xN4 0
gb200 sglang fp4 1024 1024 0 12000 4xN4 1xN32 0
gb200 sglang fp4 8192 1024 0 1024,8192 10xN4 1xN32 0
gb200 sglang fp4 8192 1024 0 32,64 1xT4 4xN4 0
gb200 sglang fp8 1024 1024 0 16,64,128 1xN4 4xN4 0
gb200 trtllm fp4 1024 1024 0 4,8,16,32,64,128,256,564 1xE4 4xE8 0
gb200 trtllm fp4 1024 8192 0 60,135 1xD4 15xE4 0
gb200 trtllm fp4 1024 8192 0 2048,4096,8192 1xD4 1xD32 0
gb200 trtllm fp4 1024 8192 0 7 1xD4 7xE8 0
gb200 trtllm fp4 8192 1024 0 3,6,12,24,48,102 1xE4 3xE8 0
gb200 trtllm fp4 8192 1024 0 256 4xD4 1xD32 0
gb200 trtllm fp8 1024 8192 0 2048 1xD8 1xD32 0
gb200 trtllm fp8 1024 8192 0 8192 1xD8 2xD16 0
gb200 trtllm fp8 1024 8192 0 4,36 1xD8 4xE8 0
gb300 trtllm fp4 1024 8192 0 60 1xD2 15xE4 0
gb300 trtllm fp4 1024 8192 0 1024,4096,8192 1xD2 1xD32 0
gb300 trtllm fp8 1024 8192 0 1024 1xD4 1xD32 0
gb300 trtllm fp8 1024 8192 0 4096,8192 1xD4 2xD16 0
gb300 trtllm fp8 1024 8192 0 4,36 1xD4 4xE8 0
h100_sxm sglang fp8 1024 8192 0 1,2,4,8,16,32,64 1xT16 2xT16 0
h100_sxm sglang fp8 1024 8192 m 1,2,4,8,16,32,64 1xT16 2xT16 0
b200_sxm sglang fp8 8192 1024 m 128 1xD8 1xD8 0
b200_sxm sglang fp8 8192 1024 m 4,32,64 1xE8 1xE8 0
b200_sxm sglang fp8 8192 1024 m 64 1xE8 4xE8 0
b200_sxm sglang fp8 8192 1024 m 256 2xD8 1xD8 0
gb200 trtllm fp4 1024 1024 m 4,8,16,32,64,128,256,564 1xE4 4xE8 0
gb200 trtllm fp4 1024 8192 m 60,135 1xD4 15xE4 0
gb200 trtllm fp4 1024 8192 m 2048,4096,8192 1xD4 1xD32 0
gb200 trtllm fp4 1024 8192 m 7 1xD4 7xE8 0
gb200 trtllm fp4 8192 1024 m 3,6,12,24,48,102 1xE4 3xE8 0
gb200 trtllm fp4 8192 1024 m 256 4xD4 1xD32 0
gb200 trtllm fp8 1024 8192 m 2048 1xD8 1xD32 0
gb200 trtllm fp8 1024 8192 m 8192 1xD8 2xD16 0
gb200 trtllm fp8 1024 8192 m 4,36 1xD8 4xE8 0
gb300 trtllm fp4 1024 8192 m 60 1xD2 15xE4 0
gb300 trtllm fp4 1024 8192 m 1024,4096,8192 1xD2 1xD32 0
gb300 trtllm fp8 1024 8192 m 1024 1xD4 1xD32 0
gb300 trtllm fp8 1024 8192 m 4096,8192 1xD4 2xD16 0
gb300 trtllm fp8 1024 8192 m 4,36 1xD4 4xE8 0
[kimi_k2_5]
gb200 trtllm fp4 1024 1024 0 4,192,360,668 1xD4 4xE8 128
gb200 trtllm fp4 1024 1024 0 5,15,30,55 1xD4 5xE4 8
gb200 trtllm fp4 1024 1024 0 666 1xD4 1xD16 32
gb200 trtllm fp4 1024 1024 0 2253 1xD4 1xD32 64
gb200 trtllm fp4 1024 1024 0 4301,6452 1xD4 1xD8 768
gb200 trtllm fp4 1024 1024 0 4301 2xD4 1xD16 256
gb200 trtllm fp4 1024 1024 0 4301 2xD4 1xD32 128
gb200 trtllm fp4 8192 1024 0 4 1xD4 4xE8 1
gb200 trtllm fp4 8192 1024 0 156 1xD4 4xE4 32
gb200 trtllm fp4 8192 1024 0 5,15,30,60,105 1xD4 5xE4 16
gb200 trtllm fp4 8192 1024 0 333 2xD4 1xD16 16
gb200 trtllm fp4 8192 1024 0 615 3xD4 1xD16 32
gb200 trtllm fp4 8192 1024 0 2151 5xD4 1xD8 256
gb200 trtllm fp4 8192 1024 0 2253 7xD4 1xD16 128
gb200 vllm fp4 1024 1024 0 256,512,1024,2048,3072,4096 1xD4 1xD16 0
gb200 vllm fp4 1024 1024 0 4,8,16,32,64,128 1xD4 4xE4 0
gb200 vllm fp4 8192 1024 0 4,8,16,32,128 1xD4 4xE4 0
gb200 vllm fp4 8192 1024 0 512,1024 3xD4 1xD16 0
gb200 vllm fp4 8192 1024 0 2048 5xD4 1xD8 0
gb200 vllm fp4 8192 1024 0 3072,4096 6xD4 1xD16 0
[deepseek_v4_pro]
gb200 vllm fp4 1024 1024 0 1,4,8,16,32,64 1xD8 1xT8 0
gb200 vllm fp4 1024 1024 0 128,256,1024,2048,4096 1xD8 1xD16 0
gb200 vllm fp4 1024 1024 0 4096,8192 3xD8 1xD16 0
gb200 vllm fp4 8192 1024 0 1,4,8,16,32,64 1xD8 1xT8 0
gb200 vllm fp4 8192 1024 0 512,1024 3xD8 1xD16 0
gb200 vllm fp4 8192 1024 0 4096,8192 7xD8 1xD16 0
[gpt_oss_120b]
gb200 trtllm fp4 1024 1024 0 1,2,4,16,32,64,128 1xT1 1xT4 256
gb200 trtllm fp4 1024 1024 0 16 1xT1 4xT2 32
gb200 trtllm fp4 1024 1024 0 256,512,1024,2048,2560 1xT1 1xD2 1536
gb200 trtllm fp4 1024 1024 0 512,1024,2048,2560 1xT1 2xD2 1536
gb200 trtllm fp4 1024 1024 0 256,1024,1536 1xT1 1xD4 512
gb200 trtllm fp4 1024 1024 0 3072 1xT1 3xD4 1024
gb200 trtllm fp4 8192 1024 0 1 1xT1 1xT8 4
gb200 trtllm fp4 8192 1024 0 2,4,8,16,32,64 1xT1 1xT4 128
gb200 trtllm fp4 8192 1024 0 128,512 2xT1 1xT4 1024
gb200 trtllm fp4 8192 1024 0 256,384 2xT1 1xT2 512
gb200 trtllm fp4 8192 1024 0 128,512 2xT1 1xD2 512
"""


Key = tuple[str, str, str, str, int, int, int]


@dataclass(frozen=True)
class Pool:
    """One pool of equal workers: degrees of parallelism of a worker, and how many workers."""

    replicas: int
    tp: int
    dp: int
    moe_tp: int
    ep: int

    @property
    def gpus(self) -> int:
        return self.replicas * self.tp * self.dp


@dataclass(frozen=True)
class Recipe:
    """One launch of a disaggregated deployment at one closed-loop concurrency."""

    speculative: float  #: drafted tokens per step; 0 = none; nan = on, depth not named
    prefill: Pool
    decode: Pool
    max_batch: int  #: maximal decode batch per attention-DP rank; 0 = not stated


def parse_pool(text: str) -> Pool:
    """`5xE8` → Pool; see the module docstring for the letters."""
    workers, rest = text.split("x")
    kind, gpus = rest[0], int(rest[1:])
    if kind not in "TEDN":
        raise ValueError(f"unknown pool kind {kind!r} in {text!r}: expected one of T, E, D, N")
    shared = kind in "DN"
    experts = kind in "DE"
    return Pool(
        replicas=int(workers),
        tp=1 if shared else gpus,
        dp=gpus if shared else 1,
        moe_tp=1 if experts else gpus,
        ep=gpus if experts else 1,
    )


@cache
def recipes() -> dict[Key, tuple[Recipe, ...]]:
    """(model, system, engine, labelled precision, isl, osl, concurrency) → the known launches, in order."""
    table: dict[Key, tuple[Recipe, ...]] = {}
    model = ""
    for line in _TABLE.strip().splitlines():
        if line.startswith("["):
            model = line.strip("[]")
            continue
        system, engine, precision, isl, osl, speculative, concurrencies, prefill, decode, batch = line.split()
        recipe = Recipe(
            speculative=float("nan") if speculative == "m" else float(speculative),
            prefill=parse_pool(prefill),
            decode=parse_pool(decode),
            max_batch=int(batch),
        )
        for concurrency in concurrencies.split(","):
            key = (model, system, engine, precision, int(isl), int(osl), int(concurrency))
            table[key] = (*table.get(key, ()), recipe)
    return table
