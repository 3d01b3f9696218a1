"""Break things on purpose and print what is lost: kills, full disks, hostile and damaged files, long runs.

    python tools/faultcheck.py                          # about 5 minutes on 2 cores
    python tools/faultcheck.py --long                   # about an hour
    python tools/faultcheck.py --long --write docs/faults.md
    python tools/faultcheck.py --only kills fuzz

Every row of the table is a fault, how often it was made, how often all was as it
should be, and what a user loses by it. The exit status is 1 if anything was not.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # for bit-equal runs; before Paddle is imported
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import paddle
from faults.endurance import all_endurance
from faults.fuzz import all_fuzz
from faults.kills import all_kills
from faults.runs import Child, Workshop
from faults.surroundings import all_surroundings

from paddle_attention.analysis import markdown_table, write_between_markers
from paddle_attention.cli.main import main as cli

LONG_SCALE, INPUTS, LONG_INPUTS = 5, 20_000, 600_000
GROUPS = {
    "kills": lambda workshop, long: all_kills(workshop, LONG_SCALE if long else 1),
    "surroundings": lambda workshop, long: all_surroundings(workshop, LONG_SCALE if long else 1),
    "fuzz": lambda workshop, long: all_fuzz(workshop, LONG_INPUTS if long else INPUTS),
    "endurance": all_endurance,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="at least 100 kills, 500,000 inputs, 200 epochs")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups of faults")
    parser.add_argument("--write", metavar="FILE", help="put the table into this document")
    options = parser.parse_args()
    began, tables, failed = time.monotonic(), {}, False
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        digits = Child(cli, "digits", [str(folder / "digits")], log=folder / "digits.txt")
        if digits.wait():
            sys.exit(digits.output())
        workshop = Workshop(folder, folder / "digits")
        for group in options.only:
            rows = []
            for row in GROUPS[group](workshop, options.long):
                rows.append(row)
                result = f"{row.survived} of {row.tried}; lost: {row.lost}"
                print(f"{time.monotonic() - began:6.0f} s  {row.fault}: {result}", flush=True)
                for failure in row.failures[:5]:
                    print(f"          {failure}", flush=True)
            failed |= any(row.failures or row.survived < row.tried for row in rows)
            cells = [(r.fault, r.tried, r.survived, r.lost) for r in rows]
            tables[f"faultcheck: {group}"] = markdown_table(("fault", "tried", "survived", "lost"), cells)
    if options.write:
        version = f"Paddle {paddle.__version__}, Python {platform.python_version()}:\n\n"
        write_between_markers(options.write, {marker: version + text for marker, text in tables.items()})
    print("\n" + "\n\n".join(tables.values()))
    sys.exit(failed)


if __name__ == "__main__":
    main()
