"""The public names of the packages and their rooms."""

import importlib


def public_names(package: str) -> list[str]:
    """Returns the public names of a package or of one of its rooms."""
    return list(importlib.import_module(package).__all__)
