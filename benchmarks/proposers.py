"""How near the proposers come to known optima of test functions.

    python benchmarks/proposers.py [--seeds 10] [--first-seed 0] [--evaluations 30] [--batch 1]
        [method ...]

Prints the regret (best value found minus the true minimum) over seeds. Optuna's TPE and BayBE
(extra `baybe`) are run beside our own where they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from common import print_json, show

from orionflow.agents.proposers import Trial, get_proposer, proposer_names
from orionflow.agents.testfunctions import FUNCTIONS, TestFunction

if TYPE_CHECKING:
    from collections.abc import Callable


def ours(name: str) -> Callable[..., float]:
    """Return a campaign with one of our proposers, which returns its regret."""
    propose = get_proposer(name)

    def run(function: TestFunction, seed: int, evaluations: int, batch: int) -> float:
        rows: list[Trial] = []
        while len(rows) < evaluations:
            left = min(batch, evaluations - len(rows))
            points = propose(function.space, rows, [], left, seed)
            if len(points) != left:
                raise RuntimeError(f"{name} gave {len(points)} points instead of {left}")
            rows += [Trial(p, function(p)) for p in points]
        return function.regret(rows)

    return run


def tpe(function: TestFunction, seed: int, evaluations: int, batch: int) -> float:
    """Run Optuna's TPE; batches by asking ``batch`` times before telling."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    names = [v.name for v in function.space.variables]
    spread = {n: optuna.distributions.FloatDistribution(0.0, 1.0) for n in names}
    rows: list[Trial] = []
    while len(rows) < evaluations:
        trials = [study.ask(spread) for _ in range(min(batch, evaluations - len(rows)))]
        points = [function.space.decode(np.array([[t.params[n] for n in names]]))[0]
                  for t in trials]
        for trial, point in zip(trials, points, strict=True):
            value = function(point)
            study.tell(trial, value)
            rows.append(Trial(point, value))
    return function.regret(rows)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=30)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--functions", nargs="+", default=sorted(FUNCTIONS))
    args = parser.parse_args()
    methods: dict[str, Callable[..., float]] = {
        n: ours(n) for n in proposer_names() if n != "baybe" or importlib.util.find_spec(n)}
    if importlib.util.find_spec("optuna"):
        methods["optuna TPE"] = tpe
    table: list[list[Any]] = []
    results: dict[str, Any] = {}
    for name in args.methods or methods:
        row: list[Any] = [name]
        begin = time.perf_counter()
        for function in args.functions:
            regrets = [methods[name](FUNCTIONS[function], seed, args.evaluations, args.batch)
                       for seed in range(args.first_seed, args.first_seed + args.seeds)]
            row += [float(np.median(regrets)), float(np.max(regrets))]
            results[f"{name} {function}"] = [round(r, 5) for r in regrets]
        spent = time.perf_counter() - begin
        row.append(spent / (args.seeds * args.evaluations * len(args.functions)))
        table.append(row)
    columns = [f"{f} {what}" for f in args.functions for what in ("median", "worst")]
    show(f"Regret after {args.evaluations} evaluations, {args.seeds} seeds, batches of "
         f"{args.batch}", ["proposer", *columns, "s/point"], table)
    print_json("proposers", {"batch": args.batch, "regret": results})


if __name__ == "__main__":
    main()
