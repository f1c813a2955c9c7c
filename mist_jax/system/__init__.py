"""Pytrees that describe a deployment: hardware, model, parallelism, engine, workload, calibration.

Every number is in SI units (seconds, bytes, bytes/s, FLOP/s, watts, dollars/s) or a plain count, and a leaf.
"""
