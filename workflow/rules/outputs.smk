# Tables, figures, report and wandb runs of all cells; `table_main`, `figure_4` and so on are targets.


rule table:
    input:
        lambda wildcards: cells.files(
            cells.of_table(study, wildcards.table), (cells.of_cell(wildcards.table),)
        ),
    output:
        csv=report("results/tables/{table}.csv", category="Tables", labels={"table": "{table}"}),
        text=["results/tables/{table}.md", "results/tables/{table}.tex"],
    log:
        "logs/table/{table}.log",
    benchmark:
        "results/timing/table/{table}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("table"),
    shell:
        "fasb table {wildcards.table} {input} --settings {params.settings:q} --out results/tables/{wildcards.table}"
        " 2> >(tee {log} >&2)"


# Only where a dataset has a second judge.
rule agreement:
    input:
        cells.files(
            cells.twice_judged(study),
            ("generations.parquet", "judged.parquet", "judged_second.parquet"),
        ),
    output:
        csv=report("results/tables/judges.csv", category="Tables", labels={"table": "judges"}),
        text=["results/tables/judges.md", "results/tables/judges.tex"],
    log:
        "logs/agreement.log",
    benchmark:
        "results/timing/agreement.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("agreement"),
    shell:
        "fasb agreement {input} --settings {params.settings:q} --out results/tables/judges 2> >(tee {log} >&2)"


rule figure:
    input:
        lambda wildcards: cells.files(
            cells.of_figure(study, wildcards.figure), cells.FIGURES[wildcards.figure]
        ),
    output:
        picture=report(
            "results/figures/{figure}.png", category="Figures", labels={"figure": "{figure}"}
        ),
        others=["results/figures/{figure}.pdf", "results/figures/{figure}.csv"],
    log:
        "logs/figure/{figure}.log",
    benchmark:
        "results/timing/figure/{figure}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("figure"),
    shell:
        "fasb figure {wildcards.figure} {input} --settings {params.settings:q} --out results/figures/{wildcards.figure}"
        " 2> >(tee {log} >&2)"


rule report:
    input:
        cells.report_files(study),
    output:
        "results/report.html",
    log:
        "logs/report.log",
    benchmark:
        "results/timing/report.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("report"),
    shell:
        "fasb report {input} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


rule wandb:
    input:
        cells.logged_files(study),
    output:
        directory("results/wandb"),
    log:
        "logs/wandb.log",
    benchmark:
        "results/timing/wandb.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        **CPU_JOB,
    params:
        settings=settings("wandb"),
    shell:
        "fasb wandb {input} --settings {params.settings:q} --out {output} 2> >(tee {log} >&2)"


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
