"""Everything that can be asked or decided: the one home of every writer of `operations`. It knows no HTTP."""
