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
    part=r"\d+of\d+",
    figure=names(cells.figures(study)),


def begin(study):
    """Write down what is run, and have nobody ask every second what else could start."""
    jobs.write_study(study)
    # Snakemake limits starts to 100 a second, and for that looks again once a second for every job that has ended: after
    # 230 jobs two fifths of a core (snakemake issue 3955). A limit that somebody has set stays.
    limiter = workflow.scheduler.job_rate_limiter
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


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
