"""The numbers of the advisory locks that make processes take turns. They are arbitrary; no other program uses them.

Locks on single rows or keys have numbers that are hashes.
"""

from typing import Final

from sqlalchemy import BigInteger, ColumnElement, func, literal_column

MIGRATIONS: Final = 7_166_401_203
MOCK_CLOUD_SCHEMA: Final = 7_166_401_204
RECONCILIATION: Final = 7_166_401_205
HOUSEKEEPING: Final = 7_166_401_206
INDEX_BUILDS: Final = 7_166_401_207
CATALOGUE: Final = 7_166_401_208
OPENSTACK_CLOUD_SCHEMA: Final = 7_166_401_209
FOUND_SERVERS: Final = 7_166_401_214


def number_of(name: ColumnElement[str]) -> ColumnElement[int]:
    """The number of the lock on a name that a user may have chosen.

    It is negative, so none of the numbers above: a name can be computed that has a certain hash.
    """
    return func.hashtextextended(name, 0).op("|", return_type=BigInteger())(literal_column("(1::bigint << 63)"))
