"""Markdown for the Temporal Web UI, which renders summaries and details."""

from unicodedata import bidirectional

_REORDER = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def quoted(text: str) -> str:
    """Return a user's text as inline code on one line, so that links, HTML and text direction in it have no effect."""
    harmless = "".join(letter for letter in text if bidirectional(letter) not in _REORDER)
    return f"`{' '.join(harmless.replace('`', chr(39)).split())}`"


def title(word: str, vm_name: str, about: str) -> str:
    """Return the title of an operation: its action, its VM if it has one, and a few details."""
    vm = f"VM {quoted(vm_name)}" if vm_name else ""
    return " ".join(part for part in (word, vm, about) if part)
