# All stages of a cell as one job (`run.jobs: cells`), in the place of those of fit.smk, tune.smk and test.smk: a rule for
# each dataset and suffix, whose cells make the same files.
from fasb.study import celljobs
from fasb.study.stage import CELL


def cell_of(wildcards):
    return celljobs.job_of(study, CELL.format(**wildcards))


def cell_asks(wildcards):
    return celljobs.resources(study, wildcards.model, wildcards.dataset)


CELL_THREADS = lambda wildcards: cell_asks(wildcards).threads
CELL_JOB = asks(cell_asks, lambda wildcards: cell_asks(wildcards).gpu, MODELS)

for (dataset, suffix), made in celljobs.kinds(study).items():

    rule:
        name:
            f"cell_{dataset}{suffix}"
        input:
            lambda wildcards: cell_of(wildcards).inputs,
        output:
            [path if Path(path).suffix else directory(path) for path in made],
        log:
            f"logs/cell/{CELL}.log",
        benchmark:
            f"results/timing/cell/{CELL}.tsv"
        wildcard_constraints:
            dataset=re.escape(dataset),
            suffix=f"(?:{re.escape(suffix)})",
        conda:
            ENVIRONMENT
        threads: CELL_THREADS
        resources:
            **CELL_JOB,
        params:
            target=lambda wildcards: cell_of(wildcards).cell,
            key=lambda wildcards: cell_of(wildcards).key,
        shell:
            "fasb run cell {params.target} --key {params.key} 2> >(tee {log} >&2)"
