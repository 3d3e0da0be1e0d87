// Draws one page of rows. Everything it knows came from the server; everything it learns goes back as `asked`.
// data.content = {columns, rows, ids, page, pages, total, all, sort, descending, filters, wrong, message}
const ask = (what) => { data.asked = {...what, nonce: (data.asked.nonce ?? 0) + 1} }
const make = (tag, attributes = {}, text = null) => {
  const node = document.createElement(tag)
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value)
  if (text !== null) node.textContent = text
  return node
}
const number = (n) => n.toLocaleString("en").replaceAll(",", "\u2009")
state.make = make
state.ask = ask
state.number = number

state.select = (row) => {
  if (row === undefined || row === null) return
  data.selected = [row]
}
state.focus = (index) => {
  const rows = table.querySelectorAll("tbody tr[data-id]")
  if (!rows.length) return
  const to = rows[Math.max(0, Math.min(index, rows.length - 1))]
  rows.forEach((row) => row.setAttribute("tabindex", row === to ? "0" : "-1"))
  to.focus()
}
state.keys = (event) => {
  const row = event.target.closest("tr[data-id]")
  if (!row) return
  const index = [...row.parentNode.children].indexOf(row)
  const c = data.content
  const act = {
    ArrowDown: () => state.focus(index + 1),
    ArrowUp: () => state.focus(index - 1),
    Home: () => state.focus(0),
    End: () => state.focus(c.ids.length - 1),
    Enter: () => state.select(row.dataset.id),
    " ": () => state.select(row.dataset.id),
    PageDown: () => c.page + 1 < c.pages && ask({page: c.page + 1, focus: true}),
    PageUp: () => c.page > 0 && ask({page: c.page - 1, focus: true}),
  }[event.key]
  if (!act) return
  event.preventDefault()
  event.stopPropagation()
  act()
}

state.head = () => {
  const c = data.content
  const head = make("thead")
  const titles = make("tr")
  const inputs = make("tr", {class: "filters"})
  for (const column of c.columns) {
    const sorted = c.sort === column.name
    const th = make("th", {
      scope: "col",
      "aria-sort": sorted ? (c.descending ? "descending" : "ascending") : "none",
      class: column.numeric ? "number" : "",
    })
    const button = make("button", {type: "button", title: column.help || `Sort by ${column.title}`})
    button.append(make("span", {}, column.title))
    if (column.unit) button.append(make("span", {class: "unit"}, column.unit))
    button.append(make("span", {class: "arrow", "aria-hidden": "true"}, sorted ? (c.descending ? "▼" : "▲") : ""))
    button.onclick = () => ask({sort: column.name, descending: sorted ? !c.descending : column.numeric})
    th.append(button)
    titles.append(th)
    const cell = make("td")
    const input = make("input", {
      type: "text", spellcheck: "false", placeholder: column.numeric ? "> 5 or 1 .. 10" : "contains",
      "aria-label": `Filter ${column.title}`, "data-column": column.name,
    })
    input.value = c.filters[column.name] ?? ""
    if (c.wrong[column.name]) {
      input.setAttribute("aria-invalid", "true")
      input.title = c.wrong[column.name]
    }
    const send = () => {
      if (input.value !== (data.content.filters[column.name] ?? "")) ask({filter: column.name, text: input.value})
    }
    input.onchange = send
    input.onkeydown = (event) => { event.stopPropagation(); if (event.key === "Enter") send() }
    cell.append(input)
    inputs.append(cell)
  }
  head.append(titles, inputs)
  return head
}

state.body = () => {
  const c = data.content
  const chosen = new Set(data.selected)
  const body = make("tbody")
  body.onkeydown = state.keys
  const first = Math.max(0, c.ids.findIndex((id) => chosen.has(id)))
  c.rows.forEach((cells, i) => {
    const row = make("tr", {
      "data-id": c.ids[i], tabindex: i === first ? "0" : "-1", "aria-selected": chosen.has(c.ids[i]) ? "true" : "false",
    })
    cells.forEach((text, k) => {
      const td = make("td", {class: c.columns[k].numeric ? "number" : ""})
      const link = c.links[k]?.[i]
      if (link) {
        const anchor = make("a", {href: link, target: "_blank", rel: "noopener"}, text)
        anchor.onclick = (event) => event.stopPropagation()
        td.append(anchor)
      } else {
        td.textContent = text
      }
      row.append(td)
    })
    row.onclick = () => { state.focus(i); state.select(c.ids[i]) }
    body.append(row)
  })
  if (!c.rows.length) {
    const row = make("tr")
    row.append(make("td", {colspan: String(c.columns.length), class: "message"}, c.message))
    body.append(row)
  }
  return body
}

state.foot = () => {
  const c = data.content
  pager.replaceChildren()
  const turn = (text, label, to) => {
    const button = make("button", {type: "button", "aria-label": label, title: label}, text)
    button.disabled = to < 0 || to >= c.pages || to === c.page
    button.onclick = () => ask({page: to})
    pager.append(button)
  }
  turn("«", "First page", 0)
  turn("‹", "Previous page", c.page - 1)
  const label = make("label", {}, "page ")
  const input = make("input", {type: "text", inputmode: "numeric", "aria-label": "Page"})
  input.value = String(c.page + 1)
  input.onchange = () => { const to = parseInt(input.value) - 1; if (Number.isInteger(to)) ask({page: to}) }
  input.onkeydown = (event) => event.stopPropagation()
  label.append(input, ` of ${number(Math.max(1, c.pages))}`)
  pager.append(label)
  turn("›", "Next page", c.page + 1)
  turn("»", "Last page", c.pages - 1)
  const count = c.total === c.all ? `${number(c.all)} rows` : `${number(c.total)} of ${number(c.all)} rows`
  pager.append(make("span", {class: "count", role: "status"}, count))
  const link = (text, title, wish) => {
    const button = make("button", {type: "button", class: "link", title}, text)
    button.onclick = () => ask(wish)
    pager.append(button)
  }
  if (Object.values(c.filters).some((text) => text)) link("clear column filters", "Show all rows again", {clear: true})
  for (const kind of ["csv", "parquet"]) link(kind, `Download these rows as ${kind}`, {download: kind})
}

state.draw = () => {
  const active = table.getRootNode().activeElement
  const column = active?.dataset?.column
  const hadFocus = active?.dataset?.id !== undefined
  const typed = column !== undefined ? active.value : null
  const left = scroller.scrollLeft
  table.replaceChildren(state.head(), state.body())
  state.foot()
  scroller.scrollLeft = left
  if (data.content.page !== state.page) {
    scroller.scrollTop = 0
    const chosen = table.querySelector('tr[aria-selected="true"]')
    if (chosen) requestAnimationFrame(() => state.reveal(chosen))
  }
  state.page = data.content.page
  if (column !== undefined) {
    const input = table.querySelector(`input[data-column="${CSS.escape(column)}"]`)
    if (input) { input.focus(); input.value = typed }
  } else if (hadFocus) {
    state.focus([...table.querySelectorAll("tbody tr[data-id]")].findIndex((r) => r.getAttribute("tabindex") === "0"))
  }
}
state.reveal = (row) => {  // scrolls the table alone, never the page around it
  const head = table.querySelector("thead").offsetHeight
  if (row.offsetTop - head < scroller.scrollTop) scroller.scrollTop = row.offsetTop - head
  const below = row.offsetTop + row.offsetHeight - scroller.clientHeight
  if (below > scroller.scrollTop) scroller.scrollTop = below + 40
}
state.mark = () => {
  const chosen = new Set(data.selected)
  for (const row of table.querySelectorAll("tbody tr[data-id]")) {
    const is = chosen.has(row.dataset.id)
    row.setAttribute("aria-selected", is ? "true" : "false")
    if (is) state.reveal(row)
  }
}
state.save = () => {
  const bytes = Uint8Array.from(atob(data.file.base64), (character) => character.charCodeAt(0))
  const anchor = make("a", {download: data.file.name})
  anchor.href = URL.createObjectURL(new Blob([bytes]))
  anchor.click()
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000)
}
state.draw()
