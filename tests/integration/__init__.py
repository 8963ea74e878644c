"""The whole stack as `make up` runs it, seen over HTTP, while its processes are killed."""
