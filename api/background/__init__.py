"""Loops that run in every API process, next to its requests."""
