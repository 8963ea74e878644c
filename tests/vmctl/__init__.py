"""Tests of the client package and of the command."""
