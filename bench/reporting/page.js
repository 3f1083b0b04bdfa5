"use strict";
// Opens the cells behind a number. All text is set as text, so nothing in a row can become markup.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("data"), pictures = read("pictures");
  const dialog = document.getElementById("view"), body = document.getElementById("view-body");
  const title = document.getElementById("view-title"), back = document.getElementById("back");
  let shown = [];

  const make = (tag, content = [], about = {}) => {
    const node = Object.assign(document.createElement(tag), about);
    node.append(...[content].flat());
    return node;
  };
  const expand = (ranges) => ranges === "" ? [] : ranges.split(",").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({length: last - first + 1}, (_, i) => first + i);
  });
  const zip = (names, values) => Object.fromEntries(names.map((name, i) => [name, values[i]]));
  const record = (number) => {
    const [key, group, own, finished, result, cost, needs] = data.records[number];
    const of = data.groups[group];
    return {
      number, key, group, finished, needs, kind: of.kind, tags: of.tags, own: zip(of.own, own),
      result: zip(of.result, result), cost: zip(of.cost, cost),
    };
  };
  const name = ({kind, tags, own}) => [
    kind, tags.what || tags.method, tags.ipc ? `IPC ${tags.ipc}` : "", own.seed === undefined ? "" : `seed ${own.seed}`,
    own.part ? `part ${own.part}` : "", tags.role ? `through ${tags.role} networks` : "",
    tags.network ? `${tags.what ? "" : "on "}${tags.network}` : "", own.number ? `number ${own.number}` : "",
    own.evaluation_seed === undefined ? "" : `(${own.evaluation_seed})`,
  ].filter(Boolean).join(" ");
  const words = (text) => text.replace(/_bytes$/, "").replaceAll("_", " ");
  const time = (s) => s >= 5400 ? `${(s / 3600).toFixed(1)} h` : s >= 120 ? `${(s / 60).toFixed(0)} min` : `${+s.toPrecision(3)} s`;
  const value = (name, it) =>
    it === null || it === undefined ? "—"
      : name === "seconds" ? time(it)
      : name.endsWith("bytes") ? `${(it / 2 ** 20).toFixed(1)} MiB`
      : typeof it === "number" ? String(+it.toPrecision(5))
      : typeof it === "object" ? lines(it).join("\n") : String(it);
  const lines = (it, indent = "") => Object.entries(it).flatMap(([key, inner]) => {
    const empty = inner === null || typeof inner !== "object" || Object.keys(inner).length === 0;
    const short = Array.isArray(inner) && inner.every((each) => typeof each !== "object");
    if (empty || short) {
      return [`${indent}${key}: ${inner === null ? "none" : short ? inner.join(", ") : typeof inner === "object" ? "" : inner}`];
    }
    return [`${indent}${key}:`, ...lines(inner, `${indent}  `)];
  });
  const table = (label, head, rows) => {
    const isText = head.map((_, i) => rows.some((row) => typeof row[i] !== "string" || !/^[-\d.—]/.test(row[i])));
    const node = make("table", [
      make("thead", make("tr", head.map((text, i) => make("th", text, {scope: "col", className: isText[i] ? "" : "right"})))),
      make("tbody", rows.map((row) => make("tr", row.map((each, i) => make("td", each, {className: isText[i] ? "left" : ""}))))),
    ]);
    const around = make("div", node, {className: "scroll", tabIndex: 0});
    around.setAttribute("role", "region");
    around.setAttribute("aria-label", label);
    return around;
  };
  const open = (text, number) => make("button", text, {type: "button", onclick: () => go({cell: number})});
  const mean = (values) => values.reduce((sum, each) => sum + each, 0) / values.length;

  // Accuracy by row and distillation seed, over the networks: what a table's mean and ± are made of.
  const bySeed = (found) => {
    const networks = [...new Set(found.map((each) => each.tags.network))], rows = new Map();
    for (const each of found) {
      const id = JSON.stringify([each.tags.method, each.tags.dataset, each.tags.ipc, each.tags.recipe, each.own.seed]);
      const row = rows.get(id) || rows.set(id, {first: each, values: new Map()}).get(id);
      const values = row.values.get(each.tags.network) || [];
      row.values.set(each.tags.network, [...values, each.result.accuracy]);
    }
    const several = networks.length > 1;
    return table("Accuracy by seed", ["Method", "Seed", ...networks, ...(several ? ["mean"] : [])],
      [...rows.values()].map(({first, values}) => {
        const means = networks.map((network) => values.has(network) ? mean(values.get(network)) : null);
        const there = means.filter((each) => each !== null);
        return [first.tags.method, String(first.own.seed),
          ...means.map((each) => each === null ? "—" : each.toFixed(2)), ...(several ? [mean(there).toFixed(2)] : [])];
      }));
  };
  const list = (found) => {
    const scalar = (each) => Object.keys(each.result).filter((key) => typeof each.result[key] !== "object");
    const results = [...new Set(found.flatMap(scalar))];
    const tags = ["method", "what", "role", "network"].filter((tag) => found.some((each) => each.tags[tag]));
    const own = ["seed", "part", "number", "evaluation_seed"].filter((key) => found.some((each) => each.own[key] !== undefined));
    const costs = ["peak_live_bytes", "peak_allocated_bytes", "seconds"].filter((key) => found.some((each) => each.cost[key] !== undefined));
    return table("Cells", ["Key", ...tags, ...own, ...results, ...costs, "finished (UTC)"].map(words), found.map((each) => [
      open(each.key.slice(0, 8), each.number), ...tags.map((tag) => each.tags[tag] || "—"),
      ...own.map((key) => String(each.own[key] ?? "—")), ...results.map((key) => value(key, each.result[key])),
      ...costs.map((key) => value(key, each.cost[key])), each.finished,
    ]));
  };
  const facts = (values) => make("dl", Object.entries(values).flatMap(([key, each]) => [
    make("dt", words(key)), make("dd", value(key, each), {style: "white-space: pre-line"}),
  ]));
  const settings = (group) => {
    const {tags, also, cell, source} = data.groups[group];
    return [
      make("h3", "Settings"), make("pre", lines(cell).join("\n")),
      make("h3", "Row of a table"), make("pre", [tags, ...also].map((each) => lines(each).join("\n")).join("\n\n")),
      make("h3", "Provenance"), make("pre", lines(data.sources[source]).join("\n")),
    ];
  };
  const views = {
    number: ({label, about, of}) => {
      const found = expand(of).map(record), evaluated = found.every((each) => each.kind === "evaluate");
      const groups = [...new Set(found.map((each) => each.group))];
      return [label, [
        make("p", about),
        ...(evaluated && found.length > 1 ? [make("h3", "Accuracy by distillation seed (%)"), bySeed(found)] : []),
        make("h3", found.length === 1 ? "The cell" : `The ${found.length} cells`), list(found),
        make("p", "Press a key for a cell's settings, cost, provenance, and what it was made from.", {className: "small"}),
        ...groups.map((group) => make("details", [
          make("summary", `Settings and provenance: ${name({...data.groups[group], own: {}})}`), ...settings(group),
        ], {className: "notes"})),
      ]];
    },
    cell: ({cell}) => {
      const each = record(cell), needs = expand(each.needs).map(record);
      const picture = pictures[cell] ? [make("img", [], {
        src: pictures[cell], alt: "The set's images, a class per row", className: "plate",
        onload: ({target}) => { target.width = target.naturalWidth * (target.naturalWidth < 200 ? 2 : 1); },
      })] : [];
      const made = needs.length ? [make("h3", "Made from"), make("div", needs.map((need) => open(name(need), need.number)), {className: "links"})] : [];
      return [name(each), [
        ...picture, facts({key: each.key, ...each.own, "finished (UTC)": each.finished}),
        ...(Object.keys(each.result).length ? [make("h3", "Result"), facts(each.result)] : []),
        make("h3", "Cost"), facts(each.cost), ...made, ...settings(each.group),
      ]];
    },
    picture: ({label, src}) => [label, [make("div", make("img", [], {src, alt: label}), {className: "scroll", tabIndex: 0})]],
  };
  const show = () => {
    const asked = shown.at(-1), kind = ["cell", "src"].find((key) => key in asked);
    const [head, content] = views[kind === "src" ? "picture" : kind || "number"](asked);
    title.textContent = head;
    body.replaceChildren(...content);
    back.hidden = shown.length < 2;
    dialog.classList.toggle("large", kind === "src");
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    title.focus();
  };
  const go = (asked) => { shown.push(asked); show(); };
  back.onclick = () => { shown.pop(); show(); };
  document.getElementById("close").onclick = () => dialog.close();
  dialog.addEventListener("close", () => { shown = []; body.replaceChildren(); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("main button");
    if (!button) return;
    if (button.className === "picture") {
      const image = button.querySelector("img");
      go({src: image.src, label: image.alt});
      return;
    }
    const cell = button.closest("td"), row = cell.parentElement, heads = cell.closest("table").tHead.rows[0].cells;
    const about = [...row.querySelectorAll("th")].filter((th) => th.textContent !== "—")
      .map((th) => heads[th.cellIndex].textContent === "IPC" ? `IPC ${th.textContent}` : th.textContent);
    go({label: `${about.join(", ")} — ${heads[cell.cellIndex].textContent}: ${button.textContent}`, about: button.dataset.about, of: button.dataset.of});
  });
  addEventListener("beforeprint", () => { for (const notes of document.querySelectorAll("main details")) notes.open = true; });
})();
