"""Step 1, load: one YAML file and its includes -> a `Tree` in which each value knows its line.

YAML as PyYAML's safe loader reads it, except that `1e-4` is a number, dates stay text, and a key
given twice in one mapping is an error. `${VAR}` and `${VAR:-default}` expand in strings; `$${`
stands for `${`. Files are UTF-8 (with or without BOM), else GB18030.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from detrkit.config import catalogue, dialect, shortforms
from detrkit.config.tree import Keys, Origin, Tree, shown_path
from detrkit.errors import ConfigError, Problem

INCLUDE = "__include__"

#: A config of more nodes is an alias bomb, not a config.
MAX_NODES = 100_000

_FLOAT = re.compile(
    r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
             |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
             |[0-9][0-9_]*[eE][-+]?[0-9]+
             |[-+]?\.(?:inf|Inf|INF)
             |\.(?:nan|NaN|NAN))$""",
    re.X,
)
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")

_TIMESTAMP, _FLOAT_TAG = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"


class Loader(yaml.SafeLoader):
    """Safe loader with YAML 1.2 floats and without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (the name and form that PyYAML reads)
        first: [(tag, regexp) for tag, regexp in table if tag not in (_TIMESTAMP, _FLOAT_TAG)]
        for first, table in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))


def parse_value(text: str) -> Any:
    """One YAML value, e.g. of `--update key=VALUE`. Raises `yaml.YAMLError`."""
    problems: list[Problem] = []
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        value = None if node is None else _Reader(loader, "", problems).value(node, ())
    finally:
        loader.dispose()
    if problems:
        raise yaml.YAMLError("; ".join(problem.message for problem in problems))
    return value


def load_tree(path: Path, problems: list[Problem]) -> Tree:
    """Reads a file and what it includes. What is wrong is appended to `problems`."""
    tree = Tree()
    _load_into(tree, path.absolute(), problems, ())
    return tree


def read_text(path: Path) -> str:
    """The file's text, whatever the platform's encoding is."""
    raw = path.read_bytes()
    encodings = ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "gb18030")
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ConfigError(
        f"{shown_path(path)} is neither UTF-8 nor GB18030 text", hint="save it as UTF-8"
    )


def _load_into(tree: Tree, path: Path, problems: list[Problem], parents: tuple[Path, ...]) -> None:
    layer = read_file(path, problems)
    includes = _includes(layer, path, problems)
    # The authors merge depth first into one mapping; a file's own values come last.
    for file, origin in includes:
        chain = (*parents, path)
        if file.resolve() in [p.resolve() for p in chain]:
            names = " -> ".join(p.name for p in (*chain, file))
            problems.append(Problem(str(origin), f"{INCLUDE}: files include each other: {names}"))
        elif not file.is_file():
            problems.append(Problem(str(origin), f"{INCLUDE}: no such file: {shown_path(file)}"))
        else:
            _load_into(tree, file, problems, chain)
    number = tree.top_layer + 1
    layer.origins = {k: Origin(o.file, o.line, o.flag, number) for k, o in layer.origins.items()}
    problems += dialect.translate(layer)
    if "base_epochs" not in tree.data:
        shortforms.remember_base(tree.data.get("epochs"), layer)
    tree.merge(layer)


def _includes(layer: Tree, path: Path, problems: list[Problem]) -> list[tuple[Path, Origin]]:
    value = layer.data.get(INCLUDE)
    origin = layer.origins.get((INCLUDE,), Origin(str(path), 1))
    entries = [value] if isinstance(value, str) else value or []
    found = []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        problems.append(Problem(str(origin), f"{INCLUDE}: expected a file or a list of files"))
        entries = []
    for index, entry in enumerate(entries):
        found.append((_included(entry, path.parent), layer.origins.get((INCLUDE, index), origin)))
    layer.remove((INCLUDE,))
    return found


def _included(entry: str, folder: Path) -> Path:
    """Relative to the including file, else to detrkit's configs, else a catalogue name."""
    file = Path(os.path.normpath(folder / Path(entry).expanduser()))
    if file.is_file():
        return file
    if (catalogue.root() / entry).is_file():
        return catalogue.root() / entry
    named = [e.path for e in catalogue.catalogue() if entry in (e.name, e.alias)]
    return named[0] if named else file


def read_file(path: Path, problems: list[Problem]) -> Tree:
    """One file without its includes."""
    where = shown_path(path)
    try:
        loader = Loader(read_text(path))
    except OSError as error:
        problems.append(Problem(where, f"cannot be read: {error.strerror or error}"))
        return Tree()
    except yaml.YAMLError as error:  # control characters
        problems.append(_syntax_problem(where, error))
        return Tree()
    try:
        node = loader.get_single_node()
        if node is None:
            return Tree()
        if not isinstance(node, yaml.MappingNode):
            problems.append(Problem(f"{where}:1", "expected `key: value` lines"))
            return Tree()
        reader = _Reader(loader, str(path), problems)
        data = reader.value(node, ())
        reader.origins.pop((), None)
        return Tree(data, reader.origins)
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(where, error))
        return Tree()
    finally:
        loader.dispose()


def _syntax_problem(where: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "\\t" in text:
        text += " (YAML indents with spaces, not tabs)"
    return Problem(f"{where}:{mark.line + 1}" if mark else where, f"not valid YAML: {text}")


class _Reader:
    """Turns composed YAML nodes into plain values and notes their lines."""

    def __init__(self, loader: Loader, file: str, problems: list[Problem]) -> None:
        self.loader, self.file, self.problems = loader, file, problems
        self.origins: dict[Keys, Origin] = {}
        self.open: list[yaml.Node] = []

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        self.origins[keys] = Origin(self.file, node.start_mark.line + 1)
        if len(self.origins) > MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES} values; aliases that multiply?")
        if any(node is parent for parent in self.open):
            raise yaml.composer.ComposerError(
                None, None, "an alias contains itself", node.start_mark
            )
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise yaml.constructor.ConstructorError(
                None, None, f"tag {node.tag!r} is not plain data", node.start_mark
            )
        self.open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*keys, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self.mapping(node, keys)
        finally:
            self.open.pop()

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            line = key_node.start_mark.line + 1
            key = self.key(key_node)
            if key in lines:
                self.problems.append(
                    Problem(
                        f"{shown_path(self.file)}:{line}" if self.file else "",
                        f"{'.'.join(str(k) for k in (*keys, key))}: given twice, "
                        f"also in line {lines[key]}",
                    )
                )
            lines[key] = line
        self.loader.flatten_mapping(node)  # `<<: *other`; own keys come last and win
        data = {}
        for key_node, value_node in node.value:
            key = self.key(key_node)
            path = (*keys, key)
            data[key] = self.value(value_node, path)
            # A block's own first line is that of its first child; its key's line reads better.
            self.origins[path] = Origin(self.file, key_node.start_mark.line + 1)
        return data

    def key(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a word or a number", node.start_mark
            )
        return self.loader.construct_object(node, deep=True)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        if "${" not in node.value:
            return self.loader.construct_object(node, deep=True)
        text = _VARIABLE.sub(lambda match: self.variable(match, node), node.value)
        if node.style is not None:  # quoted: stays text
            return text
        tag = self.loader.resolve(yaml.ScalarNode, text, (True, False))
        expanded = yaml.ScalarNode(tag, text, node.start_mark, node.end_mark)
        return self.loader.construct_object(expanded, deep=True)

    def variable(self, match: re.Match[str], node: yaml.Node) -> str:
        name, default = match.group(1), match.group(2)
        if name is None:  # $${
            return "${"
        value = os.environ.get(name)
        if not value and default is not None:  # as in a shell, `:-` also replaces empty text
            return default
        if value is None:
            line = node.start_mark.line + 1
            self.problems.append(
                Problem(
                    f"{shown_path(self.file)}:{line}" if self.file else "",
                    f"environment variable `{name}` is not set; "
                    f"`${{{name}:-default}}` gives a default",
                )
            )
            return ""
        return value
