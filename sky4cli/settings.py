"""Defaults that a user sets once: the environment's SKY4_*, sky4.toml in the working folder, sky4.toml of the user.

The nearer one wins: flag, environment, working folder, user, and then what the option or the model's folder says. Each
value is read as the flag would be, and told with the place that it comes from where it is wrong.
"""

from __future__ import annotations

import difflib
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import typer

from sky4.errors import RequestError

FILE = "sky4.toml"
PREFIX = "SKY4_"
MOST_BYTES = 2**20
NEVER = ("help", "version", "install-completion", "show-completion")
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
# Of the set-up, the build, the kernels, the checks and the tests; none of them is an option.
FOREIGN = (
    *("SKY4_PYTHON", "SKY4_TORCH_INDEX", "SKY4_ROOT", "SKY4_DEBUG"),
    *("SKY4_CUDA_ARCHS", "SKY4_CUDA_PATH", "SKY4_ISA", "SKY4_THREADS", "SKY4_SM90_KEY_TILE", "SKY4_SM90_SPARSE"),
    *("SKY4_WHEELS", "SKY4_COMMIT", "SKY4_BATCH_FULL"),
)
# Of options that exclude one another, the one that is typed lets go of what was set for the other.
RIVALS = (("seconds", "frames"), ("seconds", "to"), ("keep-audio", "mix"))


@dataclass(frozen=True)
class Setting:
    """A value for one option of one command. command: "generate", "bench kernels", or "" for sky4 itself."""

    command: str
    option: str
    value: Any
    origin: str
    parameter: str


@dataclass(frozen=True)
class _Option:
    """An option of a command, as the command line knows it."""

    command: str
    name: str
    parameter: Any
    owner: Any

    def setting(self, value: Any, origin: str, folder: Path | None) -> Setting:
        """RequestError, naming the origin, for a value that the flag would not take."""
        plain = _plain(value, self.parameter, origin)
        if folder is not None and _is_path(self.parameter):
            plain = [_placed(part, folder) for part in plain] if isinstance(plain, list) else _placed(plain, folder)
        if self.parameter.callback is None:  # such a one takes any text, and acts on it when it is used
            context = self.owner.context_class(self.owner, info_name=self.command or "sky4")
            try:
                self.parameter.process_value(context, plain)
            except typer.TyperException as error:
                raise RequestError(f"{origin}: {getattr(error, 'message', error)}") from error
        return Setting(self.command, self.name, plain, origin, self.parameter.name)


def files(environ: Mapping[str, str], folder: Path) -> list[Path]:
    """Where settings may lie, the nearest first."""
    home = environ.get("XDG_CONFIG_HOME") or ""
    of_user = Path(home) if os.path.isabs(home) else Path("~/.config").expanduser()
    return [folder / FILE, of_user / "sky4" / FILE]


def settings_in_force(root: Any, environ: Mapping[str, str], folder: Path) -> list[Setting]:
    """The value of every option that is set somewhere, from the nearest place. RequestError for what is not known."""
    options = list(_options(root))
    layers = [
        list(_of_environment(options, environ)),
        *(list(_of_file(options, file)) for file in files(environ, folder)),
    ]
    found: dict[tuple[str, str], Setting] = {}
    for layer in layers:
        for setting in layer:
            found.setdefault((setting.command, setting.option), setting)
    return [found[option.command, option.name] for option in options if (option.command, option.name) in found]


def default_map(settings: Sequence[Setting], argv: Sequence[str]) -> dict[str, Any]:
    """As the command line takes it: options by their parameters' names inside tables of commands."""
    typed = {word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    dropped = {other for pair in RIVALS for name in typed & set(pair) for other in pair if other != name}
    tree: dict[str, Any] = {}
    for setting in settings:
        if setting.option in dropped:
            continue
        table = tree
        for command in setting.command.split():
            table = table.setdefault(command, {})
        table[setting.parameter] = setting.value
    return tree


def unknown_names(root: Any, environ: Mapping[str, str]) -> dict[str, str]:
    """The SKY4_* of the environment that nothing reads, each with the nearest name that is read, or ""."""
    known = {*FOREIGN}
    for option in _options(root):
        known |= {_variable(option.name), _variable(f"{option.command} {option.name}".strip())}
    unknown = sorted(name for name, text in environ.items() if name.startswith(PREFIX) and text and name not in known)
    names = sorted(name.removeprefix(PREFIX) for name in known)  # of what all share, everything would be near
    near = {name: difflib.get_close_matches(name.removeprefix(PREFIX), names, 1) for name in unknown}
    return {name: PREFIX + found[0] if found else "" for name, found in near.items()}


def told_unknown(unknown: Mapping[str, str]) -> str:
    """One line about them, for people."""
    said = (f"{name} (did you mean {near}?)" if near else name for name, near in unknown.items())
    return f"warning: nothing of sky4 reads {', '.join(said)}"


def _variable(name: str) -> str:
    """'bench kernels seed' to SKY4_BENCH_KERNELS_SEED."""
    return PREFIX + name.replace(" ", "_").replace("-", "_").upper()


def _options(command: Any, name: str = "") -> Iterator[_Option]:
    for parameter in command.params:
        names = [opt[2:] for opt in parameter.opts if opt.startswith("--") and opt[2:] not in NEVER]
        if names:
            yield _Option(name, names[0], parameter, command)
    for child, below in getattr(command, "commands", {}).items():
        yield from _options(below, f"{name} {child}".strip())


def _of_environment(options: Sequence[_Option], environ: Mapping[str, str]) -> Iterator[Setting]:
    """SKY4_STEPS for every command that has --steps, SKY4_GENERATE_STEPS for one. `unknown_names` tells of others."""
    exact = {}
    for variable, text in environ.items():
        if variable.startswith(PREFIX) and text:
            exact[variable.removeprefix(PREFIX).lower().replace("_", "-")] = (variable, text)
    for option in options:
        own = f"{option.command.replace(' ', '-')}-{option.name}".strip("-")
        variable, text = exact.get(own) or exact.get(option.name) or ("", "")
        if variable:
            yield option.setting(_from_text(text, option.parameter, variable), variable, None)


def _from_text(text: str, parameter: Any, origin: str) -> Any:
    if parameter.is_flag:
        word = text.strip().lower()
        if word not in (*YES, *NO):
            raise RequestError(f"{origin}={text}: expected {YES[0]} or {NO[0]}")
        return word in YES
    if parameter.multiple or parameter.nargs != 1:
        try:
            return shlex.split(text)
        except ValueError as error:
            raise RequestError(f"{origin}={text}: a quote is not closed") from error
    return text


def _of_file(options: Sequence[_Option], file: Path) -> Iterator[Setting]:
    """A key of a table is an option of that command, a key outside of all tables one of every command that has it."""
    values = _read(file)
    for option, value, path, _ in sorted(_entries(options, values, file, ""), key=lambda entry: -entry[3]):
        yield option.setting(value, f"{file}: {path}", file.parent)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}); mend its permissions or move it away") from error
    if len(content) > MOST_BYTES:
        raise RequestError(f"{file} is larger than 1 MiB; settings are a few lines")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, with line and column, and of UTF-8
        raise RequestError(f"{file} is no TOML: {error}") from error


def _entries(
    options: Sequence[_Option], values: Mapping[str, Any], file: Path, command: str
) -> Iterator[tuple[_Option, Any, str, int]]:
    """(option, value, dotted path, how far below the top the key stands)."""
    for key, value in values.items():
        path = ".".join([*command.split(), key])
        below = f"{command} {key}".strip()
        if isinstance(value, Mapping):
            if not any(_inside(option, below) for option in options):
                raise RequestError(
                    f"{file}: there is no command {path}{_near(below, {one.command for one in options})}"
                )
            yield from _entries(options, value, file, below)
            continue
        known = [option for option in options if _inside(option, command)]
        name = key.replace("_", "-")
        if not any(option.name == name for option in known):
            raise RequestError(f"{file}: unknown setting {path}{_near(name, {option.name for option in known})}")
        yield from ((option, value, path, len(command.split())) for option in known if option.name == name)


def _inside(option: _Option, command: str) -> bool:
    """Whether it is an option of that command or of one below it."""
    return not command or f"{option.command} ".startswith(f"{command} ")


def _near(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean {near[0]}?" if near else "; `sky4 COMMAND --help` lists the options that may be set"


def _plain(value: Any, parameter: Any, origin: str) -> Any:
    """A TOML value as the flag's text would be; RequestError for one of another form."""
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise RequestError(f"{origin}: expected true or false, got {value!r}")
        return value
    several = parameter.multiple or parameter.nargs != 1
    if several != isinstance(value, list) or isinstance(value, bool):
        expected = "a list" if several else "one value"
        raise RequestError(f"{origin}: expected {expected}, got {value!r}")
    parts = value if several else [value]
    if any(not isinstance(part, (str, int, float)) or isinstance(part, bool) for part in parts):
        raise RequestError(f"{origin}: expected text or a number, got {value!r}")
    return [str(part) for part in parts] if several else str(value)


def _is_path(parameter: Any) -> bool:
    annotation = parameter.type_descriptor.annotation
    return Path in (annotation, *get_args(annotation))


def _placed(text: str, folder: Path) -> str:
    """A path of a file of settings: from where the file lies, not from where one stands."""
    return text if text == "-" else str(folder / Path(text).expanduser())
