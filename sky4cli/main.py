"""`sky4`: picks the command, and turns every error into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from sky4 import __version__
from sky4.errors import Interrupted, RequestError, Sky4Failure
from sky4cli.bench import bench_app
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
from sky4cli.rerun import rerun
from sky4cli.shots import EXAMPLES as SHOTS_EXAMPLES
from sky4cli.shots import shots
from sky4cli.show import show
from sky4cli.startup import collect_garbage_rarely, leave
from sky4cli.train import train

OK, FAILED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="sky4",
    help="Video with sound from text, pictures, video and sound.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", epilog=epilog(*GENERATE_EXAMPLES))(generate)
app.command("inpaint", epilog=epilog(*INPAINT_EXAMPLES))(inpaint)
app.command("edit", epilog=epilog(*EDIT_EXAMPLES))(edit)
app.command("extend", epilog=epilog(*EXTEND_EXAMPLES))(extend)
app.command("film", epilog=epilog(*FILM_EXAMPLES))(film)
app.command("shots", epilog=epilog(*SHOTS_EXAMPLES))(shots)
app.command("show")(show)
app.command("rerun")(rerun)
app.command("doctor")(doctor)
app.add_typer(train)
app.add_typer(eval_app)
app.add_typer(bench_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sky4 {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, help="Print the version.")] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad request, 130 interrupted."""
    if os.environ.get("SKY4_DEBUG") != "1":
        warnings.simplefilter("ignore")  # what libraries say to their developers
    try:
        code = app(args=list(sys.argv[1:] if argv is None else argv), prog_name="sky4", standalone_mode=False)
    except RequestError as error:
        return _say(error, BAD_REQUEST)
    except Sky4Failure as error:
        return _say(error, FAILED)
    except Interrupted as error:
        return _say(error, INTERRUPTED)
    except typer.TyperException as error:  # unknown options, missing values: argv that typer itself cannot read
        return _say(error, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("sky4: interrupted; no partial file was left", file=sys.stderr)
    return code if isinstance(code, int) else OK


def run() -> NoReturn:
    collect_garbage_rarely()
    leave(main())


def _say(error: Exception, code: int) -> int:
    if os.environ.get("SKY4_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    print(f"sky4: {' '.join(message.split())}", file=sys.stderr)
    render = getattr(error, "render", None)  # a prompt's faults show themselves with carets
    if callable(render):
        print(render(), file=sys.stderr)
    return code
