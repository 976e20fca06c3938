"""A recipe as text: TOML that parse_recipe_toml reads back equal, and what one version changed of another."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from feedback_app.datasets.exporting.options import ExportOptions
from feedback_app.rounds.recipes import OPERATORS_ALONE, STAGES, TABLES, Recipe


def recipe_as_toml(config: Mapping[str, Any]) -> str:
    """Return a recipe's JSON form as TOML, in the order of its declaration, tables last as TOML wants them."""
    config = _ordered(config)
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    parts = ["".join(f"{key} = {_value(value)}\n" for key, value in plain.items())]
    for name, table in tables.items():
        if table:
            parts.append(f"\n[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in table.items()))
    return "".join(parts)


def _ordered(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as it is declared: what the database gives back has an order of its own."""
    tables = {**STAGES, **TABLES, "judgments": ExportOptions}

    def by(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        places = {entry.name: place for place, entry in enumerate(dataclasses.fields(kind))}
        return dict(sorted(values.items(), key=lambda item: places.get(item[0], len(places))))

    inner = {
        key: by(tables[key], value) if key in tables and isinstance(value, Mapping) else value
        for key, value in config.items()
    }
    return by(Recipe, inner)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "true" if value is True else "false" if value is False else repr(value)


def without_operators(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (what a page may show to be changed, what only an operator sets) of a recipe's JSON form."""
    shown: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key == "launcher":
            kept |= {key: value} if value else {}
        elif key in OPERATORS_ALONE:
            own = OPERATORS_ALONE[key]
            shown[key] = {name: part for name, part in value.items() if name not in own}
            kept |= {key: table} if (table := {name: part for name, part in value.items() if name in own}) else {}
        else:
            shown[key] = value
    return shown, kept


def with_operators(config: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with what an operator had set laid over it again."""
    merged = dict(config)
    for key, value in kept.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
    return merged


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values by dotted key, as its error messages name them."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, Mapping) else {key: value}
    return found


def changes(config: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what differs: {"key", "before", "after"}, None where the key is not set."""
    new, old = flat(config), flat(before)
    return [
        {"key": key, "before": old.get(key), "after": new.get(key)}
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
