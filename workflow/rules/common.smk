# Names, paths and resources that the rules share. Logic is in fasb/study/cells.py.
import json

ENVIRONMENT = "../../environment.yml"
QUESTIONS = "results/questions/{dataset}.parquet"


def names(values):
    return "|".join(re.escape(value) for value in dict.fromkeys(values))


wildcard_constraints:
    model=names(entry.model for entry in study.run.cells),
    dataset=names(cells.asked(study)),
    seed=names(str(seed) for seed in study.run.seeds),
    variant=f"(?:{names(cell.variant for cell in cells.cells(study))})?",  # an empty pattern would match anything
    read="answer_end|next_question_end",
    trace="[0-9a-f]{12}",
    table=names(cells.tables(study)),
    judged="judged|judged_second",
    figure=names(cells.figures(study)),


def in_cell(*files):
    return [f"results/{{model}}/{{dataset}}/seed{{seed}}{{variant}}/{file}" for file in files]


def tuned(*files):
    """Files of the cell that fitted and tuned what a test uses."""
    return lambda wildcards: [f"{cells.tuned_in(study, wildcards)}/{file}" for file in files]


def settings(rule):
    """JSON of exactly what a job of this rule uses, so that a changed key reruns only what it changes."""
    return lambda wildcards: json.dumps(settings_of(study, rule, **wildcards), sort_keys=True)


def trained_model(wildcards):
    return cells.trained(study, wildcards.model)


def accepted_model(wildcards):
    return cells.accepted(study, wildcards.model)


def unsteered_answers(wildcards):
    return cells.trace_file(study, wildcards.model, wildcards.dataset)


def rehearsal(wildcards):
    return cells.rehearsal(study, wildcards.dataset)


def of_model(key):
    return lambda wildcards: getattr(study.models[wildcards.model].job, key)


MODEL_THREADS = of_model("threads")
MODEL_JOB = {
    "gpu": lambda wildcards: study.models[wildcards.model].gpu,
    "mem_mb": lambda wildcards, attempt: attempt * of_model("mem_mb")(wildcards),
    "runtime": lambda wildcards, attempt: attempt * of_model("runtime")(wildcards),
}


def of_judge(key):
    return lambda wildcards: getattr(
        cells.judge_job(study, wildcards.dataset, wildcards.get("judged", "judged")), key
    )


JUDGE_THREADS = of_judge("threads")
JUDGE_JOB = {
    "gpu": lambda wildcards: of_judge("gpu")(wildcards) or 0,
    "mem_mb": lambda wildcards, attempt: attempt * of_judge("mem_mb")(wildcards),
    "runtime": lambda wildcards, attempt: attempt * of_judge("runtime")(wildcards),
}
CPU_JOB = {
    "mem_mb": lambda wildcards, attempt: 4000 * attempt,
    "runtime": lambda wildcards, attempt: 30 * attempt,
}
