# Folds of the questions, classifiers of all heads, their ranking, and every method's edits and trackers.


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


rule trackers:
    input:
        inputs("trackers"),
    output:
        **outputs("trackers"),
    log:
        log_file("trackers"),
    benchmark:
        timing_file("trackers")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("trackers"),
    shell:
        "fasb run trackers {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule anchors:
    input:
        inputs("anchors"),
    output:
        **outputs("anchors"),
    log:
        log_file("anchors"),
    benchmark:
        timing_file("anchors")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("anchors"),
    shell:
        "fasb run anchors {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule vectors:
    input:
        inputs("vectors"),
    output:
        **outputs("vectors"),
    log:
        log_file("vectors"),
    benchmark:
        timing_file("vectors")
    conda:
        ENVIRONMENT
    threads: FIT_THREADS
    resources:
        **FIT_JOB,
    params:
        **job("vectors"),
    shell:
        "fasb run vectors {params.target} --key {params.key} 2> >(tee {log} >&2)"
