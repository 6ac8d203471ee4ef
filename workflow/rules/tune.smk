# Every method over its grid on validation questions, and the setting chosen there.


rule sweep_part:
    input:
        inputs("sweep_part"),
    output:
        **outputs("sweep_part"),
    log:
        log_file("sweep_part"),
    benchmark:
        timing_file("sweep_part")
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        **job("sweep_part"),
    shell:
        "fasb run sweep-part {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule sweep:
    input:
        inputs("sweep"),
    output:
        **outputs("sweep"),
    log:
        log_file("sweep"),
    benchmark:
        timing_file("sweep")
    conda:
        ENVIRONMENT
    threads: WHOLE_THREADS
    resources:
        **WHOLE_JOB,
    params:
        **job("sweep"),
    shell:
        "fasb run sweep {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule judge_sweep:
    input:
        inputs("judge_sweep"),
    output:
        **outputs("judge_sweep"),
    log:
        log_file("judge_sweep"),
    benchmark:
        timing_file("judge_sweep")
    conda:
        ENVIRONMENT
    threads: JUDGE_THREADS
    resources:
        **JUDGE_JOB,
    params:
        **job("judge_sweep"),
    shell:
        "fasb run judge-sweep {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule tune:
    input:
        inputs("tune"),
    output:
        **outputs("tune"),
    log:
        log_file("tune"),
    benchmark:
        timing_file("tune")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("tune"),
    shell:
        "fasb run tune {params.target} --key {params.key} 2> >(tee {log} >&2)"
