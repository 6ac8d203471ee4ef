"""The workflow's shape: which jobs a config needs, what reruns, what a rejected world stops.

No model is run.
"""

import inspect
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fasb.errors import ConfigError
from fasb.study import celljobs, cells
from fasb.study.config import load_files, load_study
from fasb.study.jobs import STAGES, count_jobs, job, write_study
from fasb.study.layers import merge, read_mapping

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIGS = {path.stem: path for path in sorted((HERE / "configs").glob("*.yaml"))}
SNAKEMAKE = shutil.which("snakemake", path=str(Path(sys.executable).parent)) or "snakemake"


def expected_jobs(config):
    """Key and output files of every job of a config, by its command."""
    study, found = load_files([config]), {}
    for stage in STAGES.values():
        for target in stage.scope.targets(study):
            made = job(study, stage.name, target)
            files = list(made.paths.outputs.values())
            found[f"{stage.command} {target}".strip()] = (made.key, files)
    return found


def workflow_in(folder):
    """Runs the workflow in a folder with `fake_fasb.py` as the `fasb` command."""
    fake = folder / "bin" / "fasb"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f"#!{sys.executable}\n" + (HERE / "fake_fasb.py").read_text())
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(fake.parent), str(Path(SNAKEMAKE).parent), os.environ["PATH"]])

    def run(*arguments, config="world", **environment):
        path_of_config = config if isinstance(config, Path) else CONFIGS[config]
        with suppress(ConfigError):
            fake.with_name("jobs.json").write_text(json.dumps(expected_jobs(path_of_config)))
        command = [
            SNAKEMAKE,
            "--snakefile",
            ROOT / "workflow" / "Snakefile",
            "--directory",
            folder,
            "--cores",
            "2",
        ]
        command += ["--configfile", path_of_config]
        return subprocess.run(
            [*map(str, command), *arguments],
            cwd=folder, env={**os.environ, "PATH": path, **environment},
            capture_output=True, text=True,
        )  # fmt: skip

    return run


@pytest.fixture
def snakemake(tmp_path):
    return workflow_in(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study that has run, to be looked at only."""
    folder = tmp_path_factory.mktemp("finished")
    run = workflow_in(folder)()
    assert run.returncode == 0, run.stderr
    return folder


def counts(run):
    """Jobs of each rule, from the table that Snakemake prints."""
    assert run.returncode == 0, run.stderr + run.stdout
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total", run.stdout + run.stderr, re.M | re.S)
    return (
        {}
        if table is None
        else {k: int(n) for k, n in re.findall(r"^(\S+) +(\d+)$", table[1], re.M)}
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_the_dag_has_the_jobs_that_fasb_plan_counts(snakemake, config):
    study = load_files([CONFIGS[config]])
    assert counts(snakemake("-n", config=config)) == {**count_jobs(study), "all": 1}


@pytest.mark.parametrize("config", ["hub", "variants"])
def test_a_job_may_do_a_whole_cell(snakemake, config):
    study = load_files([CONFIGS[config]])
    of_cells = [name for name, stage in STAGES.items() if "{cell}" in stage.scope.target]
    expected = Counter(name for name in count_jobs(study).elements() if name not in of_cells)
    for cell in cells.cells(study):
        expected[f"cell_{cell.dataset}{cell.cell_suffix}"] += 1
    found = counts(snakemake("-n", "--config", "run={jobs: cells}", config=config))
    assert found == {**expected, "all": 1}
    assert celljobs.count(study) == expected.total()


@pytest.mark.parametrize("config", ["config.yaml", "evidence.yaml", "tasks.yaml"])
def test_shipped_configs_give_the_dag_that_fasb_plan_counts(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    above = [] if config == "config.yaml" else ["--configfile", f"config/{config}"]
    run = subprocess.run(
        [SNAKEMAKE, "-n", "--forceall", "--nolock", *above],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    study = load_study([Path("config") / config])
    assert counts(run) == {**count_jobs(study), "all": 1}


@pytest.mark.parametrize(
    "given", [["--configfile", "config/tasks.yaml"], []], ids=["tasks", "none"]
)
def test_a_study_of_the_repository_runs_in_any_directory(given, tmp_path):
    command = [SNAKEMAKE, "-n", "--directory", str(tmp_path), *given]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    study = load_study([ROOT / given[1]] if given else [])
    assert counts(run) == {**count_jobs(study), "all": 1}


def test_the_cluster_profile_is_found_by_name_and_keeps_its_keys():
    command = [SNAKEMAKE, "-n", "--forceall", "--nolock", "--profile", "slurm"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert counts(run)["sweep"] >= 1
    assert "Using profiles slurm and workflow specific profile" in run.stderr


@pytest.mark.parametrize(
    ("target", "last", "never"),
    [
        ("table_main", "table", "figure"),
        ("figure_4", "figure", "sweep"),
        ("figure_sensitivity", "figure", "generate"),
        ("report", "report", "wandb"),
        ("wandb", "wandb", "all"),
    ],
)
def test_outputs_are_targets_by_name_and_make_only_what_they_need(snakemake, target, last, never):
    jobs = counts(snakemake("-n", target))
    assert jobs[last] >= 1
    assert never not in jobs


def test_a_mistake_in_the_config_is_one_line_before_any_job(snakemake, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({**read_mapping(CONFIGS["world"]), "decodin": {"tokens": 3}}))
    run = snakemake(config=wrong)
    assert run.returncode == 1
    assert (
        "wrong.yaml: decodin: unknown key; did you mean 'decoding'?" in run.stderr.splitlines()
    ), run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "calls.txt").exists()


def test_a_key_that_is_there_twice_is_refused_before_any_job(snakemake, tmp_path):
    twice = tmp_path / "twice.yaml"
    twice.write_text(f"{CONFIGS['world'].read_text()}\nwandb: {{mode: offline, mode: disabled}}\n")
    run = snakemake("-n", config=twice)
    assert run.returncode
    assert re.search(
        r"twice.yaml: not YAML .*the key '(mode|wandb)' again", run.stderr + run.stdout
    )


def test_a_second_judge_adds_its_verdicts_and_one_table(snakemake, tmp_path):
    above = {"datasets": {"tiny": {"second_judge": {"use": "light", "job": {"gpu": 1}}}}}
    config = tmp_path / "two.yaml"
    config.write_text(yaml.safe_dump(merge(read_mapping(CONFIGS["world"]), above)))
    run = snakemake("-n", config=config)
    study = load_files([config])
    assert counts(run) == {**count_jobs(study), "all": 1}
    one = count_jobs(load_files([CONFIGS["world"]]))
    assert count_jobs(study) - one == {"judge": 1, "table": 1}
    assert "results/tables/judges.csv" in job(study, "report").inputs["shown"]
    blocks = re.findall(r"^rule judge:\n((?: {4}.*\n)+)", run.stdout + run.stderr, re.M)
    assert sorted("judged_second" in block and "gpu=1" in block for block in blocks) == [
        False,
        True,
    ]


def test_lint_has_nothing_to_say(snakemake):
    run = snakemake("--lint")
    assert "Congratulations, your workflow is in a good condition!" in run.stdout + run.stderr


def test_a_whole_study_runs_once_and_then_has_nothing_to_do(finished):
    study = load_files([CONFIGS["world"]])
    assert all((finished / target).exists() for target in cells.targets(study))
    timed = sorted(path.name.removesuffix(".tsv") for path in finished.glob("results/timing/*"))
    assert timed == sorted(count_jobs(study))
    assert counts(workflow_in(finished)("-n")) == {}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"probes": {"C": 0.5}}, {"anchors"}),
        ({"wandb": {"project": "mine"}}, {"wandb"}),
        ({"methods": {"fasb": {"grid": {"k": [4]}}}}, {"sweep", "tune"}),
    ],
    ids=["probes.C", "wandb.project", "a grid"],
)
def test_a_changed_key_reruns_its_rules_and_what_follows(finished, tmp_path, change, first):
    (tmp_path / "changed.yaml").write_text(
        yaml.safe_dump(merge(read_mapping(CONFIGS["world"]), change))
    )
    rerun = counts(workflow_in(finished)("-n", config=tmp_path / "changed.yaml"))
    assert first <= set(rerun)
    assert not {"pretrain", "questions", "splits", "activations", "trace"} & set(rerun)


def test_variants_of_a_cell_extract_nothing_again_and_transfer_fits_nothing(snakemake, tmp_path):
    run = snakemake(config="variants")
    assert run.returncode == 0, run.stderr
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    made = Counter(call.split()[0] for call in calls)
    expected = {"activations": 2, "trace": 3, "check-judges": 2, "sweep": 4, "generate": 8}
    assert {name: made[name] for name in expected} == expected
    study = load_files([CONFIGS["variants"]])
    from_source = job(study, "generate", "base/other/seed1-from-base.own")
    assert from_source.inputs["splits"] == ["results/base/own/seed1/splits.json"]
    assert from_source.inputs["bundles"] == ["results/base/own/seed1/bundles"]
    # no sweep asks the judge of a dataset that is only transferred to
    assert from_source.inputs["judge"] == ["results/questions/other.judge.json"]
    to_sibling = job(study, "generate", "chat/own/seed1-from-base.own")
    assert to_sibling.inputs["trace"] == ["results/traces/chat/own.parquet"]
    assert to_sibling.inputs["bundles"] == ["results/base/own/seed1/bundles"]
    settings = to_sibling.paths.provenance["settings"]
    assert settings["transfer"] == {"dataset": False, "model": True}
    few = job(study, "splits", "base/own/seed0-train20").paths.provenance["settings"]
    assert few["split"]["train_share"] == 0.2
    shown = {path.stem for path in (tmp_path / "results" / "tables").iterdir()}
    assert shown == {"main", "transfer", "tuning"}
    assert (tmp_path / "results" / "figures" / "data_efficiency.csv").exists()


def test_a_killed_shard_runs_again_alone_and_gathering_needs_no_gpu(snakemake, tmp_path):
    target = "results/large/own/seed0/sweep.parquet"
    made = snakemake("--keep-going", target, config="sharded")
    assert made.returncode == 0, made.stderr
    for path in (target, "results/large/own/seed0/parts/2of3/sweep.parquet"):
        (tmp_path / path).unlink()
    again = snakemake("-n", target, config="sharded")
    assert counts(again) == {"sweep": 1, "sweep_part": 1}
    told = again.stdout + again.stderr
    blocks = dict(re.findall(r"^rule (\w+):\n((?: {4}.*\n)+)", told, re.M))
    assert "part=2of3" in blocks["sweep_part"]
    assert "gpu=1" in blocks["sweep_part"]
    assert "gpu=0" in blocks["sweep"]
    assert all("slurm_partition=a100" in block for block in blocks.values())


def test_the_study_is_written_once_and_a_job_refuses_another(finished, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    path = folder / "results" / "study.json"
    written = path.read_bytes()
    run = workflow_in(folder)
    assert run("--forcerun", "results/report.html", "results/report.html").returncode == 0
    assert path.read_bytes() == written
    changed = tmp_path / "changed.yaml"
    above = {"decoding": {"tokens": 7}}
    changed.write_text(yaml.safe_dump(merge(read_mapping(CONFIGS["world"]), above)))
    assert run("-n", config=changed).returncode == 0
    assert path.read_bytes() == written
    call = next(
        line.split()
        for line in (folder / "calls.txt").read_text().splitlines()
        if line.startswith("tune ")
    )
    write_study(load_files([changed]), path)
    refused = subprocess.run(
        [Path(SNAKEMAKE).with_name("fasb"), "run", *call],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert refused.stderr == (
        "results/study.json: tune tiny/tiny/seed0 depends on other settings, code or local files "
        "than when the workflow started; let it end, and start it again\n"
    )


def test_a_rejected_world_stops_the_study_before_test_questions_and_keeps_its_figures(
    snakemake, tmp_path
):
    run = snakemake(REJECT="1")
    assert run.returncode == 1
    assert "tiny: rejected, best head 60 below 72; see results/health/tiny.json" in run.stderr
    assert (tmp_path / "results" / "health" / "tiny.json").exists()
    assert not re.search(r"^(sweep|generate|score) ", (tmp_path / "calls.txt").read_text(), re.M)
    assert counts(snakemake("-n"))["generate"] == 1
    assert "pretrain" not in counts(snakemake("-n"))


def test_jobs_that_load_one_model_can_be_submitted_together(snakemake):
    kinds = ("generate", "score")
    groups = ["--groups", *(f"{rule}=test-{{model}}" for rule in kinds)]
    groups += ["--group-components", "test-{model}=3"]
    # the executor, whose profile would need a cluster for nothing: a dry run submits no job
    run = snakemake("-n", "--executor", "slurm", "--jobs", "9", *groups, config="hub")
    assert run.returncode == 0, run.stderr
    told = re.split(r"^.*Group job (\S+) \(.*\n", run.stdout + run.stderr, flags=re.M)
    sizes = Counter()
    for name, after in zip(told[1::2], told[2::2]):
        (jobs,) = re.findall(r"\A(?:(?: {4}.*)?\n)*", after)
        rules = re.findall(r"^ {4}rule (\w+):", jobs, re.M)
        assert set(rules) <= set(kinds)
        assert {f"test-{model}" for model in re.findall(r"model=([\w.-]+)", jobs)} == {name}
        sizes[name, len(rules)] += 1
    both = ("test-llama2-7b-chat", "test-small")
    assert sizes == {(name, size): 1 for name in both for size in (3, 1)}


def test_gpu_jobs_are_those_of_the_model_that_is_on_a_gpu(snakemake):
    run = snakemake("-n", config="hub")
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", run.stdout + run.stderr, re.M)
    asking = {
        (rule, re.search(r"model=([\w-]+)", body)[1]) for rule, body in blocks if "gpu=1" in body
    }
    on_gpu = ("activations", "sweep", "generate", "score")
    assert asking == {(rule, "llama2-7b-chat") for rule in on_gpu}


def rules():
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for name, body in re.findall(r"^rule (\w+):\n((?:(?: {4}.*)?\n)+)", path.read_text(), re.M):
            yield pytest.param(body.rstrip(), id=name)


@pytest.mark.parametrize("body", list(rules()))
def test_every_rule_is_one_fasb_command_with_log_timing_threads_and_resources(body):
    assert len(body.splitlines()) < 25
    for keyword in ("output:", "params:", "log:", "benchmark:", "threads:", "resources:", "shell:"):
        assert f"\n    {keyword}" in f"\n{body}"
    assert re.search(r'shell:\n +"fasb run [\w-]+ ', body)
    assert "2> >(tee {log} >&2)" in body
    assert "run:" not in body
    assert "script:" not in body


@pytest.mark.parametrize(("limit", "stays"), [((100, 1), False), ((10, 60), True)])
def test_begin_takes_away_the_default_limit_of_starts_alone(limit, stays):
    text = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    (source,) = re.findall(r"^def begin\(.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    limiter = SimpleNamespace(max_jobs=limit[0], timespan=limit[1])
    workflow = SimpleNamespace(scheduler=SimpleNamespace(job_rate_limiter=limiter))
    written = []
    names = {"workflow": workflow, "jobs": SimpleNamespace(write_study=written.append)}
    exec(source, names)
    names["begin"]("the study")
    assert written == ["the study"]
    assert workflow.scheduler.job_rate_limiter is (limiter if stays else None)


def test_snakemake_still_has_the_limiter_that_begin_takes_away():
    """While its scheduler has one, it looks again every second (workflow/rules/common.smk)."""
    from snakemake.cli import get_argument_parser
    from snakemake.scheduling.job_scheduler import JobScheduler

    default = get_argument_parser().parse_args([]).max_jobs_per_timespan
    assert (default.max_jobs, default.timespan) == (100, 1)
    assert "self.job_rate_limiter is not None" in inspect.getsource(JobScheduler.schedule)


def test_the_snakefile_is_short():
    assert len((ROOT / "workflow" / "Snakefile").read_text().splitlines()) <= 50
    for name in ("common", "resources"):
        path = ROOT / "workflow" / "rules" / f"{name}.smk"
        assert len(path.read_text().splitlines()) <= 80
