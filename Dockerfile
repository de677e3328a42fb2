# The CUDA libraries come with torch; the base image only has to fit the driver. CI runs the same install line.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates g++ git make python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 medvlm

USER medvlm
WORKDIR /home/medvlm/medvlm
COPY --chown=medvlm:medvlm . .
RUN make .venv/.core && rm -rf /home/medvlm/.cache/pip

# Data and runs are mounted: docker run --gpus all -v /data:/data -v $PWD/runs:/home/medvlm/medvlm/runs medvlm train ...
ENV PATH=/home/medvlm/medvlm/.venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["medvlm"]
CMD ["--help"]
