# Three targets: api (no torch), worker-cpu, worker-cuda.
#
#   docker build --target api -t rankpress-api .
#   docker build --target worker-cpu --build-arg TORCH_INDEX=... -t rankpress-worker-cpu .
#
# TORCH_INDEX names another package index to take torch alone from (PyTorch's CPU one, or one for
# another CUDA). Without it torch is the package index's own build, which on Linux x86-64 brings
# CUDA libraries of several GB: right for worker-cuda, only large for worker-cpu.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements requirements
# Every file by its hash, and nothing that the lock does not name. The tools stay out of the images.
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install --require-hashes --no-deps -r requirements/build.lock \
    && python -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes --no-deps -r requirements/api.lock
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml README.md LICENSE ./
COPY rankpress rankpress
RUN /opt/tools/bin/hatchling build -t wheel -d dist

FROM build AS build-api
RUN pip install --no-deps --no-index dist/*.whl \
    && pip check \
    && /opt/tools/bin/cyclonedx-py environment --output-reproducible -o /opt/venv/sbom.cdx.json /opt/venv

FROM build AS build-worker
# torch alone, with what it brings along, has no hash in the lock: each index builds its own.
# constraints.txt has its release.
ARG TORCH_INDEX=
COPY constraints.txt ./
RUN pip install --require-hashes --no-deps -r requirements/worker.lock \
    && if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch; \
    fi \
    && pip install -c constraints.txt torch \
    && pip install --no-deps --no-index dist/*.whl \
    && pip check \
    && /opt/tools/bin/cyclonedx-py environment --output-reproducible -o /opt/venv/sbom.cdx.json /opt/venv

FROM python:${PYTHON_VERSION}-slim AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rankpress" \
      org.opencontainers.image.description="Compresses neural networks by adaptive-rank SVD" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A numeric user, so that a cluster can see that it is not root. /data is all that it may write.
RUN groupadd --gid 10001 rankpress \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin rankpress \
    && install -d -o 10001 -g 10001 /data
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RANKPRESS_DATA_DIR=/data
WORKDIR /srv/rankpress
VOLUME /data
USER 10001:10001

FROM runtime AS api
COPY --from=build-api /opt/venv /opt/venv
COPY app app
# All addresses of the container; which of them are published is the operator's choice. It starts
# once an API key exists in the store, or with RANKPRESS_OPEN_ACCESS=true.
ENV RANKPRESS_HOST=0.0.0.0 \
    RANKPRESS_PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['RANKPRESS_PORT'] + '/readyz', timeout=4)"]
CMD ["python", "-m", "app"]

FROM runtime AS worker
COPY --from=build-worker /opt/venv /opt/venv
COPY worker worker
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=20s --timeout=15s --start-period=60s --retries=3 \
  CMD ["python", "-m", "worker", "--health"]
CMD ["python", "-m", "worker"]

FROM worker AS worker-cpu
ENV RANKPRESS_DEVICE=cpu

FROM worker AS worker-cuda
# Read by NVIDIA's container runtime. With `cuda` a missing GPU is an error, not a slow job.
ENV RANKPRESS_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
