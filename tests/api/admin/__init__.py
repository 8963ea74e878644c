"""Tests of the endpoints for admins."""
