"""The passes that NVRTC compiles on a GPU: here they are only compiled, which needs no GPU."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

import pytest

from resnext.run.layers.one_pass import _ADD_BIAS_RELU, _BIAS_RELU

# Copied from torch's own NVRTC code (aten/src/ATen/native/cuda/jit_utils.cpp).
HALF = r"""
namespace at {
struct alignas(2) Half {
  unsigned short x;
  Half() = default;
  inline __host__ __device__ Half(float value) {
    asm("{  cvt.rn.f16.f32 %0, %1;}\n" : "=h"(x) : "f"(value));
  }
  inline __host__ __device__ operator float() const {
    float val;
    asm("{  cvt.f32.f16 %0, %1;}\n" : "=f"(val) : "h"(x));
    return val;
  }
};
}
"""
PASSES = {"bias_relu": (_BIAS_RELU, 2), "add_bias_relu": (_ADD_BIAS_RELU, 3)}


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    """NVRTC from torch's CUDA wheel."""
    spec = find_spec("nvidia")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in map(Path, folders):
        for library in folder.rglob("libnvrtc.so.*"):
            return ctypes.CDLL(str(library))
    pytest.skip("this torch has no NVRTC")


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("dtype", ["at::Half", "float"])
def test_a_pass_compiles_and_keeps_nan(nvrtc, name: str, dtype: str) -> None:
    code, inputs = PASSES[name]
    arguments = ", ".join(f"const {dtype}* in{n}" for n in range(inputs))
    values = ", ".join(f"in{n}[i]" for n in range(inputs))
    ptx = compile_ptx(
        nvrtc,
        f"""{HALF}{code}
        extern "C" __global__ void kernel({arguments}, {dtype}* out) {{
          int i = threadIdx.x;
          out[i] = {name}<{dtype}>({values});
        }}""",
    )
    # A sum below zero becomes zero; NaN is not below zero and stays. `max` would lose it.
    assert ptx.count("add.f32") == inputs - 1
    assert "setp.lt.f32" in ptx
    assert "selp.f32" in ptx
    assert "max.f32" not in ptx


def compile_ptx(nvrtc: ctypes.CDLL, source: str) -> str:
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"pass.cu", 0, None, None
    )
    assert created == 0
    options = (ctypes.c_char_p * 3)(b"--std=c++17", b"-arch=compute_80", b"-default-device")
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx.value.decode()
