"""Label Studio's JSON: a list of tasks, each with `data` and `annotations`.

An annotation has one choice (`type: choices`), or, where labels are no classes, a text or a number. A cancelled one is a refusal,
unless somebody else has labelled the same task. What stands in `predictions` nobody has said: it is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from usb_active.builtin.label_exchange.entries import Entry, Found
from usb_active.builtin.label_file import RowProblems
from usb_active.storage.durable import parse_json

# What Label Studio puts before the name of an uploaded file.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")


def write_label_studio(entries: Iterable[Entry], choices: bool = True) -> bytes:
    """The tasks as JSON. An image is named as Label Studio's local storage has it, and by its key.

    Args:
        entries: one with neither label nor refusal becomes a task without annotations.
        choices: whether labels are classes.
    """
    tasks = []
    for entry in entries:
        data = {"image": f"/data/local-files/?d={quote(entry.key, errors='surrogatepass')}", "key": entry.key}
        value = {"choices": [entry.label]} if choices else {"text": [entry.label]}
        result = {"from_name": "label", "to_name": "image", "type": "choices" if choices else "textarea", "value": value}
        annotation = {"was_cancelled": entry.is_skipped, "result": [] if entry.is_skipped else [result]}
        tasks.append({"data": data, "annotations": [annotation] if entry.label or entry.is_skipped else []})
    return (json.dumps(tasks, indent=1) + "\n").encode("ascii")


def read_label_studio(where: str, data: bytes, problems: RowProblems) -> list[Found]:
    """The answers in it. What is wrong with a task goes to `problems`; UsageError where the file is no JSON."""
    tasks = parse_json(where, data, "export it again, as JSON")
    tasks = tasks if isinstance(tasks, list) else [tasks]
    found = []
    for number, task in enumerate(tasks, start=1):
        place = f"{where}: task {task['id'] if isinstance(task, dict) and isinstance(task.get('id'), int) else number}"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict) or not isinstance(task.get("annotations", []), list):
            problems.add(place, "no task of Label Studio", str(task), "an object with `data` and `annotations` (JSON, not JSON-MIN)")
            continue
        said = {_answer(annotation) for annotation in task.get("annotations", [])} - {None}
        # Who refuses a sample says less than who labels it.
        said = said - {""} or said
        if len(said) > 1 or _MANY in said:
            texts = ", ".join(sorted(map(str, said - {_MANY})))
            problems.add(place, "not one label", texts, "annotations that agree, of one choice each")
        elif said:
            found.append(Found(place, _names(task["data"]), str(said.pop())))
    return found


# An annotation with several labels, or with something else than a label.
_MANY = ("several",)


def _answer(annotation: Any) -> str | tuple[str] | None:
    """A label's text, "" for a refusal, None where nothing is said."""
    if not isinstance(annotation, Mapping):
        return _MANY
    if annotation.get("was_cancelled") is True:
        return ""
    results = annotation.get("result") or []
    if not isinstance(results, list):
        return _MANY
    texts = [text for result in results for text in _texts(result)]
    if not results:
        return None
    return texts[0] if len(texts) == 1 and texts[0] else _MANY


def _texts(result: Any) -> list[str]:
    value = result.get("value") if isinstance(result, Mapping) else None
    if not isinstance(value, Mapping):
        return []
    for name in ("choices", "text", "number"):
        if name in value:
            items = value[name] if isinstance(value[name], list) else [value[name]]
            return [str(item) for item in items]
    return []


def _names(data: Mapping[str, Any]) -> tuple[str, ...]:
    """What may be the key: `key` as it is written here, then what an address of the image ends in."""
    names = [data["key"]] if isinstance(data.get("key"), str) else []
    for text in [data["image"]] if "image" in data else data.values():
        if isinstance(text, str):
            names += [text, *_of_address(text)]
    return tuple(dict.fromkeys(names))


def _of_address(text: str) -> list[str]:
    try:
        address = urlsplit(text)
    except ValueError:
        return []
    local = parse_qs(address.query).get("d", [])
    path = unquote(address.path, errors="surrogateescape")
    name = path.rpartition("/")[2]
    # Of an uploaded file nothing but its name is left.
    return [*local, path, *([_UPLOADED.sub("", name)] if _UPLOADED.match(name) else [])]
