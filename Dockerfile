# The CUDA libraries come with torch; the base image only has to fit the driver. CI runs the same install line.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701

# Ubuntu keeps no old versions of its packages: pinned ones would soon not be found. The digest above pins all the rest.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates g++ git make python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 medvlm

# By number, or Kubernetes cannot tell that it is not root.
USER 10001:10001
WORKDIR /home/medvlm/medvlm
COPY --chown=10001:10001 . .
RUN PIP_CONSTRAINT=launch/constraints.txt PIP_NO_CACHE_DIR=1 make .venv/.core

# Data and runs are mounted: docker run --gpus all -v /data:/data -v $PWD/runs:/home/medvlm/medvlm/runs medvlm train ...
ENV PATH=/home/medvlm/medvlm/.venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["medvlm"]
CMD ["--help"]
