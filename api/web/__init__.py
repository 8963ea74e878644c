"""Parts that all routes share: problems, middlewares, admission, idempotency, pages, filters, security, OpenAPI."""
