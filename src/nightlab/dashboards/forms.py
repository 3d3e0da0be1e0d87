"""A form made from any configuration: one row per knob, help, what was changed, and what is wrong in words."""

from __future__ import annotations

import functools
import html
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import panel as pn
import param
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nightlab.config import Config
from nightlab.errors import BadInput

_WORDS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a number that is not so long",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "yes or no",
    "literal_error": "one of {expected}",
    "too_short": "at least {min_length} values, there are {actual_length}",
    "too_long": "at most {max_length} values, there are {actual_length}",
}
#: Lower and smaller than usual, for columns of many widgets.
COMPACT = """
input.bk-input, select.bk-input { height: 30px !important; min-height: 30px; padding: 2px 8px !important;
  font-size: 13px; }
label { font-size: 13px; }
"""
#: A label for those who do not see what a widget stands beside.
UNSEEN_LABEL = """.bk-input-group > label { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); }"""
SMALL_BUTTON = ".bk-btn { height: 28px; min-height: 28px; padding: 1px 10px; font-size: 12px; }"
_FOLD_CSS = ".bk-btn { text-align: left !important; font-size: 13px; font-weight: 600; padding: 3px 8px; }"
_ROW_CSS = """
:host(.changed) label { font-weight: 600; }
:host(.changed) input, :host(.changed) select { border-left: 3px solid var(--accent-fill-rest, #1f77b4); }
:host(.wrong) input, :host(.wrong) select { border-color: #c62828; }
"""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One leaf of a configuration.

    Attributes
    ----------
    path
        Where it is: ``stars.min_snr``.
    kind
        Its type, without None.
    optional
        Whether None is allowed.
    default
        Its value in a new configuration; ``PydanticUndefined`` when it has to be given.
    help
        What it means, with unit and limits.
    unit
        Unit, empty when it has none.
    """

    path: str
    kind: Any
    optional: bool
    default: Any
    help: str
    unit: str

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition(".")[2]


def knobs_of(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[Knob]:
    """Yield every leaf of a configuration, those of nested ones under their own paths."""
    for name, info in model.model_fields.items():
        kind, optional = _unwrap(info.annotation)
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            yield from knobs_of(kind, f"{prefix}{name}.")
            continue
        text, unit = _split_unit(info.description or "")
        limits = _limits(info)
        default = PydanticUndefined if info.is_required() else info.get_default(call_default_factory=True)
        yield Knob(
            path=f"{prefix}{name}",
            kind=kind,
            optional=optional,
            default=default,
            help="; ".join(part for part in (text, limits) if part),
            unit=unit,
        )


def say(error: Mapping[str, Any]) -> str:
    """Put one of pydantic's errors into words: ``must be more than 0``."""
    kind = str(error["type"])
    facts = {key: f"{item:g}" if isinstance(item, float) else item for key, item in (error.get("ctx") or {}).items()}
    if kind == "missing":
        return "needs more values" if isinstance(error["loc"][-1], int) else "is needed"
    if kind in ("value_error", "assertion_error"):
        return str(facts.get("error", error["msg"]))
    if kind in _WORDS:
        return f"must be {_WORDS[kind].format(**facts)}"
    return str(error["msg"]).replace("Input should be", "must be")


def plain(value: Any) -> str:
    """Write a value as one types it, ``4, 2, 2`` for a tuple, nothing for None; what is read back is the same."""
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, tuple | list):
        return ", ".join(plain(item) for item in value)
    return repr(value) if isinstance(value, float) else str(value)


def assignment(path: str, value: Any) -> str:
    """Write ``path=value`` for the command line's ``--set``."""
    return f"{path}={value!r}" if isinstance(value, tuple | list | float) else f"{path}={value}"


def changes(config: pydantic.BaseModel) -> dict[str, Any]:
    """Give the values of a configuration that are not defaults, by dotted path."""
    values = {knob.path: (_at(config, knob.path), knob.default) for knob in knobs_of(type(config))}
    return {path: value for path, (value, default) in values.items() if value != default}


def tick(owner: param.Parameterized, name: str, label: str, **look: Any) -> pn.widgets.CheckBoxGroup:
    """Make a box to tick for a yes-or-no parameter; its words belong to it, for a click and for a screen reader."""
    box = pn.widgets.CheckBoxGroup(options=[label], value=[label] if getattr(owner, name) else [], **look)
    box.param.watch(lambda event: setattr(owner, name, bool(event.new)), "value")
    owner.param.watch(lambda event: setattr(box, "value", [label] if event.new else []), name)
    return box


def fold(title: str, *parts: Any, opened: bool = False) -> pn.Column:
    """Put parts below a line that opens and closes them; the page gets them when they are opened first."""
    body = pn.Column(*(parts if opened else ()), visible=opened, sizing_mode="stretch_width", margin=(0, 0, 0, 8))
    line = pn.widgets.Button(sizing_mode="stretch_width", margin=(4, 8), stylesheets=[_FOLD_CSS])

    def show(*_: Any) -> None:
        line.label = f"{'▾' if body.visible else '▸'} {title}"

    def turn(_: Any) -> None:
        if not body.objects:
            body.objects = list(parts)
        body.visible = not body.visible

    line.on_click(turn)
    body.param.watch(show, "visible")
    show()
    return pn.Column(line, body, sizing_mode="stretch_width", margin=0)


class ConfigForm(pn.viewable.Viewer):
    """A form for a configuration.

    Parameters
    ----------
    config
        A configuration, or its class for one with all defaults.
    hidden
        Paths of knobs that are not shown and keep their values.
    """

    value = param.ClassSelector(class_=pydantic.BaseModel, doc="The configuration, always a valid one.")
    wrong = param.Dict(default={}, doc="What is wrong, by path; empty when what is shown is what `value` holds.")

    def __init__(self, config: Config | type[Config], *, hidden: tuple[str, ...] = (), **params: Any) -> None:
        model = config if isinstance(config, type) else type(config)
        super().__init__(**params)
        self.model: type[pydantic.BaseModel] = model
        self.knobs = {knob.path: knob for knob in knobs_of(model)}
        self._kept = {path: knob.default for path, knob in self.knobs.items() if path in hidden}
        self.widgets = {path: _widget(knob) for path, knob in self.knobs.items() if path not in hidden}
        # a row has a button and a note once it needs them: most knobs are at their defaults
        self._rows = {path: pn.Row(widget, sizing_mode="stretch_width", margin=0)
                      for path, widget in self.widgets.items()}  # fmt: skip
        self._notes = {path: pn.Column(sizing_mode="stretch_width", margin=0) for path in ("", *self.widgets)}
        self._writing = False
        for widget in self.widgets.values():
            widget.param.watch(lambda event: self._check(), "value")
        if isinstance(config, type):
            self._check()
        else:
            self.value = config

    @property
    def valid(self) -> bool:
        """Whether everything that is typed is in `value`."""
        return not self.wrong

    @property
    def changed(self) -> tuple[str, ...]:
        """Paths of the knobs that are not at their defaults."""
        return tuple(self.flat())

    def flat(self) -> dict[str, Any]:
        """Give the values that are not defaults, by dotted path."""
        if self.value is None:
            return {}
        return {path: value for path, value in changes(self.value).items() if path in self.widgets}

    def overrides(self) -> dict[str, Any]:
        """Give the values that are not defaults, nested as the configuration is."""
        return _nest(self.flat())

    def assignments(self, stage: str) -> list[str]:
        """Give the values that are not defaults as the command line's ``--set`` takes them."""
        return [assignment(f"{stage}.{path}", value) for path, value in self.flat().items()]

    def set(self, values: Mapping[str, Any]) -> None:
        """Fill in values by path, as if typed.

        Raises
        ------
        BadInput
            When there is no such knob.
        """
        unknown = sorted(set(values) - set(self.widgets))
        if unknown:
            raise BadInput(f"there is no knob {', '.join(unknown)}", hint=f"there are {', '.join(self.widgets)}")
        self._write(values)
        self._check()

    def reset(self, *paths: str) -> None:
        """Take knobs back to their defaults; all of them when none is named."""
        self.set({path: self.knobs[path].default for path in paths or self.widgets})

    def _take_back(self, path: str, _: Any) -> None:
        self.reset(path)

    @param.depends("value", watch=True)
    def _show(self) -> None:
        if self.value is not None and not self._writing:
            self._write({path: _at(self.value, path) for path in self.widgets})
            self._kept = {path: _at(self.value, path) for path in self._kept}
            self._check()

    def _write(self, values: Mapping[str, Any]) -> None:
        self._writing = True
        try:
            for path, value in values.items():
                widget = self.widgets[path]
                widget.value = plain(value) if isinstance(widget, pn.widgets.TextInput) else value
        finally:
            self._writing = False

    def _check(self) -> None:
        """Read all widgets: `value` follows when they make a configuration, `wrong` says why when they do not."""
        if self._writing:
            return
        typed = {path: _read(self.knobs[path], widget.value) for path, widget in self.widgets.items()}
        values = {path: value for path, value in (typed | self._kept).items() if value is not PydanticUndefined}
        wrong = {
            path: "must be a finite number" for path, value in values.items() if _infinite(self.knobs[path], value)
        }
        try:
            config = self.model.model_validate(_nest(values))
        except pydantic.ValidationError as error:
            for detail in error.errors():
                wrong.setdefault(self._path_of(detail["loc"]), say(detail))
        self._writing = True
        try:
            self.wrong = wrong
            if not wrong and config != self.value:
                self.value = config
        finally:
            self._writing = False
        self._mark(typed)

    def _path_of(self, loc: tuple[int | str, ...]) -> str:
        """Find the knob an error is about; the empty path for the configuration as a whole."""
        path = ".".join(str(part) for part in loc)
        while path and path not in self.widgets:
            path = path.rpartition(".")[0]
        return path

    def _mark(self, typed: Mapping[str, Any]) -> None:
        for path, widget in self.widgets.items():
            same = typed[path] == _read(self.knobs[path], _default(self.knobs[path], widget))
            classes = [*(["changed"] if not same else []), *(["wrong"] if path in self.wrong else [])]
            if widget.css_classes != classes:
                widget.css_classes = classes
            row = self._rows[path]
            if same != (len(row) == 1):
                row.objects = [widget] if same else [widget, self._reset_button(path)]
        for path, note in self._notes.items():
            _tell(note, self.wrong.get(path, ""))

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the rows out, nested configurations in cards."""
        groups: dict[str, list[str]] = {}
        for path in self.widgets:
            groups.setdefault(path.rpartition(".")[0], []).append(path)
        parts: list[Any] = [self._notes[""]]
        for group, paths in groups.items():
            rows = [self._row(path) for path in paths]
            if group:
                parts.append(fold(group, *rows))
            else:
                parts.extend(rows)
        if not self.widgets:
            parts = [pn.pane.HTML("<p>This stage has no knobs.</p>")]
        return pn.Column(*parts, sizing_mode="stretch_width")

    def _row(self, path: str) -> pn.Column:
        return pn.Column(self._rows[path], self._notes[path], sizing_mode="stretch_width", margin=0)

    def _reset_button(self, path: str) -> pn.widgets.Button:
        button = pn.widgets.Button(
            label="↺", description=f"back to the default of {path}", width=36, margin=(22, 4, 0, 0)
        )
        button.on_click(functools.partial(self._take_back, path))
        return button


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """Split ``X | None`` into X and whether None is allowed."""
    if type(None) in get_args(annotation):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return (kinds[0] if len(kinds) == 1 else Union[tuple(kinds)]), True  # noqa: UP007
    return annotation, False


def _split_unit(text: str) -> tuple[str, str]:
    """Take the unit, ``[sigma]``, off the end of a description."""
    found = re.fullmatch(r"(.*?)\s*\[([^\[\]]*)\]\.?", text.strip(), re.DOTALL)
    words, unit = (found[1], found[2]) if found else (text.strip(), "")
    return words.removesuffix("."), "" if unit == "1" else unit


def _limits(info: FieldInfo) -> str:
    words = []
    for item in info.metadata:
        match item:
            case annotated_types.Gt():
                words.append(f"more than {item.gt}")
            case annotated_types.Ge():
                words.append(f"at least {item.ge}")
            case annotated_types.Lt():
                words.append(f"less than {item.lt}")
            case annotated_types.Le():
                words.append(f"at most {item.le}")
    return ", ".join(words)


def _widget(knob: Knob) -> pn.widgets.Widget:
    """Make the widget of a knob; numbers are typed as text, so that none is rounded or cut to a limit unasked."""
    title = f"{knob.name} [{knob.unit}]" if knob.unit else knob.name
    common: dict[str, Any] = {
        "label": title,
        "stylesheets": [COMPACT, _ROW_CSS],
        "sizing_mode": "stretch_width",
        "margin": (3, 10),
    }
    common["description"] = knob.help or None
    if knob.kind is bool and not knob.optional:
        value = knob.default if isinstance(knob.default, bool) else False
        return pn.widgets.Select(options={"yes": True, "no": False}, value=value, **common)
    if get_origin(knob.kind) is Literal:
        choices = {str(choice): choice for choice in get_args(knob.kind)}
        options = {"(none)": None, **choices} if knob.optional else choices
        value = next(iter(options.values())) if knob.default is PydanticUndefined else knob.default
        return pn.widgets.Select(options=options, value=value, **common)
    hint = "(none)" if knob.optional else "values, separated by commas" if get_origin(knob.kind) is tuple else ""
    return pn.widgets.TextInput(value=plain(knob.default), placeholder=hint, **common)


def _default(knob: Knob, widget: pn.widgets.Widget) -> Any:
    return plain(knob.default) if isinstance(widget, pn.widgets.TextInput) else knob.default


def _read(knob: Knob, value: Any) -> Any:
    """Turn what is typed into what pydantic is to judge; text stays text, so that it can say what is wrong."""
    if not isinstance(value, str) or get_origin(knob.kind) is Literal:
        return value
    text = value.strip()
    if get_origin(knob.kind) is tuple:
        inner = text.strip("()[] ")
        return tuple(part.strip().strip("'\"") for part in inner.split(",") if part.strip())
    if not text and knob.optional:
        return None
    return text


def _infinite(knob: Knob, value: Any) -> bool:
    """Whether a number is typed that no knob can mean."""
    if knob.kind is not float or not isinstance(value, str):
        return False
    try:
        return not math.isfinite(float(value))
    except ValueError:
        return False


def _at(config: pydantic.BaseModel, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *folders, name = path.split(".")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = value
    return tree


def _tell(place: pn.Column, text: str) -> None:
    said = f"<span style='color:#d84315;font-size:12px' role='alert'>{html.escape(text)}</span>" if text else ""
    if said != "".join(pane.object for pane in place.objects):
        place.objects = [pn.pane.HTML(said, margin=(0, 10))] if said else []
