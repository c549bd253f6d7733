"""What FireWorks' documents say of a workflow: its state, its cost, and what its failures mean."""

import pytest

from orionflow.analysis.outcomes import _UNCONVERGED, Fate, fates, judge
from orionflow.launchers.failures import CATALOGUE
from orionflow.launchers.jobs import blame_surroundings, failed_action
from orionflow.launchers.spending import launch_seconds


def fizzled(details=None, trace="", **stored):
    exception = {"_exception": {"_stacktrace": trace, "_details": details}} if details or trace \
        else {}
    return judge({"fw_id": 1, "name": "job", "spec": {}},
                 {"launch_id": 7, "action": {"stored_data": {**exception, **stored}}})


@pytest.mark.parametrize(("failure_id", "kind"), [
    ("QE_KILLED", "infrastructure"), ("QE_WALLTIME", "infrastructure"),
    ("LAMMPS_DISK_FULL", "infrastructure"), ("QE_SCF_NOT_CONVERGED", "unconverged"),
    ("LAMMPS_MIN_STEPS", "unconverged"), ("QE_PSEUDO", "hopeless"), ("LAMMPS_INPUT_ERROR",
                                                                    "hopeless")])
def test_catalogue_tells_what_a_failure_means(failure_id, kind):
    found = fizzled({"failure_id": failure_id, "message": f"{failure_id}: so it went (folder /a/b)",
                     "transient": CATALOGUE[failure_id].transient})
    assert found.kind == kind
    assert found.describe() == f"{kind}: {failure_id}: so it went"
    assert found.launch_id == 7


def test_failures_without_a_name_are_told_apart():
    assert fizzled({"message": "MongoDB", "transient": True}).kind == "infrastructure"
    assert fizzled({"message": "bad", "transient": False}).kind == "hopeless"
    assert fizzled(trace="Traceback\nKeyError: 'x'").describe() == "hopeless: KeyError: 'x'"
    assert fizzled(_message="claimed, but never started").kind == "infrastructure"
    assert "lost" in fizzled().describe()
    spec = {"_exception_details": {"_stacktrace": "ImportError: a"}}
    undecoded = judge({"fw_id": 1, "spec": spec}, {})
    assert (undecoded.kind, undecoded.launch_id) == ("hopeless", None)


def test_a_job_its_launcher_gave_up_is_no_word_on_its_input():
    killed = failed_action("its process was ended by SIGKILL")
    assert judge({"fw_id": 1, "spec": {}}, {"action": killed}).kind == "hopeless"
    told = judge({"fw_id": 1, "spec": {}}, {
        "action": blame_surroundings(killed, "its process was ended by SIGKILL")})
    assert told.kind == "infrastructure"
    assert "SIGKILL" in told.message
    own = {"stored_data": {"_exception": {"_details": {"message": "x", "transient": False}}}}
    assert blame_surroundings(own, "y") == own


def test_what_did_not_converge_is_in_the_catalogue_and_needs_no_second_try():
    assert set(CATALOGUE) >= _UNCONVERGED
    assert not any(CATALOGUE[i].transient for i in _UNCONVERGED)


@pytest.mark.parametrize(("states", "state"), [
    (["READY", "WAITING"], "READY"), (["COMPLETED", "READY"], "RUNNING"),
    (["FIZZLED", "RUNNING"], "RUNNING"), (["FIZZLED", "WAITING"], "FIZZLED"),
    (["DEFUSED", "COMPLETED"], "DEFUSED"), (["ARCHIVED"], "DEFUSED"), (["PAUSED"], "PAUSED"),
    (["COMPLETED", "COMPLETED"], "COMPLETED"), (["WAITING"], "WAITING")])
def test_state_of_a_workflow_follows_from_its_jobs(states, state):
    assert Fate(dict(enumerate(states))).state == state


def test_time_of_a_launch_is_known_however_it_ended():
    assert launch_seconds({"runtime_secs": 3.5}) == 3.5
    running = {"state": "RUNNING", "created_on": "2026-01-01T00:00:00",
               "updated_on": "2026-01-01T00:01:00"}
    assert launch_seconds({"state_history": [running]}) == 60
    over = {"state": "FIZZLED", "created_on": "2026-01-01T00:02:00+00:00"}
    assert launch_seconds({"state_history": [{"state": "RESERVED"}, running, over]}) == 120
    assert launch_seconds({"state_history": [{"state": "RESERVED"}]}) == 0
    assert launch_seconds({}) == 0


class Growing:
    """Stands for a database in which a job ends, and adds another, between two questions."""

    def __init__(self):
        self.workflows = self.fireworks = self.launches = self
        self.nodes, self.states = [1], {1: "RUNNING"}

    def find(self, query, _fields):
        if "metadata.submit_key" in query:
            return [{"nodes": list(self.nodes), "metadata": {"submit_key": "alloy:2"}}]
        if "launch_id" in query or not isinstance(wanted := query["fw_id"]["$in"], list):
            return []
        if _fields.get("name"):
            self.nodes, self.states = [1, 2], {1: "COMPLETED", 2: "READY"}
            return [{"fw_id": i, "state": self.states[i], "spec": {}} for i in wanted]
        return []


def test_a_workflow_that_grew_meanwhile_is_not_over():
    assert fates(Growing(), ["alloy:2"])["alloy:2"].states == {1: "COMPLETED", 2: "READY"}
