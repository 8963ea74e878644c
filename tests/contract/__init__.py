"""The running API against its own OpenAPI document."""
