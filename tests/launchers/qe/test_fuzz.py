"""Damaged outputs never crash a reader or a rule, and never pass as converged."""

# ruff: noqa: S311  damage that can be repeated is what is wanted

from __future__ import annotations

import dataclasses
import random
import shutil

import pytest

from orionflow.launchers.custodian.rules import find_failure, read_text

HEALTHY = ["al_ok", "relax_ok", "vc_ok", "nscf_ok", "phok"]
SEEDS = range(6)


def verdict(case, text, **more):
    attempt = dataclasses.replace(case.attempt, stdout=text, **more)
    return find_failure(case.rules, attempt)


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", SEEDS)
def test_truncated_output_is_no_success(captured, name, seed):
    case = captured(f"healthy/{name}")
    text = case.attempt.stdout
    cut = random.Random(seed).randrange(len(text) - 200)
    assert verdict(case, text[:cut]) is not None


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_output_is_no_success(captured, name, seed):
    case = captured(f"healthy/{name}")
    lines = case.attempt.stdout.splitlines(keepends=True)
    random.Random(seed).shuffle(lines)
    assert verdict(case, "".join(lines)) is not None


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("text", ["", "\n\n", "\0" * 500], ids=["empty", "blank", "null"])
def test_empty_output_is_no_success(captured, name, text):
    assert verdict(captured(f"healthy/{name}"), text) is not None


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", SEEDS)
def test_binary_output_is_no_success(captured, name, seed):
    case = captured(f"healthy/{name}")
    noise = random.Random(seed).randbytes(200_000).decode(errors="replace")
    assert verdict(case, noise) is not None


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", SEEDS)
def test_noise_in_healthy_output_never_crashes(captured, name, seed):
    case = captured(f"healthy/{name}")
    chars = list(case.attempt.stdout)
    rng = random.Random(seed)
    for _ in range(300):
        chars[rng.randrange(len(chars))] = rng.choice("*\0é%=<(\n")
    text = "".join(chars)
    found = verdict(case, text, stderr=text[::-1], returncode=rng.choice([0, 1, 2, 3, 255, -9]))
    assert found is None or found.evidence


@pytest.mark.parametrize("damage", ["cut", "binary", "empty", "shuffled"])
def test_damaged_xml_is_no_success(captured, damage):
    case = captured("healthy/al_ok")
    path = case.run.xml_path
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    path.write_bytes({"cut": data[: len(data) // 2], "binary": random.Random(2).randbytes(5000),
                      "empty": b"", "shuffled": b"".join(lines)}[damage])
    found = find_failure(case.rules, case.attempt)
    assert found is not None
    assert found.rule.failure_id == "QE_RESULT_INCOMPLETE"


def test_output_of_a_gigabyte_is_read_in_bounds(captured):
    case = captured("healthy/al_ok")
    path = case.folder / "pw.out"
    with path.open("ab") as stream:
        stream.truncate(2**30)  # a hole in the file, as a lost node leaves
    text = read_text(path)
    assert len(text) < 100 * 2**20
    assert "Program PWSCF" in text  # the head, with versions and sizes, is kept


def test_old_xml_of_a_parent_is_no_result(captured):
    case = captured("healthy/al_ok")
    job = case.run.job
    job.watched = (str(case.run.xml_path),)
    job.command = ["true"]
    job.stdout, job.stderr = "other.out", "other.err"
    job.run(str(case.folder))
    found = find_failure(case.rules, case.attempt)
    assert found is not None
    assert "earlier run" in found.evidence


def test_missing_save_folder_is_no_success(captured):
    case = captured("healthy/al_ok")
    shutil.rmtree(case.run.save)
    found = find_failure(case.rules, case.attempt)
    assert found is not None
    assert found.rule.failure_id == "QE_RESULT_INCOMPLETE"
