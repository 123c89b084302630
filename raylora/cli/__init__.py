"""The command line: parses, calls the public API, prints. Results go to standard output, all else to standard error."""

from __future__ import annotations

from raylora.cli import data, results, runs, tools  # noqa: F401 - they add their commands to the group
from raylora.cli.exit_codes import exit_code, main
from raylora.cli.group import cli
from raylora.cli.snapshots import archive as archive_commands
from raylora.cli.snapshots import snapshot as snapshot_commands
from raylora.cluster.cli import cluster as cluster_commands

__all__ = ["cli", "exit_code", "main"]

cli.add_command(cluster_commands)
cli.add_command(snapshot_commands)
cli.add_command(archive_commands)
