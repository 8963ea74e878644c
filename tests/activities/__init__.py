"""Tests of the activities, on a real PostgreSQL and the mock cloud."""
