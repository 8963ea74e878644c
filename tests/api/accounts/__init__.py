"""Tests of accounts: passwords, the end of logins, registration, the command on the server."""
