"""Arguments that are a text or name the file that holds it: prompts and templates."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from airflow_mullama.arguments import refuse_url
from airflow_mullama.errors import ConfigurationError

MOST_BYTES = 16 << 20
# No prompt looks like this.
_FILE_NAME = re.compile(r"[^\s{}]*[^\s{}/]\.(txt|md|jinja|j2)")


def names_a_text_file(value: object) -> bool:
    """Whether an argument is a file's name and not a text: a :class:`pathlib.Path`, or a text without white space and
    braces that ends like a file of text, such as ``prompts/tag.txt``."""
    if isinstance(value, os.PathLike):
        return True
    return isinstance(value, str) and _FILE_NAME.fullmatch(value) is not None


def text_of(name: str, value: object) -> object:
    """What an argument of a job means: the content of the file that it names, or the value itself.

    Args:
        name: of the argument, for the message.
        value: what was given; a relative path is one from the current directory.

    Raises:
        ConfigurationError: the file is not there, or is no text.
    """
    return read_text_file(name, value) if names_a_text_file(value) else value


def find_file(name: str, value: str | os.PathLike[str], folders: Sequence[str] = (".",), otherwise: str = "") -> Path:
    """The file that an argument names.

    Args:
        name: of the argument.
        value: a path.
        folders: where a relative one is looked for, one after the other.
        otherwise: what else to do than to correct the path.

    Raises:
        ConfigurationError: it is in none of them.
    """
    path = os.fspath(value)
    refuse_url(name, path)
    places = [Path(folder, path) for folder in dict.fromkeys(folders)]  # of an absolute path it is all the same place
    for place in places:
        if place.is_file():
            return place
    looked_at = " and ".join(dict.fromkeys(repr(str(place.absolute())) for place in places))
    raise ConfigurationError(
        f"{name} is {path!r}, which names a file, and there is none at {looked_at}: correct the path{otherwise}."
    )


def read_text_file(name: str, value: object, folders: Sequence[str] = (".",)) -> str:
    """The text in the file that an argument names, without its last line end.

    Args:
        name: of the argument.
        value: a path.
        folders: where a relative one is looked for.

    Raises:
        ConfigurationError: the file is not there, cannot be read, is no UTF-8 or far too long for a prompt.
    """
    assert isinstance(value, (str, os.PathLike))
    path = find_file(name, value, folders, ", or, if the text itself is meant, end it with a line end")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{name}: the file {str(path)!r} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{name}: the file {str(path)!r} is no UTF-8 text ({error.reason}): save it as UTF-8."
        ) from None
    if len(content) > MOST_BYTES:
        raise ConfigurationError(f"{name}: the file {str(path)!r} has more than {MOST_BYTES >> 20} MB.")
    return text.replace("\r\n", "\n").removesuffix("\n")
