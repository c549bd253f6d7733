import pytest
from fireworks import LaunchPad

from orionflow.launchers.pad import OrionLaunchPad


def open_as(cls, access, **options):
    return cls(host=access.host, port=access.port, name=access.name, username=access.username,
               password=access.password, authsource=access.auth_source, strm_lvl="CRITICAL",
               mongoclient_kwargs=options or None)


@pytest.fixture
def pad(database):
    """OrionLaunchPad on an empty database."""
    pad = open_as(OrionLaunchPad, database)
    pad.reset("", require_password=False)
    yield pad
    pad.connection.close()


@pytest.fixture
def stock(pad, database):
    """Stock LaunchPad on the same database."""
    stock = open_as(LaunchPad, database, journal=True)
    yield stock
    stock.connection.close()
