# What rules ask of the machine or the cluster: those that run a model, a judge, or neither.
from fasb.study.entries import JobSettings

NEITHER = JobSettings(gpu=0, threads=1, mem_mb=4000, runtime=30)


def asks(job_of, gpu_of, entries=()):
    """The resources of rules whose jobs are `job_of(wildcards)`; what failed comes back with more.

    `tasks_per_gpu: 0`: one process has all GPUs of its job. Unset, releases of SLURM's plugin before
    2.8 would start as many as there are GPUs, each of which sees one. `entries`: those of which all
    or none name a partition and the like.
    """
    asked = {
        "gpu": gpu_of,
        "tasks_per_gpu": 0,
        "mem_mb": lambda wildcards, attempt: attempt * job_of(wildcards).mem_mb,
        "runtime": lambda wildcards, attempt: attempt * job_of(wildcards).runtime,
    }
    for key in {key for entry in entries for key in entry.slurm}:
        # `key` is bound now: the function would else see the last of the loop
        asked[key] = lambda wildcards, key=key: job_of(wildcards).slurm.get(key)
    return asked


def model_job(wildcards):
    return study.models[wildcards.model].job


def whole_job(wildcards):
    """A model's job; where shards share its questions, one that only puts their parts together."""
    own = model_job(wildcards)
    return own if own.shards == 1 else own.gathering


def gpus_of_whole(wildcards):
    entry = study.models[wildcards.model]
    return entry.gpu if entry.job.shards == 1 else 0


def judge_job(wildcards):
    # rules that judge for a sweep, or try judges, have no wildcard `judged`
    return cells.judge_job(study, wildcards.dataset, wildcards.get("judged", "judged"))


def fit_job(wildcards):
    """A job of the model, where a method is fitted with the model at hand."""
    with_model = cells.fits_with_model(study, wildcards.dataset)
    return model_job(wildcards) if with_model else NEITHER


def gpus_of_fit(wildcards):
    with_model = cells.fits_with_model(study, wildcards.dataset)
    return study.models[wildcards.model].gpu if with_model else 0


MODELS = list(study.model_jobs.values())
ALL_WITH_MODEL = all(cells.fits_with_model(study, cell.dataset) for cell in study.run.cells)

MODEL_THREADS = lambda wildcards: model_job(wildcards).threads
MODEL_JOB = asks(model_job, lambda wildcards: study.models[wildcards.model].gpu, MODELS)
WHOLE_THREADS = lambda wildcards: whole_job(wildcards).threads
WHOLE_JOB = asks(whole_job, gpus_of_whole, MODELS)
JUDGE_THREADS = lambda wildcards: judge_job(wildcards).threads
JUDGE_JOB = asks(
    judge_job, lambda wildcards: judge_job(wildcards).gpu or 0, study.judge_jobs.values()
)
FIT_THREADS = lambda wildcards: fit_job(wildcards).threads
# a job without the model names no partition, and then none of its rule may
FIT_JOB = asks(fit_job, gpus_of_fit, MODELS if ALL_WITH_MODEL else ())
CPU_JOB = {
    "mem_mb": lambda wildcards, attempt: attempt * NEITHER.mem_mb,
    "runtime": lambda wildcards, attempt: attempt * NEITHER.runtime,
}
