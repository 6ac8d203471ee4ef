# Tables, figures, report and wandb runs of all cells; `table_main`, `figure_4` and so on are targets.


rule table:
    input:
        inputs("table"),
    output:
        **outputs("table", category="Tables"),
    log:
        log_file("table"),
    benchmark:
        timing_file("table")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("table"),
    shell:
        "fasb run table {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule figure:
    input:
        inputs("figure"),
    output:
        **outputs("figure", category="Figures"),
    log:
        log_file("figure"),
    benchmark:
        timing_file("figure")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("figure"),
    shell:
        "fasb run figure {params.target} --key {params.key} 2> >(tee {log} >&2)"


rule report:
    input:
        inputs("report"),
    output:
        **outputs("report"),
    log:
        log_file("report"),
    benchmark:
        timing_file("report")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("report"),
    shell:
        "fasb run report --key {params.key} 2> >(tee {log} >&2)"


rule wandb:
    input:
        inputs("wandb"),
    output:
        **outputs("wandb"),
    log:
        log_file("wandb"),
    benchmark:
        timing_file("wandb")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        **job("wandb"),
    shell:
        "fasb run wandb --key {params.key} 2> >(tee {log} >&2)"


for table in cells.tables(study):

    rule:
        name:
            f"table_{table}"
        input:
            cells.table_files(table),
        localrule: True


for figure in cells.figures(study):

    rule:
        name:
            f"figure_{figure.removeprefix('figure_')}"
        input:
            cells.figure_files(figure),
        localrule: True
