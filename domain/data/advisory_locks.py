"""The numbers of the advisory locks that make processes take turns. They are arbitrary; no other program uses them.

Locks on single rows or keys have numbers that are hashes.
"""

from typing import Final

MIGRATIONS: Final = 7_166_401_203
MOCK_CLOUD_SCHEMA: Final = 7_166_401_204
RECONCILIATION: Final = 7_166_401_205
HOUSEKEEPING: Final = 7_166_401_206
INDEX_BUILDS: Final = 7_166_401_207
CATALOGUE: Final = 7_166_401_208
OPENSTACK_CLOUD_SCHEMA: Final = 7_166_401_209
FOUND_SERVERS: Final = 7_166_401_214
