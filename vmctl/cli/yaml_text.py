"""YAML that every reader understands alike. Imported only for YAML: PyYAML takes a tenth of the time of a command."""

import re

import yaml  # type: ignore[import-untyped]

# Numbers of YAML 1.2, the version of most readers. PyYAML writes 1.1, where some of these are texts.
_NUMBER = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|0o[0-7]+|0x[\da-fA-F]+", re.ASCII)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes texts that look like numbers in quotes."""


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(data: object, *, ascii_only: bool = False) -> str:
    """The data as YAML; with `ascii_only` other letters are escaped."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=not ascii_only)
    return text.rstrip("\n")
