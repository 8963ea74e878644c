"""Tests of the clouds that the service can drive."""
