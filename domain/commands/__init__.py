"""Commands: everything that users, admins or the service can request. Only they add operations. They know no HTTP."""
