"""The filters of the DIA explorer, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import panel as pn

from nightlab.columns import words
from nightlab.dashboards.forms import COMPACT, fold

if TYPE_CHECKING:
    from nightlab.dashboards.dia import DiaExplorer

# what is pressed reads white on the accent, in light and dark
_ACTIVE = ":host .bk-btn-group .bk-btn.bk-active { color: #ffffff !important; }"


def filter_panel(explorer: DiaExplorer) -> pn.Column:
    """Lay out the filters of an explorer that has a catalogue."""
    catalogue = explorer.catalogue
    assert catalogue is not None, "there is nothing to filter"
    p: Any = explorer.param
    wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": (4, 10)}
    small: dict[str, Any] = {**wide, "stylesheets": [COMPACT]}
    pressed: dict[str, Any] = {"color": "primary", "variant": "outline", "stylesheets": [_ACTIVE], **wide}
    flags = {words(flag).title: flag for flag in catalogue.flags}
    kind = pn.widgets.RadioButtonGroup.from_param(p.kind, **pressed)
    plane = pn.widgets.RadioButtonGroup.from_param(p.plane, **pressed)
    search = pn.widgets.TextInput.from_param(
        p.search, name="search: id, or RA Dec radius", placeholder="150.075 2.178 30", **small
    )
    bands = pn.widgets.CheckButtonGroup.from_param(p.bands, label="bands", options=catalogue.bands, **pressed)
    snr = pn.widgets.FloatInput.from_param(p.snr_min, start=0.0, step=1.0, **small)
    number = pn.widgets.IntInput.from_param(p.detections_min, start=1, **small)
    parts: list[Any] = [kind, plane, search]
    if len(explorer.catalogues) == 2:
        parts.append(pn.widgets.Select.from_param(p.only, label="A | B by position (1 arcsec)", **small))
    parts += [
        pn.pane.HTML("<span style='font-size:13px'>bands</span>", margin=(6, 10, 0, 10)),
        bands,
        pn.Row(snr, number, margin=0),
    ]
    if "reliability" in catalogue.sources.names:
        parts.append(pn.widgets.FloatSlider.from_param(p.reliability_min, start=0.0, end=1.0, step=0.01, **wide))
    if flags:
        for parameter, name, chosen in (
            (p.without, "without any of", explorer.without),
            (p.having, "with all of", explorer.having),
        ):
            boxes = pn.widgets.CheckBoxGroup.from_param(parameter, name=f"flags {name}", options=flags, margin=(2, 10))
            parts.append(fold(f"flags: {name}", boxes, opened=bool(chosen)))
    every = pn.widgets.Button(label="let everything through", **wide)
    every.on_click(lambda _: explorer.reset())
    boxed = explorer.box is not None
    no_box = pn.widgets.Button(label="clear the box", visible=boxed, **wide)
    no_box.on_click(lambda _: setattr(explorer, "box", None))
    explorer.param.watch(lambda event: setattr(no_box, "visible", event.new is not None), "box")
    return pn.Column(*parts, no_box, every, sizing_mode="stretch_width", margin=0)
