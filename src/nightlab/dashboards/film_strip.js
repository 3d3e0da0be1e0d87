// Frames ask for their pictures when they come into view; pictures that came are kept here.
const make = (tag, attributes = {}, text = null) => {
  const node = document.createElement(tag)
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value)
  if (text !== null) node.textContent = text
  return node
}
state.pictures = state.pictures ?? {}
state.wanted = new Set()
state.ask = () => {
  clearTimeout(state.timer)
  state.timer = setTimeout(() => {
    const keys = [...state.wanted].filter((key) => !(key in state.pictures))
    state.wanted.clear()
    if (keys.length) data.wanted = {keys, nonce: (data.wanted.nonce ?? 0) + 1}
  }, 60)
}
state.fill = (frame, key) => {
  const pictures = state.pictures[key]
  if (!pictures) return
  const holder = frame.querySelector(".holder")
  holder.replaceChildren(...pictures.map(([title, picture]) => picture.startsWith("data:image/png")
    ? Object.assign(make("img", {alt: `${title}, ${frame.title}`}), {src: picture})
    : make("span", {class: "reason", title: picture}, picture.split(":")[0])))
}
state.draw = () => {
  state.observer?.disconnect()
  state.pictures = {}
  state.observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) state.wanted.add(entry.target.dataset.key)
    state.ask()
  }, {root: strip, rootMargin: "120px"})
  strip.replaceChildren(...data.frames.map(({key, band, label, detail}) => {
    const frame = make("button", {type: "button", class: "frame", "data-key": key, title: detail})
    frame.append(make("span", {class: "holder"}), make("span", {class: "label"}, `${band} ${label}`))
    frame.onclick = () => { data.chosen = key }
    state.observer.observe(frame)
    return frame
  }))
  state.mark()
}
state.mark = () => {
  for (const frame of strip.children) {
    const is = frame.dataset.key === data.chosen
    frame.setAttribute("aria-pressed", is ? "true" : "false")
    if (is) strip.scrollTo({left: frame.offsetLeft - strip.clientWidth / 2 + frame.clientWidth / 2})
  }
}
state.arrive = () => {
  const came = data.delivered.pictures ?? {}
  Object.assign(state.pictures, came)
  for (const frame of strip.children) if (frame.dataset.key in came) state.fill(frame, frame.dataset.key)
}
state.draw()
