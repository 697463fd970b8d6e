"""A workflow in API format: the inputs that a user means, their new values, the names of what it saves."""

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import MuseTalkError

Workflow = dict[str, dict[str, Any]]
Value = bool | int | float | str

PREFIX = "filename_prefix"
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Input(NamedTuple):
    """An input of a workflow's node."""

    node: str
    name: str


def read_workflow(path: Path) -> Workflow:
    """Read a file in API format: {node id: {class_type, inputs, _meta?}}. Raises MuseTalkError for another one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise MuseTalkError(f"The workflow {path} cannot be read: {error}.") from error
    if isinstance(content, dict) and "nodes" in content and "links" in content:
        raise MuseTalkError(f"{path} is saved for the page; save it with Workflow > Export (API) and give that file.")
    if not isinstance(content, dict) or not content or not all(_is_node(node) for node in content.values()):
        raise MuseTalkError(f"{path} holds no workflow in API format; make one with Workflow > Export (API).")
    return content


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def title(workflow: Workflow, node: str) -> str:
    """What the page shows above a node."""
    return workflow[node].get("_meta", {}).get("title") or workflow[node]["class_type"]


def find_input(workflow: Workflow, address: str) -> Input:
    """The input that `node.input` means; node is an id, a title, or a class_type, the last two when unique.

    Raises MuseTalkError when there is none, when there are several, or when another node feeds it.
    """
    words = address.split(".")
    splits = [(".".join(words[:cut]), ".".join(words[cut:])) for cut in range(len(words) - 1, 0, -1)]
    if not splits:
        raise MuseTalkError(f"{address!r} names no input; write node.input, such as KSampler.seed or 3.seed.")
    nodes = [Input(node, name) for word, name in splits for node in _nodes_called(workflow, word)]
    found = [target for target in nodes if target.name in workflow[target.node]["inputs"]]
    if len(found) == 1:
        return _settable(workflow, found[0])
    if found:
        choices = ", ".join(f"{target.node}.{target.name}" for target in found)
        raise MuseTalkError(f"{address!r} names several inputs: {choices}; write one of these.")
    if nodes:
        node = nodes[0].node
        inputs = ", ".join(workflow[node]["inputs"])
        raise MuseTalkError(f"The node {node} ({title(workflow, node)}) has no {nodes[0].name!r}; it has {inputs}.")
    known = ", ".join(f"{node} ({title(workflow, node)})" for node in workflow)
    raise MuseTalkError(f"The workflow has no node {splits[0][0]!r}; it has {known}.")


def _nodes_called(workflow: Workflow, word: str) -> list[str]:
    if word in workflow:
        return [word]
    titled = [node for node in workflow if title(workflow, node) == word]
    return titled or [node for node, content in workflow.items() if content["class_type"] == word]


def _settable(workflow: Workflow, target: Input) -> Input:
    held = workflow[target.node]["inputs"][target.name]
    if isinstance(held, list) and len(held) == 2 and str(held[0]) in workflow:
        source = str(held[0])
        raise MuseTalkError(
            f"{target.node}.{target.name} is fed by the node {source} ({title(workflow, source)}); "
            "set an input of that node."
        )
    return target


def parse_value(workflow: Workflow, target: Input, text: str) -> Value:
    """`text` as the type that the workflow holds there: true or false, a number, or the text itself.

    A whole number stays an int; whether the node takes 2.5 is known on the server alone. Raises MuseTalkError.
    """
    held = workflow[target.node]["inputs"][target.name]
    if isinstance(held, bool):
        if text.strip().lower() not in BOOLEANS:
            raise MuseTalkError(f"{target.node}.{target.name} takes true or false, not {text!r}.")
        return BOOLEANS[text.strip().lower()]
    if isinstance(held, int | float):
        return _number(target, text)
    if isinstance(held, str):
        return text
    raise MuseTalkError(f"{target.node}.{target.name} holds {held!r}; only numbers, booleans and text can be set.")


def _number(target: Input, text: str) -> Value:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    raise MuseTalkError(f"{target.node}.{target.name} takes a number such as 3 or 2.5, not {text!r}.")


def with_values(workflow: Workflow, values: Mapping[Input, Value], folder: str) -> Workflow:
    """A copy with the values set; what it saves goes to `folder` below the output folder.

    Only filename_prefix inputs that hold text and are not among `values` are changed.
    """
    prompt = copy.deepcopy(workflow)
    for node in prompt.values():
        prefix = node["inputs"].get(PREFIX)
        if isinstance(prefix, str):
            name = prefix.replace("\\", "/").rsplit("/", 1)[-1]
            node["inputs"][PREFIX] = f"{folder}/{name or 'output'}"
    for target, value in values.items():
        prompt[target.node]["inputs"][target.name] = value
    return prompt
