"""The instruments we can read, by name; each lives in a module of its own and is loaded when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nightlab.errors import BadInput

if TYPE_CHECKING:
    from .base import Instrument

#: Module that holds an instrument, as the attribute ``INSTRUMENT`` or the one named behind a colon.
INSTRUMENTS = {
    "SDSS": "nightlab.data.instruments.sdss",
    "SimCam": "nightlab.data.instruments.simcam",
    "GenericFITS": "nightlab.data.instruments.generic",
    "ALFOSC": "nightlab.data.instruments.alfosc",
    "SAAO-STE3": "nightlab.data.instruments.saao",
    "DECam": "nightlab.data.instruments.decam",
    "HSC": "nightlab.data.instruments.hsc",
    "LSSTCam": "nightlab.data.instruments.lsstcam",
    "LSSTComCam": "nightlab.data.instruments.lsstcam:LSSTCOMCAM",
    "LATISS": "nightlab.data.instruments.lsstcam:LATISS",
}


def instrument(name: str) -> Instrument:
    """Instrument of that name.

    Raises
    ------
    BadInput
        When there is none; the message lists those there are.
    """
    try:
        module = INSTRUMENTS[name]
    except KeyError:
        known = ", ".join(sorted(INSTRUMENTS))
        raise BadInput(f"no instrument is called {name!r}", hint=f"known are {known}", name=name) from None
    module, _, attribute = module.partition(":")
    found: Instrument = getattr(import_module(module), attribute or "INSTRUMENT")
    return found
