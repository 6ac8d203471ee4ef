# Every method over its grid on validation questions, and the setting chosen there.
FITTED = ["anchors.h5", "vectors.safetensors", "trackers.safetensors"]


# Fails for a judge that cannot judge, before anything is generated for it.
rule rehearse:
    input:
        QUESTIONS,
    output:
        "results/questions/{dataset}.judge.json",
    log:
        "logs/rehearse/{dataset}.log",
    benchmark:
        "results/timing/rehearse/{dataset}.tsv"
    conda:
        ENVIRONMENT
    threads: JUDGE_THREADS
    resources:
        **JUDGE_JOB,
    params:
        settings=settings("rehearse"),
    shell:
        "fasb rehearse {input} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


rule sweep:
    input:
        model=trained_model,
        judge=rehearsal,
        files=[QUESTIONS, *in_cell("splits.json")],
        trace=unsteered_answers,
        fitted=in_cell(*FITTED),
    output:
        answers=in_cell("sweep.parquet"),
        choices=in_cell("sweep_mc.parquet"),
    log:
        "logs/sweep/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/sweep/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: MODEL_THREADS
    resources:
        **MODEL_JOB,
    params:
        settings=settings("sweep"),
    shell:
        "fasb sweep {input.files} {input.fitted} {input.trace} --settings {params.settings:q} --store results/.store"
        " --out {output.answers} --out-mc {output.choices} 2> >(tee {log} >&2)"


rule judge_sweep:
    input:
        QUESTIONS,
        in_cell("sweep.parquet"),
    output:
        in_cell("sweep_judged.parquet"),
    log:
        "logs/judge_sweep/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/judge_sweep/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: JUDGE_THREADS
    resources:
        **JUDGE_JOB,
    params:
        settings=settings("judge_sweep"),
    shell:
        "fasb judge {input} --settings {params.settings:q} --store results/.store --out {output} 2> >(tee {log} >&2)"


rule tune:
    input:
        QUESTIONS,
        in_cell("sweep.parquet", "sweep_mc.parquet", "sweep_judged.parquet", *FITTED),
    output:
        chosen=in_cell("tuned.json"),
        grid=in_cell("grid.parquet"),
        bundles=directory(in_cell("bundles")),
    log:
        "logs/tune/{model}/{dataset}/seed{seed}{variant}.log",
    benchmark:
        "results/timing/tune/{model}/{dataset}/seed{seed}{variant}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("tune"),
    shell:
        "fasb tune {input} --settings {params.settings:q} --out {output.chosen} --grid {output.grid}"
        " --bundles {output.bundles} 2> >(tee {log} >&2)"
