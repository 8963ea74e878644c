"""Commands: all requests of users, admins and the service. Only they create operations. They do not depend on HTTP."""
