"""Markdown for the Temporal Web UI, which renders summaries and details."""

from unicodedata import bidirectional

_REORDER = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def quoted(text: str) -> str:
    """Somebody else's words on one line, from left to right: no link, emphasis, HTML or other order comes of them."""
    harmless = "".join(letter for letter in text if bidirectional(letter) not in _REORDER)
    return f"`{' '.join(harmless.replace('`', chr(39)).split())}`"


def title(word: str, vm_name: str, about: str) -> str:
    """What an operation does, in one line: its action, its VM if it has one, and what else there is to know."""
    vm = f"VM {quoted(vm_name)}" if vm_name else ""
    return " ".join(part for part in (word, vm, about) if part)
