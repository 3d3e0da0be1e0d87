"""What all explorers share: runs to choose from, a state that travels, a cell and a page."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import panel as pn
import param

from nightlab.dashboards.keyboard import Keyboard
from nightlab.dashboards.library import Library
from nightlab.dashboards.setup import setup
from nightlab.data.runs import Run, open_run
from nightlab.errors import BadInput, NightLabError

if TYPE_CHECKING:
    from astropy.table import Table
    from panel.viewable import Viewable

#: Every explorer by slug: module and class.
EXPLORERS: dict[str, tuple[str, str]] = {
    "overview": ("nightlab.dashboards.runner", "PipelineRunner"),
    "images": ("nightlab.dashboards.image_viewer", "ImageViewer"),
    "dia": ("nightlab.dashboards.dia", "DiaExplorer"),
    "metrics": ("nightlab.dashboards.metrics", "MetricsExplorer"),
    "workbench": ("nightlab.dashboards.workbench", "Workbench"),
}


class Explorer(pn.viewable.Viewer):
    """Base of the explorers.

    A subclass names its state in `remembered`, gives `main` and `rail`, and is done: it works in a notebook cell and
    as a served page, its state goes into links and files and comes back from them.

    Parameters
    ----------
    library
        Runs to choose from; those of `run`'s repository when absent.
    **state
        Parameters of the explorer.
    """

    slug: ClassVar[str] = ""
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    remembered: ClassVar[tuple[str, ...]] = ()
    in_url: ClassVar[tuple[str, ...]] = ()
    keys: ClassVar[dict[str, tuple[str, str]]] = {}
    compares: ClassVar[bool] = True

    run = param.ClassSelector(class_=Run, allow_None=True, doc="Run that is shown.")
    other = param.ClassSelector(class_=Run, allow_None=True, doc="Run it is compared with.")

    def __init__(self, library: Library | None = None, **state: Any) -> None:
        setup()
        run = state.get("run")
        if library is None:  # one without runs is a library, too
            library = Library.around(run) if run is not None else Library()
        self.library = library
        self.refused: list[str] = []
        super().__init__(**state)

    # what subclasses give

    def main(self) -> Viewable:
        """Give the body."""
        raise NotImplementedError

    def rail(self) -> Viewable | None:
        """Give the controls beside the body; None when it has none."""
        return None

    def table(self) -> Table | None:
        """Give the numbers behind what is shown; they are saved beside the state."""
        return None

    def picture(self) -> bytes | None:
        """Give what is shown as a PNG file, where the explorer can draw it without a browser."""
        return None

    # state

    @classmethod
    def from_run(cls, run: Run, **state: Any) -> Self:
        """Make an explorer of one run; the other runs of its repository can be chosen."""
        return cls(run=run, **state)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], library: Library | None = None) -> Self:
        """Make an explorer that shows what another one showed.

        Parameters
        ----------
        state
            What `state` gave, perhaps after a journey through JSON or a link.
        library
            Runs that may be opened; those below the working folder when absent.

        Raises
        ------
        BadInput
            When the state is of another explorer.
        """
        if state.get("explorer", cls.slug) != cls.slug:
            raise BadInput(f"this is a state of {state['explorer']!r}, not of {cls.slug!r}")
        library = Library.below(".") if library is None else library
        explorer = cls(library=library)
        explorer.restore(state)
        return explorer

    def state(self) -> dict[str, Any]:
        """Give all that is needed to show the same again, as plain values that JSON knows."""
        return {
            "explorer": self.slug,
            "run": self.library.key_of(self.run),
            "other": self.library.key_of(self.other),
            **{name: plain(getattr(self, name)) for name in self.remembered},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state; what does not fit is left as it was and told in `refused`."""
        self.refused = []
        for name in ("run", "other"):
            if state.get(name):
                try:
                    setattr(self, name, self.library[str(state[name])])
                except NightLabError as error:
                    self.refused.append(str(error))
        for name in self.remembered:
            if name not in state:
                continue
            try:
                setattr(self, name, fitted(self.param[name], state[name]))
            except (ValueError, TypeError) as error:
                self.refused.append(f"{name} = {state[name]!r}: {error}")

    def query(self) -> dict[str, str]:
        """Give the short state that a link carries."""
        state = self.state()
        values = {"run": state["run"], "b": state["other"], **{name: state[name] for name in self.in_url}}
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        return {name: text for name, text in texts.items() if text}

    @classmethod
    def from_query(cls, query: Mapping[str, str], library: Library) -> Self:
        """Make an explorer from the query part of a link; what does not fit is told in `refused`."""
        state: dict[str, Any] = {"explorer": cls.slug}
        for name, text in query.items():
            if name in ("run", "b"):
                state["other" if name == "b" else "run"] = text
            elif name in cls.in_url:
                state[name] = read_text(text, cls.param[name])
        if "run" not in state and len(library):
            state["run"] = default_run(library)
        return cls.from_state(state, library)

    def as_code(self) -> str:
        """Give the lines of Python that build this view."""
        module, name = type(self).__module__, type(self).__name__
        values = {key: fitted(self.param[key], plain(getattr(self, key))) for key in self.remembered}
        changed = {key: value for key, value in values.items() if value != self.param[key].default}
        settings = "".join(f", {key}={value!r}" for key, value in changed.items())
        lines = ["import nightlab as nl", f"from {module} import {name}"]
        if self.run is None:
            return "\n".join([*lines, f"{name}({settings.removeprefix(', ')})"])
        opened = f'run = nl.open_run({str(self.run.repository)!r}, "{self.run.name}")'
        if self.other is not None:
            settings = f', other=nl.open_run({str(self.other.repository)!r}, "{self.other.name}"){settings}'
        return "\n".join([*lines, opened, f"{name}.from_run(run{settings})"])

    def bundle(self) -> io.BytesIO:
        """Pack state, code, table and picture of the view into one zip file."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("state.json", json.dumps(self.state(), indent=1))
            archive.writestr("view.py", self.as_code() + "\n")
            if (table := self.table()) is not None:
                text = io.StringIO()
                table.write(text, format="ascii.ecsv")
                archive.writestr("table.ecsv", text.getvalue())
            if (picture := self.picture()) is not None:
                archive.writestr("picture.png", picture)
        packed.seek(0)
        return packed

    # views

    def header(self) -> Viewable:
        """Give the bar above the body: runs A and B, code, save, help."""
        from nightlab.dashboards.header import header

        return header(self)

    def listening(self, *, everywhere: bool) -> Keyboard:
        """Give the invisible component that hears the explorer's keys."""
        keyboard = Keyboard(keys=list(self.keys), everywhere=everywhere, width=0, height=0, margin=0)
        keyboard.param.watch(lambda event: self.press(event.new.rpartition(" ")[0]), "pressed")
        return keyboard

    def press(self, key: str) -> None:
        """Do what a key stands for."""
        if key in self.keys:
            getattr(self, self.keys[key][0])()

    def __panel__(self) -> Viewable:
        rail = self.rail()
        body: Any = self.main()
        if rail is not None:
            body = pn.Row(pn.Column(rail, width=300, margin=(0, 12, 0, 0)), body)
        parts = [self.header(), body, self.listening(everywhere=False)]
        return pn.Column(*parts)

    def servable_page(self) -> Any:
        """Wrap the explorer into a page of its own."""
        from nightlab.dashboards.page import page

        return page(self.title, self.slug, lambda: self)


def explorer_class(slug: str) -> type[Explorer]:
    """Import the explorer of a slug.

    Raises
    ------
    BadInput
        When there is none.
    """
    from importlib import import_module

    if slug not in EXPLORERS:
        raise BadInput(f"there is no explorer {slug!r}", hint=f"there are {', '.join(EXPLORERS)}")
    module, name = EXPLORERS[slug]
    return getattr(import_module(module), name)


def default_run(library: Library) -> str:
    """Choose what is shown when nobody said: a finished night where there is one."""
    return next((key for key in library if key.endswith("ApPipe")), next(iter(library)))


def plain(value: Any) -> Any:
    """Turn a value into what JSON knows; NaN becomes None, 64-bit integers stay exact."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def fitted(parameter: param.Parameter, value: Any) -> Any:
    """Turn a value from JSON into what a parameter takes."""
    if value is None:
        return parameter.default
    if isinstance(parameter, (param.Tuple, param.Range)) and isinstance(value, list):
        return tuple(value)
    if isinstance(parameter, param.Selector) and not isinstance(parameter, param.ListSelector):
        return next((known for known in parameter.objects if str(known) == str(value)), value)
    if isinstance(parameter, param.Integer) and isinstance(value, str):
        return int(value)
    return value


def read_text(text: str, parameter: param.Parameter) -> Any:
    """Read a value of a link: JSON where it is JSON and the parameter is no text, else the text itself."""
    if isinstance(parameter, param.String):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


__all__ = ["EXPLORERS", "Explorer", "default_run", "explorer_class", "fitted", "open_run", "plain", "read_text"]
