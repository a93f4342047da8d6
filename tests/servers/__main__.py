"""`python -m tests.servers [NAME …]`: provide all rows of the catalogue, or these."""

from __future__ import annotations

import argparse
import sys

from tests.servers import CATALOGUE, Missing, provide


def main(arguments: list[str]) -> int:
    rows = {need.name: need for need in CATALOGUE}
    parser = argparse.ArgumentParser(prog="python -m tests.servers")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(rows)}; none: all of them")
    asked = parser.parse_args(arguments).names
    if unknown := [name for name in asked if name not in rows]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(rows)}")
    status = 0
    for name in asked or rows:
        try:
            for thing, path in provide(rows[name]).items():
                print(f"{name}: {thing} is {path}")
        except Missing as missing:
            print(missing, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
