"""Plugin for pytest: FireWorks' own tests, with our LaunchPad, on a MongoDB of their own.

The tests want a MongoDB without password on localhost:27017. Here that address is another port, so
a mongod that a developer runs is never touched.
"""

import importlib
import os

import pymongo

PORT = int(os.environ["ORION_SUITE_PORT"])
CLIENTS = ("fireworks.fw_config", "fireworks.core.launchpad", "fireworks.utilities.filepad")
HOLDERS = ("fireworks", "fireworks.core.launchpad", "fireworks.core.rocket",
           "fireworks.core.rocket_launcher", "fireworks.queue.queue_launcher",
           "fireworks.scripts.lpad_run", "fireworks.scripts.mlaunch_run",
           "fireworks.scripts.qlaunch_run", "fireworks.scripts.rlaunch_run")


class ElsewhereClient(pymongo.MongoClient):
    """A MongoClient for which localhost:27017 is another port."""

    def __init__(self, host=None, port=None, **kwargs):
        if host not in (None, "localhost") or port not in (None, 27017):
            raise RuntimeError(f"FireWorks' tests asked for {host}:{port}")
        super().__init__("127.0.0.1", PORT, **kwargs)


for name in CLIENTS:
    importlib.import_module(name).MongoClient = ElsewhereClient

if os.environ.get("ORION_SUITE_CLASS") != "stock":
    from fireworks.core.launchpad import LaunchPad as StockLaunchPad

    from orionflow.launchers.pad import OrionLaunchPad

    for name in HOLDERS:
        module = importlib.import_module(name)
        if getattr(module, "LaunchPad", None) is StockLaunchPad:
            module.LaunchPad = OrionLaunchPad
    if importlib.import_module("fireworks.core.rocket").LaunchPad is not OrionLaunchPad:
        raise RuntimeError("FireWorks keeps its LaunchPad elsewhere now; see HOLDERS")
