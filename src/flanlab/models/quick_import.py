"""Import transformers without what a command in one process on a CPU never uses: that saves a third of the time.

transformers imports torch's compiler for a few decorators, sharded tensors for models on several GPUs, and scipy for the losses
of object detection. Only commands call this: in a notebook, other code may need these parts.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any
from unittest.mock import patch

from flanlab.processes import world_size

_COMPILER, _TRACING = "torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op"


def import_transformers() -> None:
    """Import torch and transformers. Everything is imported if there are several processes or a GPU."""
    import torch
    from torch._compile import _disable_dynamo

    if world_size() > 1 or torch.cuda.is_available() or _COMPILER in sys.modules:
        return
    from transformers import utils
    from transformers.utils import import_utils

    with ExitStack() as replaced:
        for module in (utils, import_utils):
            for question in ("is_torch_distributed_available", "is_scipy_available"):
                replaced.enter_context(patch.object(module, question, lambda: False))
        # These marks matter only to kernels for GPUs, and to whole models that are compiled.
        replaced.enter_context(patch.object(torch.compiler, "allow_in_graph", _unchanged))
        # Does the same, but imports the compiler when the function is called.
        replaced.enter_context(patch.object(torch.compiler, "disable", _disable_dynamo))
        compiler, tracing = ModuleType(_COMPILER), ModuleType(_TRACING)
        vars(compiler).update(assume_constant_result=_unchanged, allow_in_graph=_unchanged)
        vars(tracing).update(TransformGetItemToIndex=_transform_get_item)
        vars(torch)["_dynamo"] = sys.modules[_COMPILER] = compiler
        sys.modules[_TRACING] = tracing
        replaced.callback(vars(torch).pop, "_dynamo")
        replaced.callback(sys.modules.pop, _COMPILER)
        replaced.callback(sys.modules.pop, _TRACING)
        # Another version of transformers may need more of the compiler. It is imported in the usual way afterwards.
        with suppress(ImportError, AttributeError):
            importlib.import_module("transformers.modeling_utils")
            importlib.import_module("transformers.masking_utils")


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let torch call its own functions that are never compiled, without importing the compiler to say so."""
    if _COMPILER in sys.modules:
        yield
        return
    sys.modules[_COMPILER] = ModuleType(_COMPILER)
    vars(sys.modules[_COMPILER]).update(disable=lambda function, *_, **__: function)
    try:
        yield
    finally:
        del sys.modules[_COMPILER]


def _unchanged(function: Any) -> Any:
    return function


def _transform_get_item() -> Any:
    return importlib.import_module(_TRACING).TransformGetItemToIndex()
