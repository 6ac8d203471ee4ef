# Every method at its chosen setting on test questions.


rule generate_part:
    input:
        inputs("generate_part"),
    output:
        **outputs("generate_part"),
    log:
        log_file("generate_part"),
    benchmark:
        timing_file("generate_part")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("generate_part"),
    shell:
        "fasb run generate-part {params.target} --key {params.key} 2> >(tee {log} >&2)"


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
    threads: WHOLE_THREADS
    resources:
        **WHOLE_JOB,
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


rule score_part:
    input:
        inputs("score_part"),
    output:
        **outputs("score_part"),
    log:
        log_file("score_part"),
    benchmark:
        timing_file("score_part")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("score_part"),
    shell:
        "fasb run score-part {params.target} --key {params.key} 2> >(tee {log} >&2)"


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
    threads: WHOLE_THREADS
    resources:
        **WHOLE_JOB,
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
