"""YAML from files and command lines, read with bounds: a few bytes can ask for more than any memory holds."""

from collections import Counter
from typing import Any

import yaml

MAX_CHARACTERS = 100_000
MAX_DEPTH = 20
MAX_VALUES = 10_000  # each counted as often as aliases repeat it, a long one as several
_VALUE_CHARACTERS = 100
_MAX_DIGITS = 100  # of an integer; Python reads 4300 at most
# What constructors raise on impossible dates, numbers of 5000 digits and words that are no numbers.
_ODD_VALUES = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises:
        ValueError: it is no YAML, or too large, too deep, or full of aliases; or it gives a key twice; or a value is
            none of its type.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has more than {MAX_CHARACTERS} characters")
    try:
        _check_depth(text)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_values(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except _ODD_VALUES as error:
        raise ValueError(_shortened(str(error)) or type(error).__name__) from error


def _check_depth(text: str) -> None:
    # Events come one by one, so that this ends where it gets too deep.
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise ValueError(f"line {line} is nested more than {MAX_DEPTH} deep")


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Values in a node, those of its aliases again each time."""
    if id(node) in counts:
        count = counts[id(node)]
        if not count:
            raise ValueError("holds an alias (*) inside of what it stands for")
        return count
    counts[id(node)] = 0
    count, children = 1, []
    if isinstance(node, yaml.ScalarNode):
        count += len(node.value) // _VALUE_CHARACTERS
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MAX_DIGITS:
            raise ValueError(f"line {_line(node)} holds an integer of more than {_MAX_DIGITS} digits")
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        _refuse_twins([key for key, _ in node.value])
        children = [part for pair in node.value for part in pair]
    count += sum(_count_values(child, counts) for child in children)
    if count > MAX_VALUES:
        raise ValueError(f"holds more than {MAX_VALUES} values, with those that aliases (*) repeat")
    counts[id(node)] = count
    return count


def _refuse_twins(keys: list[yaml.Node]) -> None:
    """Of a key that is given twice the last would count, without a word."""
    names = [(key.tag, key.value) for key in keys if isinstance(key, yaml.ScalarNode)]
    if twins := [name for name, count in Counter(names).items() if count > 1]:
        lines = [str(_line(key)) for key in keys if (key.tag, key.value) == twins[0]]
        raise ValueError(
            f"{_shortened(twins[0][1])} is given {len(lines)} times, in lines {', '.join(lines[:8])}; keep one"
        )


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def _shortened(text: str) -> str:
    return text if len(text) < 200 else f"{text[:200]}..."
