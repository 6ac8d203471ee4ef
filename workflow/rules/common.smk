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


def model_asks(key):
    return lambda wildcards: getattr(study.models[wildcards.model].job, key)


MODEL_THREADS = model_asks("threads")
MODEL_JOB = {
    "gpu": lambda wildcards: study.models[wildcards.model].gpu,
    "mem_mb": lambda wildcards, attempt: attempt * model_asks("mem_mb")(wildcards),
    "runtime": lambda wildcards, attempt: attempt * model_asks("runtime")(wildcards),
}


def judge_asks(key):
    return lambda wildcards: getattr(
        cells.judge_job(study, wildcards.dataset, wildcards.get("judged", "judged")), key
    )


JUDGE_THREADS = judge_asks("threads")
JUDGE_JOB = {
    "gpu": lambda wildcards: judge_asks("gpu")(wildcards) or 0,
    "mem_mb": lambda wildcards, attempt: attempt * judge_asks("mem_mb")(wildcards),
    "runtime": lambda wildcards, attempt: attempt * judge_asks("runtime")(wildcards),
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
