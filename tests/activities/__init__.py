"""The activities on real PostgreSQL and the real mock cloud."""
