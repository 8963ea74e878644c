"""Workflows with scripted activities, on the time-skipping server or the dev server."""
