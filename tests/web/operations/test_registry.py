"""What is declared is done: once, and under its own name."""

import pkgutil
from importlib import import_module

from openledger import operations
from openledger.operations.operation import Operation
from openledger.web.operations.registry import IMPLEMENTATIONS


def test_every_declared_operation_has_its_implementation() -> None:
    modules = [
        import_module(f"{operations.__name__}.{one.name}")
        for one in pkgutil.iter_modules(operations.__path__)
    ]
    declared = [
        one for module in modules for one in vars(module).values() if isinstance(one, Operation)
    ]

    assert len(declared) == len({one.name for one in declared})
    assert {one.name: one for one in declared} == {
        name: one.operation for name, one in IMPLEMENTATIONS.items()
    }
