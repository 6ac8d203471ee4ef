# Names, files and resources that the rules share; `job` is what a rule's command is given.
ENVIRONMENT = "../../environment.yml"


def names(values):
    return "|".join(re.escape(value) for value in dict.fromkeys(values))


wildcard_constraints:
    model=names(entry.model for entry in study.run.cells),
    dataset=names(cells.asked(study)),
    seed=names(str(seed) for seed in study.run.seeds),
    # an empty pattern would match anything
    suffix=f"(?:{names(cell.cell_suffix for cell in cells.cells(study))})?",
    read=names(bank["read"] for bank in jobs.STAGES["activations"].scope.of(study)),
    table=names(cells.tables(study)),
    judged="judged|judged_second",
    figure=names(cells.figures(study)),


def inputs(stage):
    """The files that a job reads, by name."""
    return unpack(lambda wildcards: jobs.job_of(study, stage, wildcards).inputs)


def outputs(stage, category=None):
    """The files that it writes; the first of a category is shown in Snakemake's own report."""
    made = {}
    for name, path in jobs.STAGES[stage].written().items():
        made[name] = directory(path) if jobs.STAGES[stage].is_folder(name) else path
        if category is not None and len(made) == 1:
            made[name] = report(path, category=category, labels={"file": path})
    return made


def job(stage):
    """Its target, and the hash of all that it depends on: a changed key reruns what it changes."""
    return {
        "target": lambda wildcards: jobs.job_of(study, stage, wildcards).target,
        "key": lambda wildcards: jobs.job_of(study, stage, wildcards).key,
    }


def log_file(stage):
    return f"logs/{jobs.STAGES[stage].place}.log"


def timing_file(stage):
    return f"results/timing/{jobs.STAGES[stage].place}.tsv"


def model_job(wildcards):
    return study.models[wildcards.model].job


def judge_job(wildcards):
    return cells.judge_job(study, wildcards.dataset, wildcards.get("judged", "judged"))


def slurm_asks(job_of, entries):
    """Partition, account and the like, of rules whose every model, or judge, asks for them."""
    keys = {key for entry in entries for key in entry.slurm}
    # `key` is bound now: a lambda would else see the last of the loop
    return {key: lambda wildcards, key=key: job_of(wildcards).slurm.get(key) for key in keys}


# `tasks_per_gpu: 0`: one process has all GPUs of its job. Unset, releases of SLURM's plugin before
# 2.8 would start as many as there are GPUs, each of which sees one.
MODEL_THREADS = lambda wildcards: model_job(wildcards).threads
MODEL_JOB = {
    "gpu": lambda wildcards: study.models[wildcards.model].gpu,
    "tasks_per_gpu": 0,
    "mem_mb": lambda wildcards, attempt: attempt * model_job(wildcards).mem_mb,
    "runtime": lambda wildcards, attempt: attempt * model_job(wildcards).runtime,
    **slurm_asks(model_job, [study.models[cell.model].job for cell in study.run.cells]),
}
JUDGE_THREADS = lambda wildcards: judge_job(wildcards).threads
JUDGE_JOB = {
    "gpu": lambda wildcards: judge_job(wildcards).gpu or 0,
    "tasks_per_gpu": 0,
    "mem_mb": lambda wildcards, attempt: attempt * judge_job(wildcards).mem_mb,
    "runtime": lambda wildcards, attempt: attempt * judge_job(wildcards).runtime,
    **slurm_asks(judge_job, cells.judge_jobs(study)),
}
CPU_JOB = {
    "mem_mb": lambda wildcards, attempt: 4000 * attempt,
    "runtime": lambda wildcards, attempt: 30 * attempt,
}


def fit_asks(key, of_cpu):
    """What fitting a cell's methods asks for: as a job of its model, where a method runs it."""

    def asked(wildcards):
        if not cells.fits_with_model(study, wildcards.dataset):
            return of_cpu
        entry = study.models[wildcards.model]
        return entry.gpu if key == "gpu" else getattr(entry.job, key)

    return asked


FIT_THREADS = fit_asks("threads", 1)
FIT_JOB = {
    "gpu": fit_asks("gpu", 0),
    "mem_mb": lambda wildcards, attempt: attempt * fit_asks("mem_mb", 4000)(wildcards),
    "runtime": lambda wildcards, attempt: attempt * fit_asks("runtime", 30)(wildcards),
}
