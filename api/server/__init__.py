"""The HTTP server: uvicorn with a protocol of our own, which bounds what strangers may use."""
