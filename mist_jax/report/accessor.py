"""`Dataset.mist`: the pictures of this package as methods of a dataset."""

from __future__ import annotations
