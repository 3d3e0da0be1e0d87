"""Keys pressed in the browser, told to Python; silent while one types into a field."""

from __future__ import annotations

import param
from panel.custom import JSComponent


class Keyboard(JSComponent):
    """Listens for single keys.

    On a page of its own it hears every key; in a notebook only those pressed while the pointer is over the explorer,
    which it then keeps from the notebook.
    """

    keys = param.List(doc="Keys that are listened for, as `KeyboardEvent.key` names them.")
    everywhere = param.Boolean(True, doc="Whether the whole page belongs to the explorer.")
    pressed = param.String(doc="The key, then a running number, so that a repeated key is a change.")

    _esm = """
export function render({ model, view }) {
  let top = view; while (top.parent) top = top.parent;
  let over = false, count = 0;
  const typing = (event) => event.composedPath().some((node) => node.tagName &&
    (/^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName) || node.isContentEditable));
  const move = (event) => { over = event.composedPath().includes(top.el); };
  const down = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
    if (!model.keys.includes(event.key) || !(model.everywhere || over)) return;
    event.preventDefault(); event.stopPropagation();
    model.pressed = `${event.key} ${++count}`;
  };
  document.addEventListener("mousemove", move, true);
  document.addEventListener("keydown", down, true);
  model.on("remove", () => {
    document.removeEventListener("mousemove", move, true);
    document.removeEventListener("keydown", down, true);
  });
  const nothing = document.createElement("span");
  return nothing;
}
"""
