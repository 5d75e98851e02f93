"""The grammar that all verbs share: words, options, and answers to unknown ones."""

import argparse
import difflib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from toco_jax.runtime.exit_codes import FINISHED, WRONG_COMMAND

_KEY_VALUE = re.compile(r"[A-Za-z_][\w.]*=")
# Spellings of earlier versions. All options may be written with hyphens, too.
_RENAMED = {
    "--workdir": "--out",
    "--num_threads": "--threads",
    "--workers": "--threads",
    "--report": "--json",
}
# What stands for an option's value in the help, by the name of its type.
_METAVARS = {"int": "N", "number": "N", "float": "X", "Path": "PATH"}


class _Help(argparse.RawDescriptionHelpFormatter):
    """One line per option, with its default; the usage line names the words only."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=140)

    def _format_usage(self, usage, actions, groups, prefix):
        words = [action for action in actions if not action.option_strings]
        text = super()._format_usage(usage, words, [], prefix)
        return text if usage else f"{text.rstrip()} [--option value ...]\n\n"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _METAVARS.get(getattr(action.type, "__name__", ""), "TEXT")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default is argparse.SUPPRESS:
            return action.help
        values = default if isinstance(default, (list, tuple)) else [default]
        shown = " ".join(map(str, values)) or "none"
        return f"{action.help} (default: {shown})" if action.option_strings else action.help


class Parser(argparse.ArgumentParser):
    """The parser of one verb. Whatever it refuses becomes one sentence and exit code 2.

    Args:
        program: what the help calls the command, such as `toco train`.
        description: printed by `--help` as it is written.
    """

    def __init__(self, program: str, description: str | None):
        super().__init__(
            prog=program, description=description, formatter_class=_Help, allow_abbrev=False
        )
        self._positionals.title = "words"
        self._first_word = ""
        self._takes_keys = False
        self._needs_target = False
        self._key_options: Mapping[str, str] = {}
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def add_config(
        self, default: str | None = None, *, key_options: Mapping[str, str] | None = None
    ) -> None:
        """Adds the words `CONFIG [key=value ...]`, as `options.config` and `options.keys`.

        Args:
            default: what CONFIG is if it is not given; None requires it.
            key_options: options that are read as `key=value`, and their keys.
        """
        unset = "" if default is None else f" (default: {default})"
        self.add_argument(
            "config",
            metavar="CONFIG",
            nargs=None if default is None else "?",
            default=default,
            help=f"a configuration: shapes, voc, voc:vit_base, or a file such as my.py{unset}",
        )
        self.add_argument(
            "keys",
            metavar="key=value",
            nargs="*",
            help="sets keys of the configuration; `toco config CONFIG` lists all",
        )
        self._first_word, self._takes_keys = "--config", True
        self._key_options = key_options or {}

    def add_run(self) -> None:
        """Adds the word `RUN`, as `options.checkpoint`."""
        self.add_argument(
            "checkpoint",
            metavar="RUN",
            help="a run's folder, one checkpoint in it, or hf:owner/name",
        )
        self._first_word = "--checkpoint"

    def add_target(self, about: str, *, required: bool) -> None:
        """Adds `--out PATH`, which may also be the last word, as `options.out`."""
        path = pathlib.Path
        self.add_argument("--out", metavar="PATH", type=path, help=f"{about} (no default)")
        self.add_argument(
            "out_word", metavar="PATH", type=path, nargs="?", help="another way to write --out PATH"
        )
        self._needs_target = required

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Returns the options of a command line."""
        words = self._translated(words)
        known = self._option_string_actions
        for word in words:
            if word == "--":
                break
            if word.startswith("--") and word.partition("=")[0] not in known:
                self.error(unknown_option(word, known, takes_keys=self._takes_keys))
        options, rest = self.parse_known_intermixed_args(words)
        rest += [word for word in self._words_of(options) if self._lacks_dashes(word)]
        if self._takes_keys:
            rest += self._part_words(options)
        if word := vars(options).pop("out_word", None):
            rest += [str(word)] if options.out else []
            options.out = options.out or word
        if rest:
            self.error(unknown_option(rest[0], known, takes_keys=self._takes_keys))
        if self._needs_target and not options.out:
            self.error("the following arguments are required: --out")
        return options

    def error(self, message: str):
        """Ends the process with one sentence."""
        self.exit(WRONG_COMMAND, f"error: {message}\n")

    def _words_of(self, options: argparse.Namespace) -> Iterator[str]:
        """Yields the words of a command line that belong to no option."""
        for action in self._get_positional_actions():
            value = getattr(options, action.dest)
            yield from map(str, value if isinstance(value, list) else [value])

    def _lacks_dashes(self, word: str) -> bool:
        """Returns whether a word such as `size=32` is an option whose dashes are missing."""
        name, equals, _ = word.partition("=")
        is_option = bool(equals) and f"--{name}" in self._option_string_actions
        return is_option and not os.path.lexists(word)

    def _part_words(self, options: argparse.Namespace) -> list[str]:
        """Tells keys from CONFIG, in whatever order they come; returns the words left over."""
        words = [*filter(None, [options.config]), *options.keys]
        options.keys = [word for word in words if _KEY_VALUE.match(word)]
        names = [word for word in words if not _KEY_VALUE.match(word)]
        options.config = names[0] if names else self.get_default("config")
        if options.config is None:
            self.error("the following arguments are required: CONFIG")
        return names[1:]

    def _translated(self, words: Sequence[str]) -> list[str]:
        """Writes `--config=FILE`, `--checkpoint=RUN` and `--config.key=value` as words, which come
        first, and options under their present names.
        """
        first, keys, rest = [], [], []
        # The place of an option such as `--seeds 0 1`, which would take a key for one more value.
        many = None
        following = iter(words)
        for word in following:
            if word == "--":
                rest += [word, *following]
                break
            name, equals, value = word.partition("=")
            if not name.startswith("--"):
                if many is not None and self._takes_keys and _KEY_VALUE.match(word):
                    rest.insert(many, word)
                    many += 1
                else:
                    rest.append(word)
                continue
            if name not in self._option_string_actions:
                name = "--" + name[2:].replace("-", "_")
                name = _RENAMED.get(name, name)
            action = self._option_string_actions.get(name)
            many = len(rest) if action is not None and action.nargs == "+" else None
            is_first, key = name == self._first_word, self._key_of(name)
            if (is_first or key is not None) and not equals:
                value = next(following, "")
            if is_first:
                first = [value]  # the last one counts, as of any option
            elif key is not None:
                keys.append(f"{key}={value}" if key else value)
            else:
                rest.append(name + equals + value)
        return [*first, *keys, *rest]

    def _key_of(self, option: str) -> str | None:
        """Returns the key that an option of earlier versions sets; "" where its value names it."""
        if self._takes_keys and option == "--set":
            return ""
        if self._takes_keys and option.startswith("--config."):
            return option.removeprefix("--config.")
        return self._key_options.get(option)


def unknown_option(word: str, options: Iterable[str], *, takes_keys: bool = False) -> str:
    """Returns a sentence on a word of the command line that belongs to nothing."""
    name, equals, _ = word.partition("=")
    plain = name.lstrip("-")
    options = [option.lstrip("-") for option in options]
    if equals and name == plain and plain in options:
        return f"{word!r} is no option: write --{word}"
    alike = difflib.get_close_matches(plain, options, n=1)
    if alike:
        hint = f"did you mean --{alike[0]}? "
    elif takes_keys and equals:
        hint = f"a key of the configuration is written {plain}=value; "
    else:
        hint = ""
    return f"{word!r} is no option, and nothing uses it: {hint}--help lists the options"


def whole_number(lowest: int) -> Callable[[str], int]:
    """Returns the `type` of an option that takes whole numbers from `lowest` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least {lowest}")
        return int(text)

    return number


def choose(
    words: Sequence[str], choices: Mapping[str, str], *, program: str, about: str | None
) -> tuple[str, list[str]]:
    """Splits the command that comes first off the other words.

    For `--help`, prints `about` and the line about each command in `choices`, and exits.
    """
    if words and words[0] in choices:
        return words[0], list(words[1:])
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, choices)) + 2
        lines = [f"  {name:<{width}}{line}" for name, line in choices.items()]
        help_screen = "\n".join([(about or "").strip(), "", "commands:", *lines])
        print(help_screen, file=sys.stdout if words else sys.stderr)
        sys.exit(FINISHED if words else WRONG_COMMAND)
    alike = difflib.get_close_matches(words[0], choices, n=1)
    hint = f"did you mean {alike[0]}? " if alike else ""
    print(
        f"error: {program} has no command {words[0]!r}: {hint}`{program} --help` lists all",
        file=sys.stderr,
    )
    sys.exit(WRONG_COMMAND)
