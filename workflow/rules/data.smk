# Questions, their folds, what the model computes on them, and what it answers by itself.


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


rule splits:
    input:
        inputs("splits"),
    output:
        **outputs("splits"),
    log:
        log_file("splits"),
    benchmark:
        timing_file("splits")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("splits"),
    shell:
        "fasb run splits {params.target} --key {params.key} 2> >(tee {log} >&2)"


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
