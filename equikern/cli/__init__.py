"""`python -m equikern <command>`: one module a command, with `add_arguments(parser)` and `run(arguments)`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from equikern.cli import certify, demo, info

COMMANDS = {"certify": certify, "demo": demo, "info": info}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m equikern", description="Fast equivariant kernels for PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    parsed = parser.parse_args(arguments)
    return COMMANDS[parsed.command].run(parsed)
