"""Loops that every API process runs beside its requests."""
