# docker build -t gpu-reml .
# docker run --rm -v "$PWD:/data" -v gpu-reml:/cache gpu-reml gpu-reml --bfile mine --pheno pheno.txt --out mine
#
# The volume /cache keeps compiled kernels from one run to the next.  With a GPU: --build-arg
# EXTRAS=report,bgen,zst,cuda and docker run --gpus all.  Another image with Python 3.11 or newer: --build-arg BASE=...
ARG BASE=python:3.12-slim
FROM $BASE
ARG EXTRAS=report,bgen,zst
COPY . /src
RUN pip install --no-cache-dir "/src[$EXTRAS]" && rm -rf /src && mkdir -m 1777 /cache
ENV NUMBA_CACHE_DIR=/cache
WORKDIR /data
CMD ["gpu-reml", "--help"]
