"""Records the examples of the documentation from real answers, and says when they are stale."""
