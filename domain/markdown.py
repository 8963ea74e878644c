"""Markdown for the Temporal Web UI, which renders summaries and details."""


def quoted(text: str) -> str:
    """Somebody else's words, shown as they are: no link, emphasis or HTML comes of them."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"
