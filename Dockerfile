# torch brings the CUDA libraries; the base image only has to match the driver. CI installs with the same command.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701

# Package versions are not pinned: Ubuntu removes old ones from its archive. The digest above pins everything else.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates g++ git make python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 medvlm

# A numeric user: Kubernetes cannot verify that a named user is not root.
USER 10001:10001
WORKDIR /home/medvlm/medvlm
COPY --chown=10001:10001 . .
RUN PIP_CONSTRAINT=launch/constraints.txt PIP_NO_CACHE_DIR=1 make .venv/.core

# Mount data and runs: docker run --gpus all -v /data:/data -v $PWD/runs:/home/medvlm/medvlm/runs medvlm train ...
ENV PATH=/home/medvlm/medvlm/.venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["medvlm"]
CMD ["--help"]
