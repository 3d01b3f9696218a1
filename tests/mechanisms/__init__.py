"""Everything about one mechanism in one file: reference, cases, bad arguments, mutants, tests of its own."""

import importlib
import pkgutil


def all_files():
    """The modules of all mechanisms, by name."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def all_cases():
    """The cases of all mechanisms, file by file."""
    return [case for module in all_files().values() for case in getattr(module, "CASES", [])]
