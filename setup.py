"""Builds the C extension with setuptools; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "resnext.picture._resample",
            ["resnext/picture/_resample.c"],
            depends=[*map(str, Path("resnext/picture").glob("*.h"))],
            # No fused multiply-add, because it rounds a weight differently. No debug information,
            # because it names the build folder, so that builds would differ.
            extra_compile_args=["-std=c11", "-O3", "-g0", "-ffp-contract=off", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,  # without a compiler, Pillow resizes with the same result, bit for bit
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
