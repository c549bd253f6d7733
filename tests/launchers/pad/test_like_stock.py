"""The same random workflows, with the same random actions, run by stock FireWorks and by us."""

import random
from copy import deepcopy

import pytest
from fireworks import FWAction, LaunchPad, Workflow
from pad_tools import WORKER, noop, problems

from orionflow.launchers.pad import OrionLaunchPad, Outcome


def random_workflow(rng, size):
    fws = [noop(f"n{i}", start=i) for i in range(size)]
    if rng.random() < 0.3:
        rng.choice(fws).spec["_allow_fizzled_parents"] = True
    links = {fw: [] for fw in fws}
    for i, fw in enumerate(fws[1:], start=1):
        for parent in rng.sample(fws[:i], k=min(i, rng.choice([0, 1, 1, 1, 2, 3]))):
            links[parent].append(fw)
    return Workflow(fws, links, name="random")


def small_workflow(rng):
    return random_workflow(rng, rng.randint(1, 3)) if rng.random() < 0.7 else noop("single")


def random_action(rng, fw, others):  # noqa: PLR0911  one for each kind
    kind = rng.random()
    if kind < 0.35:
        return FWAction()
    if kind < 0.45:
        return FWAction(update_spec={f"u{fw.fw_id}": {"a": [1, 2]}, "shared": fw.fw_id})
    if kind < 0.55:
        return FWAction(mod_spec=[{"_push_all": {"_job_info": [fw.fw_id]}},
                                  {"_set": {"_files_prev->x": f"/f{fw.fw_id}"}}])
    if kind < 0.62:
        return FWAction(update_spec={"far": fw.fw_id}, mod_spec=[{"_inc": {"count": 1}}],
                        propagate=True)
    if kind < 0.74:
        return FWAction(additions=[small_workflow(rng)])
    if kind < 0.86:
        return FWAction(detours=[small_workflow(rng)], stored_data={"x": 1})
    if kind < 0.92:
        running = [i for i in others if i != fw.fw_id][:1]
        return FWAction(append_wfs=[{"workflow": small_workflow(rng), "parents": running,
                                     "detour": False}], update_spec={"pulled": fw.fw_id})
    if kind < 0.96:
        return FWAction(defuse_children=True)
    return FWAction(defuse_workflow=True)


def drive(pad, seed, *, grouped):  # noqa: C901, PLR0912  what users and jobs may do
    """Run everything, lowest READY id first; now and then fizzle, rerun, pause, defuse."""
    rng = random.Random(seed)  # noqa: S311  it must be repeatable
    pad.add_wf(random_workflow(rng, rng.randint(2, 9)))
    for _ in range(60):
        ready = sorted(pad.get_fw_ids({"state": "READY"}))
        if not ready:
            break
        ids = ready[:rng.choice([1, 1, 2])]
        claimed = [pad.checkout_fw(WORKER, "/nowhere", fw_id=i) for i in ids]
        everything = sorted(pad.get_fw_ids())
        ends = []
        for fw, launch_id in claimed:
            if rng.random() < 0.12:
                ends.append((launch_id, FWAction(stored_data={"_message": "no"}), "FIZZLED"))
            else:
                ends.append((launch_id, random_action(rng, fw, everything), "COMPLETED"))
        for launch_id, action, state in ends:
            # One may have defused the workflow; what the other then reports is tested elsewhere.
            fw = pad.fireworks.find_one({"launches": launch_id})
            if fw is None or fw["state"] != "RUNNING":
                continue
            if grouped:
                assert not pad.complete_launches([Outcome(launch_id, state, action)]).errors
            else:
                pad.complete_launch(launch_id, action, state)
        dice = rng.random()
        if dice < 0.06:
            pad.rerun_fw(rng.choice(sorted(pad.get_fw_ids())))
        elif dice < 0.10:
            pad.defuse_fw(rng.choice(sorted(pad.get_fw_ids({"state": {"$ne": "COMPLETED"}}))
                                     or everything))
        elif dice < 0.14:
            pad.pause_wf(everything[0])
            for i in sorted(pad.get_fw_ids({"state": "PAUSED"})):
                pad.resume_fw(i)
        elif dice < 0.16:
            pad.reignite_wf(everything[0])


def snapshot(pad):
    """What both must agree upon: everything but times, and ids of launches."""
    fws = {}
    for fw in pad.fireworks.find():
        fws[fw["fw_id"]] = {
            "state": fw["state"], "name": fw["name"], "spec": without_times(fw["spec"]),
            "launches": len(fw["launches"]), "archived": len(fw["archived_launches"])}
    wf = pad.workflows.find_one()
    return {
        "fireworks": fws, "state": wf["state"], "nodes": sorted(wf["nodes"]),
        "links": {k: sorted(v) for k, v in wf["links"].items()},
        "parents": {k: sorted(v) for k, v in wf["parent_links"].items()},
        "fw_states": wf["fw_states"],
        "launches": sorted((d["fw_id"], d["state"]) for d in pad.launches.find()),
    }


def without_times(value):
    """Drop times and object ids, which differ, from fireworks nested in ``_fizzled_parents``."""
    value = deepcopy(value)
    for parent in value.get("_fizzled_parents", []):
        for key in ("updated_on", "created_on", "launches", "archived_launches"):
            parent.pop(key, None)
    return value


def fresh(cls, access, name):
    pad = cls(host=access.host, port=access.port, name=f"{access.name}_{name}",
              username=access.username, password=access.password,
              authsource=access.auth_source or access.name, strm_lvl="CRITICAL")
    pad.reset("", require_password=False)
    return pad


@pytest.mark.needs_mongod
@pytest.mark.parametrize("seed", range(6))
def test_random_workflow_ends_as_with_stock_fireworks(database, seed):
    stock, ours = fresh(LaunchPad, database, "s"), fresh(OrionLaunchPad, database, "o")
    try:
        drive(stock, seed, grouped=False)
        drive(ours, seed, grouped=seed % 2 == 1)
        assert snapshot(ours) == snapshot(stock)
        assert not [p for p in problems(ours) if "lock" in p or "nodes" in p]
    finally:
        for pad in (stock, ours):
            pad.connection.drop_database(pad.name)
            pad.connection.close()
