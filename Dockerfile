# docker build -t gpu-reml . && docker run --rm -v "$PWD:/data" gpu-reml gpu-reml --bfile mine --pheno pheno.txt
# With a GPU: docker build --build-arg EXTRAS=report,bgen,zst,cuda -t gpu-reml . && docker run --gpus all ...
FROM python:3.12-slim
ARG EXTRAS=report,bgen,zst
COPY . /src
RUN pip install --no-cache-dir "/src[$EXTRAS]" && rm -rf /src
WORKDIR /data
CMD ["gpu-reml", "--help"]
