# Questions, their folds, what the model computes on them, and what it answers by itself.


rule questions:
    output:
        QUESTIONS,
    log:
        "logs/questions/{dataset}.log",
    benchmark:
        "results/timing/questions/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("questions"),
    shell:
        "fasb questions --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


rule splits:
    input:
        QUESTIONS,
    output:
        in_cell("splits.json"),
    log:
        "logs/splits/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/splits/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("splits"),
    shell:
        "fasb splits {input} --seed {wildcards.seed} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


rule activations:
    input:
        model=trained_model,
        questions=QUESTIONS,
    output:
        "results/activations/{model}/{dataset}/{read}.h5",
    log:
        "logs/activations/{model}/{dataset}/{read}.log",
    benchmark:
        "results/timing/activations/{model}/{dataset}/{read}.tsv"
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        settings=settings("activations"),
    shell:
        "fasb activations {input.questions} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


rule trace:
    input:
        model=trained_model,
        questions=QUESTIONS,
    output:
        "results/traces/{model}/{dataset}/{trace}.parquet",
    log:
        "logs/trace/{model}/{dataset}/{trace}.log",
    benchmark:
        "results/timing/trace/{model}/{dataset}/{trace}.tsv"
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        settings=settings("trace"),
    shell:
        "fasb trace {input.questions} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"
