# The command line on a CPU: docker run -v "$PWD":/work IMAGE train --method ssb
FROM python:3.11-slim
ENV HF_HUB_DISABLE_TELEMETRY=1 PIP_NO_CACHE_DIR=1
COPY . /src
RUN pip install --constraint /src/constraints.txt '/src[study,llm]' && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["subspace"]
