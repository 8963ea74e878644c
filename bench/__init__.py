"""Benchmarks. Machines differ, so compare figures of one run with each other, not with those of another machine."""
