"""Pipelines: a request as a directed acyclic graph of stages over clients, in steady state and played."""
