# Models that the study trains itself, and whether they are fit for it.


rule pretrain:
    input:
        inputs("pretrain"),
    output:
        **outputs("pretrain"),
    log:
        log_file("pretrain"),
    benchmark:
        timing_file("pretrain")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("pretrain"),
    shell:
        "fasb run pretrain {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule health:
    input:
        inputs("health"),
    output:
        **outputs("health"),
    log:
        log_file("health"),
    benchmark:
        timing_file("health")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("health"),
    shell:
        "fasb run health {params.target} --key {params.key} 2> >(tee {log} >&2)"


# Fails for a rejected world; its figures stay in results/health/. No test question is asked before.
rule accept:
    input:
        inputs("accept"),
    output:
        **outputs("accept"),
    log:
        log_file("accept"),
    benchmark:
        timing_file("accept")
    retries: 0
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("accept"),
    shell:
        "fasb run accept {params.target} --key {params.key} 2> >(tee {log} >&2)"
