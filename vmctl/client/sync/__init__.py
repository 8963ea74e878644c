# Generated from aio/__init__.py by `python -m tests.vmctl.generated`.

"""The asynchronous client. The synchronous one is generated from it."""
