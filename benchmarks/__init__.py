"""Benchmarks: one file a benchmark, named after it, with a function `measure() -> list[Measurement]`.

`python -m benchmarks.run [--only NAME] --json FILE` runs them and writes one JSON object a line.
"""
