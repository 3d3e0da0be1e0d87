import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from bokeh.document import Document
from panel.io import document as panel_documents

from nightlab.dashboards.messages import send_all


class Page:
    """A connection to a page; the protocol makes a message of the events alone."""

    def __init__(self):
        self._socket = self
        self.protocol = SimpleNamespace(create=lambda kind, events: events)


async def _written(document):
    for future in panel_documents._WRITE_FUTURES.pop(document, []):
        await future


def test_a_message_that_is_put_in_line_while_another_is_sent_is_sent_too(monkeypatch):
    send_all()
    document, page, sent = Document(), Page(), []

    async def write(message):
        await asyncio.sleep(0.01)
        sent.append(message)

    def put_in_line(*events):
        panel_documents.schedule_write_events(document, [page], list(events))

    def dispatch(_, msg):
        future = asyncio.ensure_future(write(msg))
        if msg == ["first"]:  # at the last moment before who waits for it goes on
            future.add_done_callback(lambda _: put_in_line("second"))
        return [future]

    async def line():
        put_in_line("first")
        await asyncio.sleep(0.2)

    monkeypatch.setitem(panel_documents.extra_socket_handlers, Page, dispatch)
    monkeypatch.setattr(panel_documents, "_run_write_futures", _written)
    with ThreadPoolExecutor(1) as own_thread:  # a browser test before this one may have left a loop running in ours
        own_thread.submit(asyncio.run, line()).result()
    assert sent == [["first"], ["second"]]
