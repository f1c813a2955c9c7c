"""Stages of a request: one module each, named in `registry`. Importing this package imports no JAX."""
