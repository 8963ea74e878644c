"""Workflows against scripted activities, on the time-skipping server or the dev server."""
