"""The HTTP API: it validates and records requests; the workers carry them out."""

VERSION = "0.1.0"
PREFIX = "/api/v1"
