"""The part that is in C, for `setuptools`; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "resnext.picture._resample",
            ["resnext/picture/_resample.c"],
            depends=[*map(str, Path("resnext/picture").glob("*.h"))],
            # Without fused multiplications and additions, which round a weight otherwise.
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,  # without a compiler Pillow resizes, to the same bits
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
