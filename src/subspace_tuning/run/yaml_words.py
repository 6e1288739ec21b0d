"""YAML in which words stay words.

YAML 1.1 takes ``no`` for false, ``007`` for 7 and ``2024-01-01`` for a day. Where a text is expected (``labels: [no,
yes]``), what stands there is the text; so are all keys. ``5e-5`` is a number, which YAML 1.1 takes for a text.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

_TEXT, _NULL, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "merge"))

OWN = ("method", "optimizer")  # whose fields are their own, whatever a task calls by the same name


class _Loader(yaml.SafeLoader):
    """Numbers as people write them."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse(text: str, texts: Container[str] = (), key: str | None = None) -> Any:
    """The plain data of a YAML text; ``texts`` are the keys whose values are texts, ``key`` that of the whole.

    Raises yaml.YAMLError for what is no YAML, or gives a key twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _keep_words(node, () if key in OWN else texts, key in texts, set())
        return loader.construct_document(node)
    except (RecursionError, ValueError) as error:  # nested without end; a day or number that is none
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def holds_texts(annotation: Any) -> bool:
    """Whether a type is that of texts, lists of texts, or None instead."""
    return _leaves(annotation) <= {str, type(None), Ellipsis}


def _leaves(annotation: Any) -> set[Any]:
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) is Annotated:
        return _leaves(get_args(annotation)[0])
    return set().union(*map(_leaves, get_args(annotation))) if get_args(annotation) else {annotation}


def _keep_words(node: yaml.Node, texts: Container[str], is_text: bool, seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        held = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                key.tag = _TEXT
                if key.value in held:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1} gives {key.value!r} a second time")
                held.add(key.value)
            name = getattr(key, "value", None)
            _keep_words(value, () if name in OWN else texts, name in texts, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if is_text and isinstance(item, yaml.ScalarNode):
                item.tag = _TEXT
            _keep_words(item, texts, False, seen)
    elif is_text and node.tag != _NULL:
        node.tag = _TEXT
