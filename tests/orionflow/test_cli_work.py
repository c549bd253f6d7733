"""`init`, `recipes`, `submit`, `launch`, `recover`, `cron` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_jobs import command, run

from orionflow.launchers.deaths import processes_of

SI = "Si diamond 5.43"


def test_recipes_are_listed_and_described():
    code, out, _ = run("orionflow", "recipes")
    assert code == 0
    assert "qe.relax" in out
    code, out, _ = run("orionflow", "recipes", "qe.static", "-o", "json")
    assert "ecutwfc" in json.loads(out)["properties"]
    code, _, err = run("orionflow", "recipes", "qe.statik")
    assert code == 1
    assert "did you mean 'qe.static'" in err


def test_init_makes_a_project_and_says_what_is_next(tmp_path):
    folder = tmp_path / "new pro'ject"
    code, out, err = run("orionflow", "init", folder)
    assert code == 0
    assert (folder / "orionflow.yaml").is_file()
    assert "FW_config.yaml" in out
    assert "orionflow db start" in err


def test_init_with_an_unknown_machine_lists_the_known(tmp_path):
    code, _, err = run("orionflow", "init", tmp_path / "p", "--machine", "privat-slurm")
    assert code == 1
    assert "did you mean 'private-slurm'" in err


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x")
@pytest.mark.parametrize(("words", "named", "fix"), [
    (["qe.statik", SI], "no recipe 'qe.statik'", "did you mean 'qe.static'"),
    (["qe.static", SI, "-p", "ecutwcf=30"], "'ecutwcf'", "ecutwfc"),
    (["qe.static", SI, "-p", "ecutwfc"], "has no `=`", "name=value"),
    (["qe.static", SI, "--walltime", "-5"], "walltime = -5", "HH:MM:SS"),
    (["qe.static", SI, "--ranks", "9999"], "ranks x threads = 9999", "or fewer"),
    (["qe.static", "Og fcc 6.0"], "Og", ""),
    (["qe.static", "nowhere.cif"], "nowhere.cif", ""),
    (["qe.static", SI, SI, "--key", "k"], "given twice", "leave --key out"),
    # The second of two structures is wrong: the first is not stored either.
    (["qe.static", SI, "nowhere.cif"], "nowhere.cif", ""),
])
def test_bad_requests_are_refused_with_the_fix_and_nothing_is_stored(words, named, fix, pad):
    code, out, err = run("orionflow", "submit", *words)
    assert code == 1, out
    assert named in err
    assert fix in err
    assert "Traceback" not in err
    assert pad.fireworks.count_documents({}) == 0


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x")
def test_submit_with_a_key_is_one_workflow_and_says_so(pad):
    words = ("orionflow", "submit", "qe.static", SI, "-c", "first", "-k", "mine", "-t",
             "00:10:00", "-n", "2", "--tag", "x", "-p", "ecutwfc=20")
    code, out, err = run(*words, "--dry-run")
    assert code == 0, err
    assert "1 job(s) to begin with" in out
    assert pad.fireworks.count_documents({}) == 0
    answers = [json.loads(run(*words, "-o", "json")[1])[0] for _ in range(2)]
    assert [a["created"] for a in answers] == [True, False]
    assert answers[0]["fw_ids"] == answers[1]["fw_ids"]
    spec = pad.fireworks.find_one()["spec"]
    assert spec["resources"] == {"nodes": 1, "ranks": 2, "threads": 1, "walltime": 600}
    assert (spec["campaign"], spec["tags"]) == ("first", ["x"])
    code, _, err = run(*words[:-1], "ecutwfc=25")
    assert code == 1
    assert "key 'mine' belongs to another request" in err


@pytest.mark.needs_mongod
@pytest.mark.needs_code("pw.x")
def test_killed_launcher_in_the_middle_of_pw_x_leaves_no_rank_and_the_job_completes_once(
        pad, wait_until):
    """A real pw.x on two ranks; SIGKILL to its launcher; then cron's recovery and a launch."""
    code, _, err = run("orionflow", "submit", "qe.static", "Si diamond 5.43 cubic", "-n", "2",
                       "-p", "k_spacing=0.4")
    assert code == 0, err
    process = command("orionflow", "launch")

    def ranks():
        launch = pad.launches.find_one()
        if launch is None:
            return []
        from orionflow.launchers.identity import LauncherIdentity

        owner = LauncherIdentity.from_dict(launch["fworker"]["env"]["orionflow"])
        return [p for p in processes_of(owner)
                if Path(f"/proc/{p.pid}/comm").read_text().strip() == "pw.x"]

    wait_until(lambda: len(ranks()) == 2, timeout=90)
    mine = ranks()
    process.kill()
    process.communicate()
    wait_until(lambda: not any(p.alive() for p in mine), timeout=10)
    code, out, _ = run("orionflow", "recover")
    assert "put back: firework 1" in out
    code, out, err = run("orionflow", "launch", timeout=300)
    assert "1 completed" in out, err
    fw = pad.fireworks.find_one()
    assert fw["state"] == "COMPLETED"
    assert (len(fw["launches"]), len(fw["archived_launches"])) == (1, 1)
    assert len({launch["launch_dir"] for launch in pad.launches.find()}) == 1


@pytest.mark.needs_mongod
def test_recover_and_cron_status_say_that_all_is_well(project):
    assert run("orionflow", "recover") == (0, "nothing to recover\n", "")
    assert run("orionflow", "cron", "--status")[1] == "cron has never run in this project\n"
    run("orionflow", "cron")
    assert "last run" in run("orionflow", "cron", "--status")[1]


def test_commands_outside_a_project_say_how_to_make_one(tmp_path):
    for words in (("launch",), ("recover",), ("cron",), ("submit", "qe.static", SI)):
        code, _, err = run("orionflow", *words, cwd=tmp_path)
        assert code == 1
        assert "orionflow init" in err
