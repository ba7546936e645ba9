"""The GPU's kernels in Triton's interpreter, which runs them on the CPU."""

import dataclasses
import importlib

import pytest


@pytest.fixture
def interpreted_gpu():
    """The module of the GPU's pooling, decorated for the interpreter."""
    pytest.importorskip("triton")
    from triton.runtime.interpreter import interpreter_builder as builder

    from spp_detect.kernels import gpu, gpu_gradient, gpu_nms

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        # Half of its time it looks for overflows, which only its debug mode would tell.
        if hasattr(builder.options, "sanitize_overflow"):
            quick = dataclasses.replace(builder.options, sanitize_overflow=False)
            patch.setattr(builder, "options", quick)
        yield importlib.reload(gpu)
    importlib.reload(gpu)
    importlib.reload(gpu_gradient)
    importlib.reload(gpu_nms)
