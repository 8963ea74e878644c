"""What every route shares: problems, middleware, admission, idempotency, pages, filters, security."""
