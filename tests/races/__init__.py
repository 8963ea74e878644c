"""Tests of the whole stack in which several requests or decisions meet: races, pairs of requests, random requests."""
