"""Tests of the running API against its own OpenAPI document."""
