"""The rules: the lifecycle table, the statements that carry it, settings and messages."""
