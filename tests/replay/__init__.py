"""Histories recorded from released workflows, replayed with the current code."""
