# Three images of one program:
#   producer   submits, reads, migrates, dispatches; no torch
#   flower     the same with the dashboard
#   worker     classifies; CUDA comes with torch's wheels, the driver with the host
FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    RESNEXT_HOME=/data \
    RESNEXT_CACHE=/cache
# Whoever breaks out of a decoder is nobody here; the folders are for volumes.
RUN useradd --create-home --uid 10001 resnextq \
    && install --directory --owner=resnextq --mode=0700 /data /cache

FROM base AS wheel
# For the resampler in C.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/build.txt /build/
RUN pip install --require-hashes -r /build/build.txt
COPY pyproject.toml setup.py README.md LICENSE /source/
COPY contract /source/contract
COPY migrations /source/migrations
COPY producer /source/producer
COPY resnext /source/resnext
COPY worker /source/worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /source

FROM base AS producer
COPY requirements/producer.txt /requirements/
RUN pip install --require-hashes -r /requirements/producer.txt
RUN --mount=from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
USER resnextq
ENTRYPOINT ["resnextq"]
CMD ["--help"]

FROM base AS flower
COPY requirements/flower.txt /requirements/
RUN pip install --require-hashes -r /requirements/flower.txt
RUN --mount=from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
USER resnextq
ENTRYPOINT ["resnextq"]
CMD ["flower"]

FROM base AS worker
# torch.compile, by which a GPU is faster, compiles C for Triton and C++ for a CPU; Python's headers
# are in the base. What it has made stays in the volume of RESNEXT_CACHE, since /tmp may be noexec.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/worker.txt /requirements/
RUN pip install --require-hashes -r /requirements/worker.txt
RUN --mount=from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER resnextq
ENTRYPOINT ["resnextq"]
CMD ["worker"]
