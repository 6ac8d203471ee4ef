# Every method at its chosen setting on test questions.
CHOSEN = tuned("tuned.json", "bundles")


rule generate:
    input:
        model=trained_model,
        accepted=accepted_model,
        questions=QUESTIONS,
        splits=tuned("splits.json"),
        trace=unsteered_answers,
        chosen=CHOSEN,
    output:
        in_cell("generations.parquet"),
    log:
        "logs/generate/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/generate/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        settings=settings("generate"),
    shell:
        "fasb generate {input.questions} {input.splits} {input.chosen} {input.trace} --settings {params.settings:q}"
        " --store results/.store --out {output} 2> >(tee {log} >&2)"


rule judge:
    input:
        QUESTIONS,
        in_cell("generations.parquet"),
    output:
        in_cell("{judged}.parquet"),
    log:
        "logs/judge/{model}/{dataset}/seed{seed}{variant}/{judged}.log",
    benchmark:
        "results/timing/judge/{model}/{dataset}/seed{seed}{variant}/{judged}.tsv"
    conda:
        ENVIRONMENT
    threads: JUDGE_THREADS
    resources:
        **JUDGE_JOB,
    params:
        settings=settings("judge"),
    shell:
        "fasb judge {input} --settings {params.settings:q} --store results/.store --out {output} 2> >(tee {log} >&2)"


rule score:
    input:
        model=trained_model,
        accepted=accepted_model,
        questions=QUESTIONS,
        splits=tuned("splits.json"),
        chosen=CHOSEN,
    output:
        in_cell("scores.parquet"),
    log:
        "logs/score/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/score/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        settings=settings("score"),
    shell:
        "fasb score {input.questions} {input.splits} {input.chosen} --settings {params.settings:q}"
        " --store results/.store --out {output} 2> >(tee {log} >&2)"


rule side_effects:
    input:
        model=trained_model,
        accepted=accepted_model,
        chosen=CHOSEN,
        unrelated=lambda wildcards: [
            QUESTIONS.format(dataset=name) for name in cells.unrelated(study, wildcards.dataset)
        ],
    output:
        in_cell("side_effects.parquet"),
    log:
        "logs/side_effects/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/side_effects/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        settings=settings("side_effects"),
    shell:
        "fasb side-effects {input.chosen} {input.unrelated} --settings {params.settings:q} --store results/.store"
        " --out {output} 2> >(tee {log} >&2)"


rule metrics:
    input:
        QUESTIONS,
        in_cell("generations.parquet", "judged.parquet", "scores.parquet"),
    output:
        questions=in_cell("metrics.parquet"),
        summary=in_cell("metrics.json"),
    log:
        "logs/metrics/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/metrics/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("metrics"),
    shell:
        "fasb metrics {input} --settings {params.settings:q} --out {output.questions} --summary {output.summary}"
        " 2> >(tee {log} >&2)"
