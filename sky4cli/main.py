"""`sky4`: picks the command, and turns every error into one sentence and an exit code."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from sky4 import __version__
from sky4.errors import DoesNotFit, Interrupted, RequestError, Sky4Failure
from sky4cli import pipe
from sky4cli.batch import EXAMPLES as BATCH_EXAMPLES
from sky4cli.batch import BatchCommand, batch
from sky4cli.bench import bench_app
from sky4cli.check import EXAMPLES as CHECK_EXAMPLES
from sky4cli.check import check
from sky4cli.config import EXAMPLES as CONFIG_EXAMPLES
from sky4cli.config import config
from sky4cli.diff import EXAMPLES as DIFF_EXAMPLES
from sky4cli.diff import diff
from sky4cli.doctor import doctor
from sky4cli.edit import EXAMPLES as EDIT_EXAMPLES
from sky4cli.edit import edit
from sky4cli.eval import eval_app
from sky4cli.examples import epilog
from sky4cli.extend import EXAMPLES as EXTEND_EXAMPLES
from sky4cli.extend import extend
from sky4cli.film import EXAMPLES as FILM_EXAMPLES
from sky4cli.film import film
from sky4cli.generate import EXAMPLES as GENERATE_EXAMPLES
from sky4cli.generate import generate
from sky4cli.inpaint import EXAMPLES as INPAINT_EXAMPLES
from sky4cli.inpaint import inpaint
from sky4cli.make import carried_out
from sky4cli.refine import EXAMPLES as REFINE_EXAMPLES
from sky4cli.refine import refine
from sky4cli.rerun import EXAMPLES as RERUN_EXAMPLES
from sky4cli.rerun import rerun
from sky4cli.settings import default_map, settings_in_force, told_unknown, unknown_names
from sky4cli.shots import EXAMPLES as SHOTS_EXAMPLES
from sky4cli.shots import shots
from sky4cli.show import EXAMPLES as SHOW_EXAMPLES
from sky4cli.show import show
from sky4cli.startup import collect_garbage_rarely, leave, print_any_name
from sky4cli.together import check_together, one_of_all_speaks
from sky4cli.train import train

OK, FAILED, BAD_REQUEST, DOES_NOT_FIT, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="sky4",
    help="Video with sound from text, pictures, video and sound.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", epilog=epilog(*GENERATE_EXAMPLES))(carried_out(generate))
app.command("inpaint", epilog=epilog(*INPAINT_EXAMPLES))(carried_out(inpaint))
app.command("edit", epilog=epilog(*EDIT_EXAMPLES))(carried_out(edit))
app.command("extend", epilog=epilog(*EXTEND_EXAMPLES))(carried_out(extend))
app.command("refine", epilog=epilog(*REFINE_EXAMPLES))(carried_out(refine))
app.command("film", epilog=epilog(*FILM_EXAMPLES))(film)
app.command("shots", epilog=epilog(*SHOTS_EXAMPLES))(shots)
app.command("batch", cls=BatchCommand, epilog=epilog(*BATCH_EXAMPLES))(batch)
app.command("check", epilog=epilog(*CHECK_EXAMPLES))(check)
app.command("show", epilog=epilog(*SHOW_EXAMPLES))(show)
app.command("rerun", epilog=epilog(*RERUN_EXAMPLES))(rerun)
app.command("diff", epilog=epilog(*DIFF_EXAMPLES))(diff)
app.command("config", epilog=epilog(*CONFIG_EXAMPLES))(config)
app.command("doctor")(doctor)
app.add_typer(train)
app.add_typer(eval_app)
app.add_typer(bench_app)


_verbose = [False]  # whether this command tells everything


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sky4 {__version__}")
        raise typer.Exit


def _say_more(wanted: bool) -> None:
    """Everything goes to stderr; also where SKY4_DEBUG=1 asks for it."""
    _verbose[0] = wanted or os.environ.get("SKY4_DEBUG") == "1"
    if _verbose[0]:
        warnings.simplefilter("default")
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, help="Print the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", callback=_say_more, help="Tell what the libraries say, and tracebacks.")
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 done, 1 failed, 2 bad request, 3 does not fit, 4 some jobs failed, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _say_more(False)
    if not _verbose[0]:
        warnings.simplefilter("ignore")  # what libraries say to their developers
    try:
        check_together(words)
        root = _tree()
        code = root(args=words, prog_name="sky4", standalone_mode=False, default_map=_defaults(root, words))
    except RequestError as error:
        return _say(error, BAD_REQUEST)
    except DoesNotFit as error:
        return _say(error, DOES_NOT_FIT)
    except Sky4Failure as error:
        return _say(error, FAILED)
    except Interrupted as error:
        return _say(error, INTERRUPTED)
    except typer.TyperException as error:  # unknown options, missing values: argv that typer itself cannot read
        return _say(error, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    finally:
        pipe.close()
    if code == INTERRUPTED:
        return _say(Interrupted("interrupted; no partial file was left"), INTERRUPTED)
    return code if isinstance(code, int) else OK


@functools.cache
def _tree() -> Any:
    """The commands as typer builds them, which takes longer than most of what is refused."""
    return typer.main.get_command(app)


def _defaults(root: Any, words: Sequence[str]) -> dict[str, Any]:
    """What the environment and the files of settings say; nothing where only help, version or completion is asked."""
    if {"--help", "-h", "--version"} & set(words) or "_SKY4_COMPLETE" in os.environ or words[:1] == ["config"]:
        return {}
    unknown = unknown_names(root, os.environ)
    if unknown and "--quiet" not in words:
        print(told_unknown(unknown), file=sys.stderr)
    return default_map(settings_in_force(root, os.environ, Path.cwd()), words)


def run() -> NoReturn:
    collect_garbage_rarely()
    print_any_name()
    leave(main())


def _say(error: Exception, code: int) -> int:
    if _verbose[0]:
        import traceback

        traceback.print_exception(error)
    with one_of_all_speaks() as speaks:
        if speaks:
            message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
            print(f"sky4: {' '.join(message.split())}", file=sys.stderr)
            render = getattr(error, "render", None)  # a prompt's faults show themselves with carets
            if callable(render):
                print(render(), file=sys.stderr)
    return code
