"""A cloud for every laptop: its servers, volumes and images are rows, and it fails on demand."""
