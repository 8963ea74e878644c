"""`python -m migrations.new_secret_key` gives the local stack a new signing key. Nobody is logged out.

It is for the key that `make up` keeps in DATA_DIR, and needs the stack to be stopped. A key in SECRET_KEY is the
user's own to change.
"""

import os
import sys
from pathlib import Path

from domain.settings import load_settings
from migrations import data_dir as data_dirs
from migrations import embedded_postgres
from migrations.data_dir import DataDirError


def main() -> None:
    """Change the key, or end with one line that says why not."""
    checkout = Path(__file__).resolve().parents[1]
    os.umask(0o077)
    settings = load_settings()
    if settings.secret_key is not None:
        sys.exit("SECRET_KEY is set, so the key of DATA_DIR is not used: docs/operations.md says how to change it")
    try:
        data_dir = data_dirs.prepare(settings.data_dir, checkout=checkout, database_user=embedded_postgres.USER)
        data_dirs.change_secret_key(data_dir)
    except (DataDirError, OSError) as error:
        sys.exit(str(error))
    old = data_dir / "secret_key.old"
    sys.stdout.write(f"The next `make up` signs with a new key. Logins go on, because {old} is still accepted.\n")


if __name__ == "__main__":
    main()
