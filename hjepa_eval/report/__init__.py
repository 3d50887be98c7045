"""Reports of result records. The room itself can be called: `hjepa_eval.report("results", out="table.md")`."""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A package that is a function, too, for a package and a function of one name would hide one another."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from hjepa_eval.report.written import report

        return report(*args, **options)


sys.modules[__name__].__class__ = _Room
