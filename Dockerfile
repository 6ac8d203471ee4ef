# The study in a container: docker build -t fasb . && mkdir -p run && docker run -v "$PWD/run:/study" fasb --cores 2
# CPU builds of torch; for CUDA: --build-arg INDEX=https://download.pytorch.org/whl/cu130
FROM python:3.11-slim-bookworm
ARG INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
WORKDIR /fasb
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . .
RUN pip install --no-cache-dir torch==2.13.0 --index-url "$INDEX" \
    && pip install --no-cache-dir -c constraints.txt -e .
# all that is to outlive a container lies here: results, logs, models, and what Snakemake knows of its files
WORKDIR /study
ENV HF_HOME=/study/models/hub
ENTRYPOINT ["snakemake", "--snakefile", "/fasb/workflow/Snakefile"]
CMD ["--cores", "2"]
