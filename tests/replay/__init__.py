"""Histories recorded from released workflows, replayed against the present code."""
