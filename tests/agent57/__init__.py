"""Tests of the algorithm, one file per module of `agent57/`."""
