"""The API over ASGI, on a real database; Temporal is away unless a test brings it."""
