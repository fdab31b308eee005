"""What every program does with its command line: --help, --print-config, faults and exit status."""

import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from sttn_ray import interrupts
from sttn_ray.config import Experiment, Section, load_experiment, to_yaml
from sttn_ray.errors import ConfigError, SttnError
from sttn_ray.shown import ShownFormatter, shown_lines

log = logging.getLogger(__name__)


def parse_command_line(doc: str, sections: Sequence[str], argv: Sequence[str] | None = None) -> Experiment:
    """Read a program's command line; prints and exits for --help, --print-config and faults (status 2)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        usage = "usage: [EXPERIMENT.yaml] [section.key=value ...] [--print-config] [--help]"
        sys.stdout.write(f"{doc.strip()}\n\n{usage}\n\n{describe_sections(sections)}\n")
        raise SystemExit(0)
    try:
        experiment = load_experiment([w for w in words if w != "--print-config"])
    except ConfigError as error:
        exit_with_faults(error)
    if "--print-config" in words:
        sys.stdout.write(to_yaml(experiment))
        raise SystemExit(0)
    return experiment


def run_program(
    doc: str, sections: Sequence[str], run: Callable[[Experiment], int], argv: Sequence[str] | None = None
) -> int:
    """Run a program on its command line; returns its exit status, or exits with 2 where the request is wrong.

    SIGINT and SIGTERM end it with 130 and 143, after it has written what it knows.
    """
    start_log()
    experiment = parse_command_line(doc, sections, argv)
    try:
        with interrupts.raised():
            return run(experiment)
    except BaseException as error:
        # Modules in C make other errors of an interrupt while they are loaded.
        if (number := interrupts.received(error)) is not None:
            log.error("%s", interrupts.describe(number))
            return 128 + number
        if isinstance(error, SttnError):
            exit_with_faults(error)
        raise


def start_log() -> None:
    """Send the log, and the traceback of an error that nobody catches, to standard error as `shown` has it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ShownFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = _show_traceback


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(shown_lines("".join(traceback.format_exception(kind, error, trace))))


def parse_folder(words: Sequence[str], flag: str) -> tuple[str, Experiment]:
    """The folder that a flag is about, and the settings beside it, of a command line that holds the flag.

    Raises:
        ConfigError: not one folder, or a setting that is not valid.
    """
    folders = [word for word in words if word != flag and "=" not in word]
    if len(folders) != 1:
        raise ConfigError(f"{flag} takes one folder: {flag} DIR")
    return folders[0], load_experiment([word for word in words if "=" in word])


def exit_with_faults(error: Exception) -> NoReturn:
    """Say what is wrong with the request and exit with status 2."""
    sys.stderr.write("".join(f"error: {line}\n" for line in str(error).splitlines()))
    raise SystemExit(2)


def describe_sections(names: Sequence[str]) -> str:
    """Every key of the named sections with its type, default, unit and meaning, for --help."""
    lines = []
    for name in names:
        section = Experiment.model_fields[name].annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        lines.append(f"{name}: {section.__doc__}")
        for key, field in section.model_fields.items():
            default = _default_text(field.default)
            lines.append(f"  {name}.{key}=  [{_type_name(field)}; default {default}]")
            lines.append(f"      {field.description}")
    return "\n".join(lines)


def _default_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value in (None, {}) else str(value).lower()


def _type_name(field: FieldInfo) -> str:
    text = str(field.annotation)
    if isinstance(field.annotation, type):
        text = field.annotation.__name__
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    if text in names:
        return names[text]
    if text.startswith("dict"):
        return "mapping"
    if text.startswith("tuple"):
        return "texts, joined by commas" if "str" in text else "integers, joined by commas"
    for python, plain in names.items():
        text = text.replace(f"{python} | None", plain)
    text = text.replace("typing.Literal", "").replace("typing.Union", "").replace("'", "")
    return text.replace("[", "").replace("]", "").replace(", ", " | ")
