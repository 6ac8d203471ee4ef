"""The workflow's shape: which jobs a config needs, what reruns, what a rejected world stops. No model is run."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fasb.study import cells
from fasb.study.config import load_files, load_study, merge, read_mapping

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIGS = {path.stem: path for path in sorted((HERE / "configs").glob("*.yaml"))}
SNAKEMAKE = shutil.which("snakemake", path=str(Path(sys.executable).parent)) or "snakemake"


def workflow_in(folder):
    """Runs the workflow in a folder with `fake_fasb.py` as the `fasb` command."""
    fake = folder / "bin" / "fasb"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f"#!{sys.executable}\n" + (HERE / "fake_fasb.py").read_text())
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(fake.parent), str(Path(SNAKEMAKE).parent), os.environ["PATH"]])

    def run(*arguments, config="world", **environment):
        command = [
            SNAKEMAKE,
            "--snakefile",
            ROOT / "workflow" / "Snakefile",
            "--directory",
            folder,
            "--cores",
            "2",
        ]
        command += ["--configfile", config if isinstance(config, Path) else CONFIGS[config]]
        return subprocess.run(
            [*map(str, command), *arguments],
            cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True,
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
        else {k: int(n) for k, n in re.findall(r"^(\w+) +(\d+)$", table[1], re.M)}
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_the_dag_has_the_jobs_that_fasb_plan_counts(snakemake, config):
    study = load_files([CONFIGS[config]])
    assert counts(snakemake("-n", config=config)) == {**cells.jobs(study), "all": 1}


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
    assert counts(run) == {**cells.jobs(study), "all": 1}


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


def test_a_second_judge_adds_its_verdicts_and_one_table(snakemake, tmp_path):
    above = {"datasets": {"tiny": {"second_judge": {"use": "light", "job": {"gpu": 1}}}}}
    config = tmp_path / "two.yaml"
    config.write_text(yaml.safe_dump(merge(read_mapping(CONFIGS["world"]), above)))
    run = snakemake("-n", config=config)
    study = load_files([config])
    assert counts(run) == {**cells.jobs(study), "all": 1}
    one = cells.jobs(load_files([CONFIGS["world"]]))
    assert cells.jobs(study) - one == {"judge": 1, "agreement": 1}
    assert "results/tables/judges.csv" in cells.report_files(study)
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
    assert timed == sorted(cells.jobs(study))
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
    calls = [call.split() for call in (tmp_path / "calls.txt").read_text().splitlines()]
    of = {
        name: [call for call in calls if call[0] == name]
        for name in ("activations", "trace", "sweep", "generate")
    }
    assert {name: len(made) for name, made in of.items()} == {
        "activations": 2,
        "trace": 2,
        "sweep": 4,
        "generate": 8,
    }
    from_source = [
        call
        for call in of["generate"]
        if "results/base/other/seed1-from-base.own/generations.parquet" in call
    ]
    assert [word for word in from_source[0] if "seed" in word][:3] == [
        f"results/base/own/seed1/{file}" for file in ("splits.json", "tuned.json", "bundles")
    ]
    to_sibling = [
        call
        for call in of["generate"]
        if "results/chat/own/seed1-from-base.own/generations.parquet" in call
    ]
    assert [word for word in to_sibling[0] if word.startswith("results/traces/chat/own/")]
    assert [word for word in to_sibling[0] if word.startswith("results/base/own/seed1/")][
        -1
    ].endswith("/bundles")
    assert '"transfer": {"dataset": false, "model": true}' in " ".join(to_sibling[0])
    (few,) = [
        call
        for call in calls
        if "results/base/own/seed0-train20/splits.json" in call and call[0] == "splits"
    ]
    assert '"train_share": 0.2' in " ".join(few)
    shown = {path.stem for path in (tmp_path / "results" / "tables").iterdir()}
    assert shown == {"main", "transfer"}
    assert (tmp_path / "results" / "figures" / "data_efficiency.csv").exists()


def test_a_rejected_world_stops_the_study_before_test_questions_and_keeps_its_figures(
    snakemake, tmp_path
):
    run = snakemake(REJECT="1")
    assert run.returncode == 1
    assert "tiny: rejected, best head 60 below 72; see results/health/tiny.json" in run.stderr
    assert (tmp_path / "results" / "health" / "tiny.json").exists()
    assert not re.search(r"^(generate|score) ", (tmp_path / "calls.txt").read_text(), re.M)
    assert counts(snakemake("-n"))["generate"] == 1
    assert "tune" not in counts(snakemake("-n"))


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
    assert re.search(r'shell:\n +"fasb [\w-]+ ', body)
    assert "2> >(tee {log} >&2)" in body
    assert "run:" not in body
    assert "script:" not in body


def test_the_snakefile_is_short():
    assert len((ROOT / "workflow" / "Snakefile").read_text().splitlines()) <= 50
    assert len((ROOT / "workflow" / "rules" / "common.smk").read_text().splitlines()) <= 80
