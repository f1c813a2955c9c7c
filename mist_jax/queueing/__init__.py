"""Queueing: the steady state and the exact playback of request traces."""
