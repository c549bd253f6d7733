"""What the tests of the LaunchPad share: jobs, a driver, and the truth about a database."""

from fireworks import FiretaskBase, Firework, FWAction, FWorker, explicit_serialize

WORKER = FWorker("test")


# Not one of FireWorks' own tasks: it looks for those by importing all of fireworks.user_objects,
# and the tests in there use markers that pytest's --strict-markers refuses.
@explicit_serialize
class Nothing(FiretaskBase):
    def run_task(self, fw_spec):  # noqa: ARG002  FireWorks' signature
        return FWAction()


def noop(name="noop", **spec):
    return Firework([Nothing()], name=name, spec=spec)


def run_all(pad, worker=WORKER, act=None, limit=10_000):
    """Run what is READY until nothing is, as stock Rocket would; returns the ids in order."""
    ran = []
    while len(ran) < limit:
        fw, launch_id = pad.checkout_fw(worker, "/nowhere")
        if fw is None:
            return ran
        ran.append(fw.fw_id)
        pad.complete_launch(launch_id, act(fw) if act else FWAction(), "COMPLETED")
    return ran


def states(pad):
    return {fw["fw_id"]: fw["state"] for fw in pad.fireworks.find()}


def problems(pad):  # noqa: C901, PLR0912  one list of all rules
    """Everything in a database at rest that contradicts FireWorks' rules, as readable lines."""
    found = []
    fws = {fw["fw_id"]: fw for fw in pad.fireworks.find()}
    launches = {d["launch_id"]: d for d in pad.launches.find()}
    in_workflows = set()
    for wf in pad.workflows.find():
        nodes = set(wf["nodes"])
        in_workflows |= nodes
        links = {int(k): v for k, v in wf["links"].items()}
        parents = {}
        for parent, kids in links.items():
            for kid in kids:
                parents.setdefault(kid, []).append(parent)
        stored = {int(k): sorted(v) for k, v in wf["parent_links"].items()}
        if stored != {k: sorted(v) for k, v in parents.items()}:
            found.append(f"parent_links of {min(nodes)}")
        if set(links) != nodes or {int(k) for k in wf["fw_states"]} != nodes:
            found.append(f"nodes of {min(nodes)}")
        if len(wf["nodes"]) != len(nodes):
            found.append(f"nodes twice in {min(nodes)}")
        if "locked" in wf:
            found.append(f"lock on {min(nodes)}")
        for node in nodes:
            fw = fws.get(node)
            if fw is None:
                found.append(f"{node}: no firework")
                continue
            if wf["fw_states"][str(node)] != fw["state"]:
                found.append(f"{node}: {fw['state']}, its workflow says "
                             f"{wf['fw_states'][str(node)]}")
            done = {"COMPLETED"} | ({"FIZZLED"} if fw["spec"].get("_allow_fizzled_parents")
                                    else set())
            free = all(fws[p]["state"] in done for p in parents.get(node, []) if p in fws)
            if free == (fw["state"] == "WAITING"):
                found.append(f"{node}: {fw['state']}, parents "
                             f"{[fws[p]['state'] for p in parents.get(node, [])]}")
            own = [launches[i]["state"] for i in fw["launches"] if i in launches]
            if fw["state"] in {"COMPLETED", "FIZZLED", "RUNNING"} and fw["state"] not in own:
                found.append(f"{node}: {fw['state']}, launches {own}")
            if own.count("COMPLETED") > 1:
                found.append(f"{node}: completed {own.count('COMPLETED')} times")
    found += [f"{i}: in no workflow" for i, fw in fws.items()
              if i not in in_workflows and fw["state"] != "WAITING"]
    return found
