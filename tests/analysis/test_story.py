"""What `show` says of jobs that ran, were healed, failed, wait, or can't be read."""

import json
from pathlib import Path

import pytest
from fireworks import Firework, LaunchPad, ScriptTask, Workflow

from orionflow.analysis.story import describe, folder_story, job_story
from orionflow.analysis.tables import jobs, results
from orionflow.errors import InputError

CODES = pytest.mark.needs_code("pw.x", "lmp")
pytestmark = pytest.mark.needs_mongod


@CODES
def test_healed_job_tells_what_failed_and_what_was_changed(finished_campaign: Path) -> None:
    (fw_id,) = results(code="pw.x", project=finished_campaign)["fw_id"]
    story = job_story(int(fw_id), finished_campaign)
    assert story.state == "COMPLETED"
    assert story.run["attempts"] == 2
    (correction,) = story.corrections
    text = describe(correction)
    assert "QE_SCF_NOT_CONVERGED" in text
    assert "electron_maxstep: 3 ->" in text
    assert "convergence NOT achieved after 3 iterations" in text
    assert story.uuid in story.next


@CODES
def test_failed_job_tells_error_folder_and_the_next_step(finished_campaign: Path) -> None:
    (fw_id,) = jobs(state="FIZZLED", project=finished_campaign)["fw_id"]
    story = job_story(int(fw_id), finished_campaign)
    assert story.state == "FIZZLED"
    assert "nonsense" in story.error
    assert story.run["command"][-1]  # known from the folder: a failed job has no document
    assert f"lpad rerun_fws -i {fw_id}" in story.next


@CODES
def test_folder_alone_tells_the_same_without_a_database(finished_campaign: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = jobs(state="FIZZLED", project=finished_campaign).to_dict("records")
    monkeypatch.setenv("ORIONFLOW_PROJECT", "/nowhere")
    story = folder_story(Path(row["folder"]))
    assert (story.fw_id, story.campaign, story.state) == (row["fw_id"], "small", "failed")
    assert "nonsense" in story.error


@CODES
def test_story_can_be_printed_as_json(finished_campaign: Path) -> None:
    for fw_id in jobs(project=finished_campaign)["fw_id"]:
        json.dumps(job_story(int(fw_id), finished_campaign).to_dict())


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no orionflow_run\.json"):
        folder_story(tmp_path)


def test_unknown_firework_names_the_ids_there_are(project: Path, launchpad: LaunchPad) -> None:
    with pytest.raises(InputError, match="no firework 7") as caught:
        job_story(7)
    assert "nothing has been submitted" in caught.value.hint
    launchpad.add_wf(Workflow([Firework(ScriptTask.from_str("true"))]))
    with pytest.raises(InputError) as caught:
        job_story(7)
    assert "from 1 to 1" in caught.value.hint


def test_waiting_ready_and_paused_jobs_tell_what_they_wait_for(project: Path,
                                                               launchpad: LaunchPad) -> None:
    first = Firework(ScriptTask.from_str("true"))
    second = Firework(ScriptTask.from_str("true"), parents=[first])
    stories = [job_story(i) for i in launchpad.add_wf(Workflow([first, second])).values()]
    (ready,) = [s for s in stories if s.state == "READY"]
    (waiting,) = [s for s in stories if s.state == "WAITING"]
    assert waiting.next == f"it waits for {ready.fw_id} READY"
    assert "orionflow launch" in ready.next
    launchpad.pause_fw(ready.fw_id)
    assert job_story(ready.fw_id).next == (
        f"orionflow resume -i {ready.fw_id} makes it ready again")
    launchpad.defuse_fw(ready.fw_id)
    assert "orionflow resume --cancelled" in job_story(ready.fw_id).next


def test_job_that_can_t_be_decoded_tells_why(project: Path, launchpad: LaunchPad) -> None:
    # FireWorks fizzles it while claiming, without a launch, and leaves the trace in its spec.
    (fw_id,) = launchpad.add_wf(Workflow([Firework(ScriptTask.from_str("true"))])).values()
    launchpad.fireworks.update_one({"fw_id": fw_id}, {"$set": {"spec._tasks": [
        {"_fw_name": "{{no_such_module.Task}}"}]}})
    assert launchpad._get_a_fw_to_run() is None
    story = job_story(fw_id)
    assert story.state == "FIZZLED"
    assert "no_such_module" in story.error
    (row,) = jobs().to_dict("records")
    assert row["error"] == story.error
