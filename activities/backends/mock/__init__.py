"""A mock cloud that needs nothing but PostgreSQL: its servers, volumes and images are rows, and it fails on demand."""
