"""Tests of the whole stack, as `make up` runs it, over HTTP, also while its processes are killed."""
