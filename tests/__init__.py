"""Tests, by layer; fakes replace edges only, never our own modules."""
