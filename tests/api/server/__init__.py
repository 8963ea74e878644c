"""The HTTP server: real sockets, raw bytes."""
