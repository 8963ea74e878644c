"""Tests of the OpenStack backend against a small cloud of their own, which fails as real ones do."""
