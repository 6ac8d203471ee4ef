# Probes, steering vectors and trackers of all heads; every method takes its own from them.
BANK = "results/activations/{model}/{dataset}/answer_end.h5"
NEXT_QUESTION_BANK = "results/activations/{model}/{dataset}/next_question_end.h5"


rule anchors:
    input:
        BANK,
        in_cell("splits.json"),
    output:
        in_cell("anchors.h5"),
    log:
        "logs/anchors/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/anchors/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("anchors"),
    shell:
        "fasb anchors {input} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


rule vectors:
    input:
        BANK,
        NEXT_QUESTION_BANK,
        in_cell("splits.json", "anchors.h5"),
    output:
        in_cell("vectors.safetensors"),
    log:
        "logs/vectors/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/vectors/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("vectors"),
    shell:
        "fasb vectors {input} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


rule trackers:
    input:
        in_cell("anchors.h5"),
    output:
        in_cell("trackers.safetensors"),
    log:
        "logs/trackers/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/trackers/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("trackers"),
    shell:
        "fasb trackers {input} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"
