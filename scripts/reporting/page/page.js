"use strict";
// The report's behaviour: charts, copying, the example browser, provenance. Data come as JSON from the page itself and
// are only inserted as text, so that no model output can become markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = (name) => JSON.parse(byId(`data-${name}`).textContent);
  const reports = window.report = { ready: null, shown: 0 };

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children); // strings become text nodes
    return made;
  }

  // Theme: the system's, until the reader chooses another.
  const THEMES = ["system", "light", "dark"];
  function theme() {
    const button = byId("theme");
    let now = 0;
    button.hidden = false;
    button.addEventListener("click", () => {
      now = (now + 1) % THEMES.length;
      if (now) document.documentElement.dataset.theme = THEMES[now];
      else delete document.documentElement.dataset.theme;
      button.textContent = `Theme: ${THEMES[now]}`;
    });
  }

  function copying() {
    const texts = data("texts");
    document.addEventListener("click", async (event) => {
      const button = event.target.closest("[data-copy]");
      if (!button) return;
      const text = texts[button.dataset.copy][button.dataset.form];
      byId("copied").textContent = (await copy(text)) ? "copied" : "could not be copied: not allowed by the browser";
      const label = button.textContent;
      button.textContent = byId("copied").textContent;
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }

  async function copy(text) {
    if (navigator.clipboard) {
      try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed: copy from a text area below */ }
    }
    const area = element("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }

  function showTooltip(_, event, item, value) {
    const box = byId("tooltip");
    if (value === null || value === undefined || value === "") { box.hidden = true; return; }
    const list = element("dl");
    for (const [name, text] of Object.entries(value)) {
      list.append(element("dt", {}, name), element("dd", {}, String(text)));
    }
    box.replaceChildren(list);
    box.hidden = false;
    const left = Math.min(event.clientX + 12, window.innerWidth - box.offsetWidth - 8);
    const below = event.clientY + 12 + box.offsetHeight < window.innerHeight;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${below ? event.clientY + 12 : Math.max(4, event.clientY - 12 - box.offsetHeight)}px`;
  }

  async function charts() {
    const { config, panels } = data("charts");
    // The figure element describes the chart in words, so the individual marks need no labels.
    for (const part of ["mark", "axis", "legend", "title"]) config[part] = { ...config[part], aria: false };
    config.background = "transparent";
    config.legend.symbolBaseFillColor = "#858585";
    for (const { id, spec } of panels) {
      const place = document.querySelector(`[data-chart="${id}"]`);
      const own = { width: "container", autosize: { type: "fit-x", contains: "padding" }, ...spec };
      await vegaEmbed(place, own, {
        mode: "vega-lite", renderer: "svg", actions: false, ast: true, config, tooltip: showTooltip, bind: `#choice-${id}`,
      });
      for (const select of document.querySelectorAll(`#choice-${id} select`)) {
        if (!select.labels.length) select.setAttribute("aria-label", `Highlight one line of ${id}`);
      }
      reports.shown += 1;
      performance.mark(`chart ${reports.shown}`);
      await new Promise((resolve) => setTimeout(resolve)); // keeps the page responsive between charts
    }
  }

  async function unpacked(name) {
    const letters = atob(byId(`data-${name}`).textContent);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  const PAGE = 60; // instructions in the list before "more"
  async function examples() {
    if (typeof DecompressionStream === "undefined") {
      byId("found").textContent = "This browser is too old to unpack the examples (it lacks DecompressionStream).";
      return;
    }
    const { models, instructions } = await unpacked("examples");
    // One entry per model and instruction: `of` has the model's systems with their responses.
    const entries = models.flatMap((model) => instructions[model.set].map((asked, i) => ({
      key: `${model.name}/${asked.id}`, asked, model,
      of: model.systems.map((system) => ({ system, ...response(system, i) })),
    })));
    fillFilters(entries, models);
    let limit = PAGE;
    const update = () => list(entries.filter(matches), limit, () => { limit += PAGE; update(); });
    byId("filters").hidden = false;
    byId("filters").addEventListener("input", () => { limit = PAGE; update(); });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    const follow = (move) => {
      const wanted = decodeURIComponent(location.hash.replace(/^#example=/, ""));
      const entry = location.hash.startsWith("#example=") && entries.find((one) => one.key === wanted);
      if (location.hash.startsWith("#example=") && !entry) byId("found").textContent = `There is no example ${wanted} in this report.`;
      if (entry || !byId("example").childNodes.length) show(entry || entries[0]);
      if (entry && move) byId("examples").scrollIntoView();
    };
    window.addEventListener("hashchange", () => follow(false));
    update();
    follow(true);
    performance.mark("examples");
  }

  function response(system, i) {
    const [output, stopped, tokens, dropped, preference, why] = system.rows[i];
    return { output, stopped, tokens, dropped, preference, why };
  }

  function fillFilters(entries, models) {
    const kinds = [...new Set(entries.map((entry) => entry.asked.kind))].sort();
    byId("kind").append(...["", ...kinds].map((kind) => element("option", { value: kind }, kind || "any")));
    byId("winner").append(element("option", { value: "" }, "any"));
    const judged = new Set(models.flatMap((model) => model.systems.filter((s) => s.judged).map((s) => s.label)));
    for (const label of judged) {
      for (const outcome of ["won", "lost", "tied"]) {
        byId("winner").append(element("option", { value: `${outcome} ${label}` }, `${label} ${outcome}`));
      }
    }
  }

  function outcome(preference) {
    if (preference === null) return "";
    return preference > 1.5 ? "won" : preference < 1.5 ? "lost" : "tied";
  }

  function matches(entry) {
    const search = byId("search").value.trim().toLowerCase();
    const [kind, winner, stopped] = ["kind", "winner", "stopped"].map((id) => byId(id).value);
    if (search) {
      entry.text ??= [entry.asked.instruction, ...entry.of.map((one) => one.output)].join("\n").toLowerCase();
      if (!entry.text.includes(search)) return false;
    }
    if (kind && entry.asked.kind !== kind) return false;
    if (winner) {
      const blank = winner.indexOf(" ");
      const one = entry.of.find((each) => each.system.label === winner.slice(blank + 1));
      if (!one || outcome(one.preference) !== winner.slice(0, blank)) return false;
    }
    const all = entry.of.every((one) => one.stopped);
    return !stopped || (stopped === "all") === all;
  }

  function list(found, limit, more) {
    byId("found").textContent = `${found.length} found`;
    const several = new Set(found.map((entry) => entry.model.name)).size > 1;
    const items = found.slice(0, limit).map((entry) => {
      const button = element("button", { type: "button", "data-key": entry.key },
        `${several ? `${entry.model.name}: ` : ""}${entry.asked.instruction.slice(0, 160)}`);
      button.addEventListener("click", () => { location.hash = `example=${encodeURIComponent(entry.key)}`; });
      return element("li", {}, button);
    });
    if (found.length > limit) {
      const button = element("button", { type: "button" }, `more (${found.length - limit})`);
      button.addEventListener("click", more);
      items.push(element("li", {}, button));
    }
    byId("list").replaceChildren(...items);
    mark();
  }

  function mark() {
    const now = byId("example").dataset.key;
    for (const button of byId("list").querySelectorAll("[data-key]")) {
      button.setAttribute("aria-current", String(button.dataset.key === now));
    }
  }

  function show(entry) {
    if (!entry) return;
    const link = element("a", { href: `#example=${encodeURIComponent(entry.key)}` }, "link to this example");
    const about = element("p", { class: "note" }, `${entry.key}, ${entry.asked.kind}, seed ${entry.model.seed}; `, link);
    const cards = entry.of.map((one) => card(one, entry.model));
    const reference = entry.asked.reference
      ? [element("details", {}, element("summary", {}, "Reference response"), element("pre", {}, entry.asked.reference))]
      : [];
    byId("example").replaceChildren(
      element("h3", {}, entry.asked.instruction), about, ...reference, element("div", { class: "responses" }, ...cards));
    byId("example").dataset.key = entry.key;
    mark();
  }

  function card(one, model) {
    const verdict = outcome(one.preference);
    const comparison = one.system.opponent ? "reference for comparisons"
      : verdict ? `${verdict} against ${model.opponent}` : "not judged";
    const parts = [`${one.tokens} tokens`, one.stopped ? "stopped" : "did not stop", ...(one.why ? [one.why] : [])];
    const text = element("pre", { tabindex: "0", "aria-label": `Response of ${one.system.label}` }, one.output || " ");
    const cut = one.dropped ? [element("p", {}, `${one.dropped} more characters in ${one.system.path}`)] : [];
    return element("section", { class: "response" }, element("h4", {}, one.system.label),
      element("p", { class: verdict }, comparison), element("p", {}, parts.join("; ")), text, ...cut);
  }

  // The provenance of a number: its records, and those of their input files.
  function provenance() {
    const { records, versions } = data("provenance");
    const maker = new Map(records.flatMap((record, i) => record.outputs.map((file) => [file.path, i])));
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-sources]");
      if (!button) return;
      const seen = new Set();
      const pending = button.dataset.sources.split(" ").map(Number);
      while (pending.length) {
        const i = pending.shift();
        if (seen.has(i)) continue;
        seen.add(i);
        pending.push(...records[i].inputs.map((file) => maker.get(file.path)).filter((made) => made !== undefined));
      }
      const shown = [...seen].map((i) => recordDetails(records[i], versions));
      byId("chain").replaceChildren(element("h3", {}, button.getAttribute("aria-label")), ...shown);
      byId("chain").focus();
      byId("provenance").scrollIntoView();
    });
  }

  function recordDetails(record, versions) {
    const files = (list) => list.map((file) => `${file.path}  sha256 ${file.sha256.slice(0, 12)}`).join("\n");
    const text = [
      `commit ${record.commit || "unknown"}`, `script ${record.command}`, `machine ${record.machine}`,
      `inputs\n${files(record.inputs)}`, `outputs\n${files(record.outputs)}`,
      `config ${JSON.stringify(record.settings, null, 1)}`, `execution ${JSON.stringify(record.execution)}`,
      `versions ${JSON.stringify(versions[record.versions])}`,
    ].join("\n");
    return element("details", {}, element("summary", {}, `${record.stage}: ${record.path} (${record.seconds} s)`),
      element("pre", { tabindex: "0" }, text));
  }

  theme();
  copying();
  provenance();
  reports.ready = Promise.all([charts(), examples()]);
})();
