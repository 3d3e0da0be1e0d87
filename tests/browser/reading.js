// What a page says and how well it can be read, through all shadow roots.
() => {
  const up = (node) => node.assignedSlot ?? node.parentElement ?? node.getRootNode().host ?? null
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d",
    { willReadFrequently: true })
  const known = new Map()
  const rgba = (text) => {
    if (!known.has(text)) {
      context.clearRect(0, 0, 1, 1)
      context.fillStyle = text
      context.fillRect(0, 0, 1, 1)
      const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data
      known.set(text, [r, g, b, a / 255])
    }
    return known.get(text)
  }
  const over = ([r, g, b, a], below) => [r, g, b].map((v, k) => v * a + below[k] * (1 - a))
  const behind = (node) => {
    const layers = []
    for (let at = node; at; at = up(at)) {
      const colour = rgba(getComputedStyle(at).backgroundColor)
      if (colour[3] > 0) layers.push(colour)
      if (colour[3] > 0.99) break
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255])
  }
  const seen = (node) => {
    let opacity = 1
    for (let at = node; at; at = up(at)) opacity *= +getComputedStyle(at).opacity
    return opacity
  }
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const visible = (node) => {
    const box = node.getBoundingClientRect()
    return box.width > 1 && box.height > 1 && node.checkVisibility({ visibilityProperty: true, opacityProperty: true })
  }
  const disabled = (node) => {
    for (let at = node; at; at = up(at)) if (at.disabled || at.ariaDisabled === "true") return true
    return false
  }
  const texts = [], nameless = [], unlabelled = []
  const read = (node, text, style, own = 1) => {
    if (!visible(node) || disabled(node) || !text.trim() || own === 0) return
    const below = behind(node), ink = [...rgba(style.color)]
    ink[3] *= seen(node) * own
    const [a, b] = [light(over(ink, below)), light(below)]
    const size = parseFloat(style.fontSize), bold = +style.fontWeight >= 700
    texts.push({ text: text.trim().slice(0, 60), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), size,
      needed: size >= 24 || (bold && size >= 18.7) ? 3 : 4.5, tag: node.tagName, kind: String(node.className) })
  }
  const words = (node) => node.nodeType === 3 ? node.data
    : [...(node.shadowRoot ?? node).childNodes].map(words).join(" ")
  const named = (node) => [node.ariaLabel, node.title, node.alt, ...[...(node.labels ?? [])].map((l) => l.textContent),
    ...(node.ariaLabelledByElements ?? []).map((l) => l.textContent),
    /^(BUTTON|A|SUMMARY)$/.test(node.tagName) || node.role ? words(node) : ""].some((t) => t?.trim())
  const pictured = (node) => {
    for (let at = node; at; at = up(at)) {
      if (["figure", "img", "region", "group"].includes(at.role ?? at.getAttribute?.("role")) && at.ariaLabel) return true
    }
    return false
  }
  const walk = (root) => {
    for (const node of root.children ?? []) {
      if (/^(SCRIPT|STYLE|LINK|TEMPLATE|NOSCRIPT|OPTION)$/.test(node.tagName)) continue
      const style = getComputedStyle(node)
      for (const child of node.childNodes) if (child.nodeType === 3) read(node, child.data, style)
      if (/^(INPUT|TEXTAREA)$/.test(node.tagName) && !/^(checkbox|radio|color|range)$/.test(node.type)) {
        const hint = getComputedStyle(node, "::placeholder")
        if (node.value) read(node, node.value, style)
        else read(node, node.placeholder ?? "", hint, +hint.opacity)
      }
      if (node.tagName === "SELECT") read(node, node.selectedOptions[0]?.textContent ?? "", style)
      const control = /^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(node.tagName) ||
        /^(slider|button|switch|tab)$/.test(node.getAttribute("role") ?? "")
      if (control && visible(node) && !named(node)) nameless.push(node.outerHTML.slice(0, 160))
      if (node.tagName === "IMG" && visible(node) && node.getAttribute("alt") === null) unlabelled.push(node.outerHTML.slice(0, 160))
      if (node.tagName === "CANVAS" && visible(node) && !pictured(node)) unlabelled.push(up(node)?.outerHTML.slice(0, 160))
      walk(node)
      if (node.shadowRoot) walk(node.shadowRoot)
    }
  }
  walk(document.body)
  return { texts, nameless, unlabelled }
}
