// One function for all events of linked image panes. `cb_obj` is {what, slot, event}.
// Views are kept per slot, in that slot's own pixels: {x, y, width}. Slot pixels follow from common pixels by the
// affine map in `link.data.maps`, six numbers a slot: [a b; c d] (x, y) + (e, f).
const {what, slot, event} = cb_obj;
const S = (link.$panes ??= {views: [], common: null, fit: goal.data.fit[0], busy: false, lead: 0, told: 0, first: true});
const shown = link.data.shown[0], linked = link.data.linked[0];
const DEBOUNCE = 120, POINTER = 40;

const map = (k) => link.data.maps[0].slice(6 * k, 6 * k + 6);
const scale = (k) => { const [a, b, c, d] = map(k); return Math.sqrt(Math.abs(a * d - b * c)); };
const forward = (k, x, y) => { const [a, b, c, d, e, f] = map(k); return [a * x + b * y + e, c * x + d * y + f]; };
const backward = (k, x, y) => {
  const [a, b, c, d, e, f] = map(k), n = a * d - b * c;
  return [(d * (x - e) - b * (y - f)) / n, (-c * (x - e) + a * (y - f)) / n];
};
const size = (k) => {
  const {inner_width: w, inner_height: h} = figures[k].properties;
  return w.is_unset || h.is_unset ? [0, 0] : [w.get_value(), h.get_value()];
};

// put a slot's view on the screen, with square pixels
const place = (k) => {
  const [w, h] = size(k), view = S.views[k];
  if (!(w > 0 && h > 0) || view == null) return;
  const half = view.width / 2, tall = half * h / w;
  S.busy = true;
  figures[k].x_range.setv({start: view.x - half, end: view.x + half}, {sync: false});
  figures[k].y_range.setv({start: view.y - tall, end: view.y + tall}, {sync: false});
  S.busy = false;
};
const follow = () => {
  for (const k of shown) {
    const [x, y] = forward(k, S.common.x, S.common.y);
    S.views[k] = {x, y, width: S.common.width * scale(k)};
  }
};
// a slot was moved: the others follow when they are linked
const adopt = (k) => {
  S.lead = k;
  const view = S.views[k], [x, y] = backward(k, view.x, view.y);
  S.common = {x, y, width: view.width / scale(k)};
  if (linked) follow();
  for (const j of shown) place(j);
};
const fit = () => {
  for (const k of shown) {
    const [w, h] = size(k);
    if (!(w > 0 && h > 0)) return;
    const [x0, nx, y0, ny] = link.data.boxes[0].slice(4 * k, 4 * k + 4);
    S.views[k] = {x: x0 + (nx - 1) / 2, y: y0 + (ny - 1) / 2, width: Math.max(nx, ny * w / h)};
  }
  adopt(shown[0]);
};
const aim = () => {
  const [x, y, width] = goal.data.view[0];
  S.common = {x, y, width};
  follow();
  for (const k of shown) place(k);
};
const tell = () => {
  clearTimeout(S.timer);
  S.timer = setTimeout(() => {
    const boxes = [];
    for (const k of shown) {
      const {x_range: x, y_range: y} = figures[k], [w, h] = size(k);
      if (!(w > 0 && h > 0)) { tell(); return; }
      boxes.push(k, x.start, x.end, y.start, y.end, w, h);
    }
    if (S.common == null) return;
    S.first = S.moving = false;
    moved.data = {boxes: [boxes], view: [[S.common.x, S.common.y, S.common.width]], fit: [S.fit]};
  }, S.first ? 10 : DEBOUNCE);
};
const rulers = (k, x, y) => {
  for (const j of shown) {
    const here = x == null ? null : j == k ? [x, y] : linked ? forward(j, ...backward(k, x, y)) : null;
    crosses[2 * j].setv({location: here && here[0]}, {sync: false});
    crosses[2 * j + 1].setv({location: here && here[1]}, {sync: false});
  }
};
const point = (data) => {
  clearTimeout(S.pointing);
  const send = () => { S.told = Date.now(); pointed.data = data; };
  const wait = POINTER - (Date.now() - S.told);
  if (wait <= 0) send(); else S.pointing = setTimeout(send, wait);
};

switch (what) {
  case "range":
    if (S.busy || S.frame) break;
    S.moving = true;
    S.frame = requestAnimationFrame(() => {
      S.frame = 0;
      const {x_range: x, y_range: y} = figures[slot];
      S.fit = false;
      S.views[slot] = {x: (x.start + x.end) / 2, y: (y.start + y.end) / 2, width: x.end - x.start};
      adopt(slot);
      tell();
    });
    break;
  case "size":
    if (!shown.includes(slot)) break;
    if (S.common == null && !S.fit) aim();
    if (S.fit) fit(); else place(slot);
    tell();
    break;
  case "link":
    if (S.fit || S.common == null) { fit(); tell(); break; }
    if (linked) follow();
    else for (const k of shown) S.views[k] ??= {...S.common};
    for (const k of shown) place(k);
    tell();
    break;
  case "goal":
    S.fit = goal.data.fit[0];
    if (S.fit) fit(); else aim();
    tell();
    break;
  case "tap":
    if (S.views[slot] == null) break;
    S.fit = false;
    S.views[slot] = {...S.views[slot], x: event.x, y: event.y};
    adopt(slot);
    tell();
    break;
  case "move":
    rulers(slot, event.x, event.y);
    if (S.moving) break;  // while one pans the pixel under the pointer stays
    point({slot: [slot], x: [event.x], y: [event.y]});
    break;
  case "leave":
    rulers(slot, null, null);
    break;
}
