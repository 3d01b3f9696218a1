"""Everything about one mechanism in one file: reference, cases, bad arguments, mutants, tests of its own."""

import importlib
import pkgutil


def all_cases():
    """The cases of all mechanisms, file by file."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return [
        case for name in names for case in getattr(importlib.import_module(f"{__name__}.{name}"), "CASES", [])
    ]
