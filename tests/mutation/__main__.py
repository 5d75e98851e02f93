"""Changes the code in one place at a time and counts the changes that no test sees.

    python tests/mutation                                  some hours on 2 cores
    python tests/mutation --only toco_jax/training/optim.py         minutes

Goes on where it was stopped, as long as the folder is the same. Results are kept by the text of the
changed module: whoever changes a test runs the survivors again with `--again`.
"""

import argparse
import collections
import json
import pathlib
import sys
import tempfile

import table
from checkout import Checkout
from mutants import Mutant, count_places, sample

REPOSITORY = pathlib.Path(__file__).parents[2]
FEWEST = 10
TESTS = table.MODULES | table.ONLY_BY_HAND


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python tests/mutation", description=__doc__)
    default = pathlib.Path(tempfile.gettempdir()) / "toco_jax_mutation"
    parser.add_argument("--folder", type=pathlib.Path, default=default, help="results, copies")
    parser.add_argument("--num", type=int, default=300, help="mutants besides those made by hand")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--only", nargs="+", metavar="MODULE", help="these modules alone")
    parser.add_argument("--again", action="store_true", help="run other survivors again")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is known")
    args = parser.parse_args()
    unknown = set(args.only or ()) - set(TESTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not in the table of {table.__file__}")

    mutants = [m for m in drawn(args.num, args.seed) if not args.only or m.module in args.only]
    args.folder.mkdir(parents=True, exist_ok=True)
    results = Results(args.folder / "results.jsonl")
    if not args.report:
        run(mutants, results, args.folder, again=args.again)
    print_table(mutants, results)


def drawn(num: int, seed: int) -> list[Mutant]:
    """The mutants made by hand and `num` drawn ones, spread over the modules by their size."""
    sources = {module: (REPOSITORY / module).read_text() for module in TESTS}
    places = {module: count_places(sources[module]) for module in table.MODULES}
    mutants = []
    for module, source in sources.items():
        for name, old, new in table.BY_HAND.get(module, ()):
            if source.count(old) != 1:
                raise SystemExit(f"{name!r}: {old!r} is not in {module} exactly once")
            mutants.append(Mutant(module, "by hand", name, source.replace(old, new)))
        if module in places:
            share = max(FEWEST, round(num * places[module] / sum(places.values())))
            mutants += sample(module, source, num=share, seed=seed)
    return mutants


class Results:
    """What is known of mutants and of unchanged modules, one line of JSON each."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._known = {entry["key"]: entry for entry in map(json.loads, lines)}

    def get(self, key: str) -> dict | None:
        """The last entry of a key."""
        return self._known.get(key)

    def add(self, key: str, **entry) -> None:
        """Writes an entry at once."""
        self._known[key] = {"key": key} | entry
        with self._path.open("a") as file:
            file.write(json.dumps(self._known[key]) + "\n")


def run(mutants: list[Mutant], results: Results, folder: pathlib.Path, *, again: bool) -> None:
    """Runs the tests of every mutant that is not known yet, and of survivors with `again`."""
    waiting = []
    for mutant in mutants:
        known = results.get(mutant.key)
        survived = known is not None and known["outcome"] == "survived"
        if known is None or (again and survived and not is_equivalent(mutant)):
            waiting.append(mutant)
    if not waiting:
        return
    checkout = Checkout(REPOSITORY, folder)
    usual = {}
    for i, mutant in enumerate(waiting):
        tests = TESTS[mutant.module]
        if mutant.module not in usual:
            outcome, test, _ = checkout.run(tests, cpu_seconds=3600)
            if outcome != "passed":
                raise SystemExit(f"{mutant.module}: {test} fails on the code as it is")
            # Twice: now that all is compiled, the time is that of a mutant that changes nothing.
            usual[mutant.module] = checkout.run(tests, cpu_seconds=3600)[2]
        with checkout.changed(mutant.module, mutant.source):
            limit = 60 + 4 * usual[mutant.module]
            outcome, test, seconds = checkout.run(tests, cpu_seconds=limit)
        outcome = {"passed": "survived", "failed": "killed"}.get(outcome, outcome)
        about = {"module": mutant.module, "function": mutant.function, "change": mutant.change}
        results.add(mutant.key, outcome=outcome, test=test, seconds=round(seconds, 1), **about)
        print(
            f"{i + 1}/{len(waiting)} {outcome:8} {seconds:5.1f} s  {mutant.module}: "
            f"{mutant.function}: {mutant.change}",
            flush=True,
        )


def is_equivalent(mutant: Mutant) -> bool:
    """Whether the table names a mutant as one that computes the same."""
    return (mutant.function, mutant.change) in table.EQUIVALENT.get(mutant.module, {})


def print_table(mutants: list[Mutant], results: Results) -> None:
    """Counts by module, and every survivor that is not named as equivalent."""
    counts = collections.defaultdict(collections.Counter)
    survivors = []
    for mutant in mutants:
        known = results.get(mutant.key)
        outcome = known["outcome"] if known else "not run"
        if outcome == "survived" and is_equivalent(mutant):
            outcome = "equivalent"
        elif outcome == "survived":
            survivors.append(mutant)
        counts[mutant.module]["killed" if outcome == "timeout" else outcome] += 1
    columns = ("mutants", "killed", "survived", "equivalent", "not run")
    total = sum(counts.values(), collections.Counter())
    print(f"\n{'module':30}" + "".join(f"{name:>12}" for name in columns))
    for module, count in [*counts.items(), ("all", total)]:
        row = {"mutants": count.total()} | count
        print(f"{module:30}" + "".join(f"{row.get(name, 0):>12}" for name in columns))
    judged = total["killed"] + total["survived"]
    print(
        f"\nkilled of those that are not equivalent: {100 * total['killed'] / max(judged, 1):.1f} %"
    )
    for mutant in survivors:
        print(f"survived: {mutant.module}: {mutant.function}: {mutant.change}")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
