"""The statements of lists that clients ask for again and again, so that their SQL is made only once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from sqlalchemy import Select

from domain.data.prepared import Prepared

MOST = 200  # statements; each connection to the database keeps those that it has run, too


class RepeatedLists:
    """The statements by all that they depend on, beside the values of their parameters."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Prepared | None] = OrderedDict()

    def find(self, key: Hashable, make: Callable[[], Select[*tuple[Any, ...]]]) -> Prepared | None:
        """The statement with this key; None at its first use.

        Preparing a statement takes longer than running it once in another way, and most filters come only once.
        """
        if key not in self._known:
            self._known[key] = None
            if len(self._known) > MOST:
                self._known.popitem(last=False)
            return None
        self._known.move_to_end(key)
        prepared = self._known[key]
        if prepared is None:
            prepared = self._known[key] = Prepared(make())
        return prepared
