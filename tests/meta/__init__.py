"""The repository itself: its schema, its imports, its wiring, its documents."""
