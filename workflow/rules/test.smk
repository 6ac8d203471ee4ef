# Every method at its chosen setting on test questions.


rule generate:
    input:
        inputs("generate"),
    output:
        **outputs("generate"),
    log:
        log_file("generate"),
    benchmark:
        timing_file("generate")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("generate"),
    shell:
        "fasb run generate {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule judge:
    input:
        inputs("judge"),
    output:
        **outputs("judge"),
    log:
        log_file("judge"),
    benchmark:
        timing_file("judge")
    conda:
        ENVIRONMENT
    threads: JUDGE_THREADS
    resources:
        **JUDGE_JOB,
    params:
        **job("judge"),
    shell:
        "fasb run judge {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule score:
    input:
        inputs("score"),
    output:
        **outputs("score"),
    log:
        log_file("score"),
    benchmark:
        timing_file("score")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("score"),
    shell:
        "fasb run score {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule side_effects:
    input:
        inputs("side_effects"),
    output:
        **outputs("side_effects"),
    log:
        log_file("side_effects"),
    benchmark:
        timing_file("side_effects")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("side_effects"),
    shell:
        "fasb run side-effects {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule metrics:
    input:
        inputs("metrics"),
    output:
        **outputs("metrics"),
    log:
        log_file("metrics"),
    benchmark:
        timing_file("metrics")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("metrics"),
    shell:
        "fasb run metrics {params.target} --key {params.key} 2> >(tee {log} >&2)"
