"""What must hold after a storm: read from the database, the file of effects and the folders."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm_jobs import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orionflow.launchers.launchpad import ProjectLaunchPad

OVER = ("COMPLETED", "FIZZLED")


class Evidence:
    """Everything a storm left, read once.

    Parameters
    ----------
    pad
        The project's LaunchPad.
    effects
        The file jobs append to.
    fw_ids
        Fireworks that were submitted.
    """

    def __init__(self, pad: ProjectLaunchPad, effects: Path, fw_ids: list[int]) -> None:
        self.pad = pad
        self.submitted = set(fw_ids)
        self.fws: dict[int, dict[str, Any]] = {f["fw_id"]: f for f in pad.fireworks.find()}
        self.wfs = list(pad.workflows.find())
        self.launches = {la["launch_id"]: la for la in pad.launches.find()}
        self.lines = [json.loads(line) for line in effects.read_text().splitlines()]
        self.parents: dict[int, set[int]] = defaultdict(set)
        for wf in self.wfs:
            for parent, children in wf["links"].items():
                for child in children:
                    self.parents[int(child)].add(int(parent))

    def problems(self) -> list[str]:
        """Return what is wrong, one line each."""
        return [*self._states(), *self._launches(), *self._workflows(), *self._totals(),
                *self._documents(), *self._runs()]

    def states(self) -> Counter[str]:
        """Count fireworks by state."""
        return Counter(fw["state"] for fw in self.fws.values())

    def repeated(self) -> int:
        """Count runs that ended well and were repeated all the same.

        A kill between the last line of a job and the word that it has ended can't be told from
        one before that line.
        """
        ends = Counter(line["name"] for line in self.lines if line["what"] == "end")
        return sum(n - 1 for n in ends.values())

    def _states(self) -> Iterator[str]:
        if lost := self.submitted - set(self.fws):
            yield f"fireworks vanished: {sorted(lost)}"
        for fw_id, fw in self.fws.items():
            if fw["state"] in OVER:
                continue
            if fw["state"] == "WAITING" and self._behind_a_failure(fw_id):
                continue
            yield f"firework {fw_id} ({fw['name']}) stayed {fw['state']}"

    def _behind_a_failure(self, fw_id: int) -> bool:
        return any(self.fws[p]["state"] == "FIZZLED" or (
            self.fws[p]["state"] == "WAITING" and self._behind_a_failure(p))
            for p in self.parents[fw_id] if p in self.fws)

    def _launches(self) -> Iterator[str]:
        for fw_id, fw in self.fws.items():
            mine = [la for la in self.launches.values() if la["fw_id"] == fw_id]
            done = [la["launch_id"] for la in mine if la["state"] == "COMPLETED"]
            if fw["state"] == "COMPLETED" and (len(done) != 1 or done[0] not in fw["launches"]):
                yield f"firework {fw_id} is COMPLETED with completed launches {done}"
            if fw["state"] != "COMPLETED" and done:
                yield f"firework {fw_id} is {fw['state']} with completed launches {done}"
            if running := [la["launch_id"] for la in mine
                           if la["state"] in {"RUNNING", "RESERVED"}]:
                yield f"launches {running} of firework {fw_id} never ended"
            if fw["state"] == "FIZZLED" and not any(self._reason(i) for i in fw["launches"]):
                yield f"firework {fw_id} is FIZZLED without a reason"

    def _reason(self, launch_id: int) -> bool:
        launch = self.launches.get(launch_id) or {}
        data = (launch.get("action") or {}).get("stored_data") or {}
        return bool(data.get("_message") or data.get("_exception"))

    def _workflows(self) -> Iterator[str]:
        nodes = Counter(i for wf in self.wfs for i in wf["nodes"])
        if wrong := [i for i in self.fws if nodes[i] != 1]:
            yield f"fireworks {wrong[:20]} are not in exactly one workflow"
        for wf in self.wfs:
            name = f"workflow {min(wf['nodes'])} ({wf['name']})"
            if "locked" in wf:
                yield f"{name} is locked by {wf['locked']}"
            told = {int(k): v for k, v in wf["fw_states"].items()}
            true = {i: self.fws[i]["state"] for i in wf["nodes"] if i in self.fws}
            if told != true:
                wrong = {i: (told.get(i), true.get(i)) for i in true if told.get(i) != true[i]}
                yield f"{name} tells other states than its fireworks: {wrong}"
            if set(true.values()) == {"COMPLETED"} and wf["state"] != "COMPLETED":
                yield f"{name} is {wf['state']} though all of it is COMPLETED"

    def _totals(self) -> Iterator[str]:
        for fw in self.fws.values():
            if not fw["name"].endswith(".total"):
                continue
            ended = sum(self.fws[p]["state"] == "COMPLETED" for p in self.parents[fw["fw_id"]])
            total = fw["spec"].get("total", 0)
            if total != ended:
                yield f"{fw['name']} counts {total} of {ended} parents that ended"
            if fw["state"] == "COMPLETED" and total != PARTS:
                yield f"{fw['name']} ran with {total} of {PARTS} parents"

    def _documents(self) -> Iterator[str]:
        found = Counter((d["uuid"], d["index"]) for d in self.pad.db.outputs.find(
            {}, {"uuid": 1, "index": 1}))
        for fw in self.fws.values():
            stored = next((t["job"] for t in fw["spec"].get("_tasks", []) if "job" in t), None)
            if stored is None or fw["state"] != "COMPLETED":
                continue
            count = found[stored["uuid"], stored["index"]]
            if count != 1:
                yield f"{fw['name']} (firework {fw['fw_id']}) has {count} result documents"

    def _runs(self) -> Iterator[str]:
        """Each COMPLETED job ended at least once, and no two runs of one job at the same time."""
        ended = {line["name"] for line in self.lines if line["what"] == "end"}
        names = {line["name"] for line in self.lines}
        for fw in self.fws.values():
            name = _name_of(fw)
            if fw["state"] == "COMPLETED" and name is not None and name not in ended:
                yield f"{fw['name']} is COMPLETED and never ended"
        for name in names:
            open_run: dict[str, Any] | None = None
            for line in (x for x in self.lines if x["name"] == name):
                if line["what"] == "begin":
                    open_run = line
                elif open_run is None or open_run["pid"] != line["pid"]:
                    yield (f"{name}: process {line['pid']} ended its run after process "
                           f"{open_run and open_run['pid']} had begun one")
        for fw in self.fws.values():
            if fw["state"] == "COMPLETED" and (_name_of(fw) or "").startswith("long-"):
                (launch,) = [self.launches[i] for i in fw["launches"]]
                done = (Path(launch["launch_dir"]) / "progress").read_text()
                if len(done) < int(_arguments(fw)["count"]):
                    yield f"{fw['name']}: {len(done)} steps in {launch['launch_dir']}"


def _arguments(fw: dict[str, Any]) -> dict[str, Any]:
    task = next(iter(fw["spec"].get("_tasks") or [{}]))
    if "job" not in task:
        return dict(task)
    names = {"link": ("before", "name", "effects"), "grow": ("name", "effects"),
             "steps": ("count", "name", "effects"), "wrong": ("name", "effects")}
    function = task["job"]["function"]
    function = function.get("@callable") if isinstance(function, dict) else None
    return dict(zip(names.get(str(function), ()), task["job"]["function_args"], strict=False))


def _name_of(fw: dict[str, Any]) -> str | None:
    name = _arguments(fw).get("name")
    return name if isinstance(name, str) else None
