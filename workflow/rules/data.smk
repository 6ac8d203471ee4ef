# What cells share: questions, whether their judge can judge, what the model computes on them and answers by itself.


rule questions:
    input:
        inputs("questions"),
    output:
        **outputs("questions"),
    log:
        log_file("questions"),
    benchmark:
        timing_file("questions")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("questions"),
    shell:
        "fasb run questions {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule activations:
    input:
        inputs("activations"),
    output:
        **outputs("activations"),
    log:
        log_file("activations"),
    benchmark:
        timing_file("activations")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("activations"),
    shell:
        "fasb run activations {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule trace:
    input:
        inputs("trace"),
    output:
        **outputs("trace"),
    log:
        log_file("trace"),
    benchmark:
        timing_file("trace")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("trace"),
    shell:
        "fasb run trace {params.target} --key {params.key} 2> >(tee {log} >&2)"


# Fails for a judge that cannot judge, before anything is generated for it.
rule check_judges:
    input:
        inputs("check_judges"),
    output:
        **outputs("check_judges"),
    log:
        log_file("check_judges"),
    benchmark:
        timing_file("check_judges")
    conda:
        ENVIRONMENT
    threads: JUDGE_THREADS
    resources:
        **JUDGE_JOB,
    params:
        **job("check_judges"),
    shell:
        "fasb run check-judges {params.target} --key {params.key} 2> >(tee {log} >&2)"
