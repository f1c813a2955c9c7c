"""Run the commands of a new user's path and write how long each took into docs/tutorial.md.

    python docs/time_tutorial.py [--write]

The commands are those of the page itself: every line of its `sh` blocks that carries a mark such as `# [first]`. They
run in order, in a folder of their own; with --write the table between the page's markers is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
START, END = "<!-- times -->", "<!-- /times -->"
MARKED = re.compile(r"^(?P<command>[^#\n]+?)\s+# \[(?P<name>[a-z ]+)\]$")


def commands(text: str) -> list[tuple[str, str]]:
    """(name, command) of every marked line of the page's shell blocks, continuation lines joined."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            match = MARKED.match(line)
            if match:
                found.append((match["name"], re.sub(r"\s+", " ", match["command"]).strip()))
    return found


def benchmark_file(path: Path) -> None:
    """A result in vLLM's form, so that the page's comparison has something to read: made up, as the page says."""
    content = {
        "model_id": "meta-llama/Llama-3.1-8B-Instruct", "endpoint_type": "vllm", "max_concurrency": 32,
        # 32 requests in flight that take 0.12 + 255 * 0.011 s each are 10.9 a second
        "duration": 29.3,
        "completed": 320, "total_input_tokens": 327680, "total_output_tokens": 81920, "request_throughput": 10.9,
        "output_throughput": 2796.0, "mean_ttft_ms": 120.0, "mean_tpot_ms": 11.0,
    }  # fmt: skip
    path.write_text(json.dumps(content))


def run_all(folder: Path) -> list[tuple[str, float, float]]:
    """(name, seconds of the clock, seconds of CPU) of each command; a failing one stops here with its output."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CONF": str(ROOT / "conf"),
    }
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    benchmark_file(folder / "run.json")
    out = []
    for name, command in commands(PAGE.read_text(encoding="utf-8")):
        start, used = time.perf_counter(), os.times()
        done = subprocess.run(
            ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        now = os.times()
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        out.append((name, time.perf_counter() - start, cpu))
        print(f"{out[-1][1]:8.1f} s {cpu:8.1f} s of CPU  {name}", flush=True)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace the table of the page")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = run_all(Path(folder))
    rows = (f"| {n} | {t:.1f} | {max(c, 0.0):.1f} |" for n, t, c in times)
    table = "\n".join(["| step | seconds | of CPU |", "|---|---|---|", *rows])
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        head, _, rest = text.partition(START)
        PAGE.write_text(f"{head}{START}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
