"""The commands, one file a verb: parse, call, print. Each is imported only when it is used."""

from __future__ import annotations

import sys

from netwright import __version__
from netwright.core.errors import NetwrightError

ABOUT = "Bring a data set or any PyTorch model, and a device budget; get a network that fits, and the measured proof."
COMMANDS = {
    "run": ("run:run", "The whole chain: data and a recipe in, five compiled networks and a report out."),
    "init": ("init:init", "Write a commented recipe for a data set of your own."),
    "design": ("design:app", "1  Blocks, families and spaces: list, show, draw."),
    "estimate": ("estimate:estimate", "2  What any network costs, layer by layer."),
    "search": ("stages:search", "3  Run a recipe up to the search and print its front."),
    "train": ("stages:train", "4  Train one of our families on your data, or run a recipe up to its trained float network."),
    "compress": ("compress:compress", "5  Make a network smaller: your model and data, or a recipe."),
    "spike": ("spike:spike", "6  Turn a trained network into a spiking one: your model and data, or a recipe."),
    "deploy": ("deploy:deploy", "7  Compile any PyTorch network to one C file in a bundle."),
    "measure": ("measure:measure", "Time a bundle against ONNX Runtime, side by side."),
    "bench": ("bench:bench", "Measure what the project claims, with bounds; OPEN where one does not hold."),
    "report": ("report:report", "Write the report of a finished run again."),
    "status": ("status:status", "Which methods there are, where they stand, which paper each comes from."),
    "cite": ("cite:cite", "BibTeX of the methods a run used."),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 for an error netwright explains, 130 when interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments in (["--help"], ["-h"]):
        sys.stdout.write(overview())
        return 0
    from cyclopts import App

    app = App(name="netwright", help=ABOUT, version=__version__, help_format="plaintext", result_action="return_value")
    for name, (target, text) in COMMANDS.items():
        app.command(f"netwright.cli.{target}", name=name, help=text)
    try:
        app(arguments)
        return 0
    except NetwrightError as error:
        sys.stderr.write(f"netwright: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("netwright: interrupted; the same command goes on from here\n")
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        sys.stderr.write(f"netwright: {error.strerror or error}{f': {error.filename}' if error.filename else ''}\n")
        return 1


def overview() -> str:
    """The list of commands; written by hand so that `netwright --help` loads nothing."""
    lines = [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([f"netwright {__version__}. {ABOUT}", "", "Usage: netwright COMMAND [--help] [--json]", "", *lines, ""])


def entry() -> None:
    """Console script."""
    sys.exit(main())
