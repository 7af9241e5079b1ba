# Three images of one program:
#   producer   submits, reads, migrates, dispatches, serves the API; no torch
#   flower     the same, with the dashboard
#   worker     classifies; torch's wheels contain CUDA, the host provides the driver
FROM python:3.13.15-slim-trixie AS base
LABEL org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="BSD-3-Clause"
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    RESNEXT_HOME=/data \
    RESNEXT_CACHE=/cache
# Code that breaks out of a decoder has no rights as this user. The folders are for volumes.
RUN useradd --create-home --uid 10001 resnextq \
    && install --directory --owner=resnextq --mode=0700 /data /cache

FROM base AS wheel
# The C compiler builds the resampler.
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
LABEL org.opencontainers.image.title="resnext-queue-producer" \
    org.opencontainers.image.description="Submits images, dispatches them, serves the HTTP API; no torch"
COPY requirements/producer.txt /requirements/
RUN pip install --require-hashes -r /requirements/producer.txt
RUN --mount=from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
USER resnextq
ENTRYPOINT ["resnextq"]
CMD ["--help"]

FROM base AS flower
LABEL org.opencontainers.image.title="resnext-queue-flower" \
    org.opencontainers.image.description="The dashboard of resnext-queue"
COPY requirements/flower.txt /requirements/
RUN pip install --require-hashes -r /requirements/flower.txt
RUN --mount=from=wheel,source=/wheel,target=/wheel pip install --no-deps /wheel/*.whl
USER resnextq
ENTRYPOINT ["resnextq"]
CMD ["flower"]

FROM base AS worker
LABEL org.opencontainers.image.title="resnext-queue-worker" \
    org.opencontainers.image.description="Classifies images with ResNeXt on a GPU or a CPU"
# torch.compile, which makes a GPU faster, compiles C for Triton and C++ for a CPU. The base image
# has Python's headers. Compiled code is kept in the RESNEXT_CACHE volume, because /tmp may be
# noexec.
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
