# The standalone live server: docs/realtime.md. NOT BUILT WHERE IT WAS WRITTEN (there is no Docker there): the commands
# inside were run by hand on Debian 12, the image itself was not. Say so when you report a fault of it.
#
#   CPU:  docker build -t musetalk-live .
#   CUDA: docker build -t musetalk-live --build-arg BASE=pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime \
#                      --build-arg TORCH_INDEX= .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# Where torch comes from; empty keeps the one of the base image.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# OpenCV's own needs; sound and video come inside the wheels.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt requirements-realtime.txt ./
RUN if [ -n "${TORCH_INDEX}" ]; then python -m pip install --no-cache-dir torch --index-url "${TORCH_INDEX}"; fi \
    && python -m pip install --no-cache-dir -r requirements-realtime.txt

COPY LICENSE NOTICE ./
COPY musetalk_core musetalk_core
ENV PYTHONPATH=/app

# Mount a folder there: avatars, input, output and models lie below it.
RUN useradd --create-home --uid 10001 musetalk && mkdir /data && chown musetalk /data
USER musetalk
WORKDIR /data
VOLUME /data

EXPOSE 8010
# 401: it answers, and asks for its token.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["python", "-c", "\
import http.client, sys; \
server = http.client.HTTPConnection('127.0.0.1', 8010, timeout=4); \
server.request('GET', '/healthz'); \
sys.exit(server.getresponse().status not in (200, 401))"]

# Beyond the container it listens to everybody who reaches the published port: give it a token (docs/realtime.md).
ENTRYPOINT ["python", "-m", "musetalk_core", "serve", "--host", "0.0.0.0"]
