"""HTTP: authentication, validation, pages, problems; what is asked of a VM is recorded here and done by the workers."""

VERSION = "0.1.0"
PREFIX = "/api/v1"
