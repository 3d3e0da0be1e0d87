"""Knobs of a stage as `lsst.pex.config` fields, so that pipelines can set and check them.

The pydantic model stays the truth: each of its fields becomes a field here with the same name, default, bounds and
description, and validating the one builds the other.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import lsst.pex.config as pex
import pydantic
import pydantic_core
from pydantic.fields import FieldInfo

from nightlab.errors import BadInput

_PLAIN = (bool, int, float, str)


class ModelMixin:
    """What turns a generated pex_config class back into its pydantic model."""

    model_class: type[pydantic.BaseModel] | None = None

    def model(self) -> Any:
        """Build the pydantic model from the current values; None for a stage without knobs."""
        if self.model_class is None:
            return None
        return self.model_class.model_validate(self._values())

    def _values(self) -> dict[str, Any]:
        assert self.model_class is not None
        values = {}
        for name, info in self.model_class.model_fields.items():
            value = getattr(self, name)
            if isinstance(value, ModelMixin):
                value = value._values()
            elif isinstance(value, pex.listField.List):
                value = tuple(value)
            elif isinstance(value, str) and _is_json(info):
                value = json.loads(value)
            values[name] = value
        return values

    def validate(self) -> None:
        """Check the values: first each by itself, then as the model does."""
        super().validate()  # type: ignore[misc]
        try:
            self.model()
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, detail['loc'])) or 'config'}: {detail['msg']} (got {detail['input']!r})"
                for detail in error.errors()
            )
            raise BadInput(f"{type(self).__name__}: {problems}", hint="mend the value given with --set") from error


def config_fields(
    model: type[pydantic.BaseModel], nested: Callable[[str, type[pydantic.BaseModel]], type[pex.Config]]
) -> dict[str, pex.Field]:
    """Make one pex_config field per field of a model.

    Parameters
    ----------
    model
        The pydantic configuration of a stage.
    nested
        Makes the configuration class of a field that is a model itself; called with the field's name and its model.

    Returns
    -------
    dict
        Fields by name, in the order of the model.
    """
    return {name: _field(name, info, nested) for name, info in model.model_fields.items()}


def _field(
    name: str, info: FieldInfo, nested: Callable[[str, type[pydantic.BaseModel]], type[pex.Config]]
) -> pex.Field:
    doc = info.description or name
    kind, optional = _unwrap(info.annotation)
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) and not optional:
        return pex.ConfigField(doc=doc, dtype=nested(name, kind))
    if _is_json(info):
        text = None if default is None else json.dumps(pydantic_core.to_jsonable_python(default))
        return pex.Field(doc=f"{doc} (as JSON)", dtype=str, default=text, optional=optional)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return pex.ChoiceField(
            doc=doc,
            dtype=type(choices[0]),
            allowed={choice: str(choice) for choice in choices},
            default=default,
            optional=optional,
        )
    if get_origin(kind) is tuple:
        items = get_args(kind)
        length = None if items[-1] is Ellipsis else len(items)
        values = None if default is None else list(default)
        return pex.ListField(doc=doc, dtype=items[0], default=values, length=length, optional=optional)
    bounds = _bounds(info)
    if bounds and kind in (int, float):
        return pex.RangeField(doc=doc, dtype=kind, default=default, optional=optional, **bounds)
    return pex.Field(doc=doc, dtype=kind, default=default, optional=optional)


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """Split ``X | None`` into X and whether None is allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(kinds) == 1:
            return kinds[0], len(get_args(annotation)) == 2
    return annotation, type(None) in get_args(annotation)


def _is_json(info: FieldInfo) -> bool:
    """Whether a field's type has no counterpart and travels as JSON text."""
    kind, optional = _unwrap(info.annotation)
    origin, items = get_origin(kind), get_args(kind)
    if origin is Literal:
        return len({type(item) for item in items}) != 1 or type(items[0]) not in _PLAIN
    if origin is tuple:
        kinds = {item for item in items if item is not Ellipsis}
        return len(kinds) != 1 or kinds.pop() not in _PLAIN
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        return optional
    return kind not in _PLAIN


def _bounds(info: FieldInfo) -> dict[str, Any]:
    """Collect ``gt``, ``ge``, ``lt`` and ``le`` as the keywords of a RangeField."""
    bounds: dict[str, Any] = {}
    for item in info.metadata:
        if isinstance(item, annotated_types.Gt):
            bounds.update(min=item.gt, inclusiveMin=False)
        elif isinstance(item, annotated_types.Ge):
            bounds.update(min=item.ge, inclusiveMin=True)
        elif isinstance(item, annotated_types.Lt):
            bounds.update(max=item.lt, inclusiveMax=False)
        elif isinstance(item, annotated_types.Le):
            bounds.update(max=item.le, inclusiveMax=True)
    return bounds
