// Lists, filters and shows the prompts and answers that the page holds as compressed blocks.
// Foreign text reaches the page through `textContent` alone.
(() => {
  "use strict";
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const [viewer, list, rows, detail, paper] = ["viewer", "list", "list-rows", "detail", "paper"].map(byId);
  const [text, show, sort, lang, least, count] =
    ["text", "show", "sort", "lang", "least", "count"].map((name) => byId(`filter-${name}`));
  const PRINTED = 200; // prompts on paper at most
  const ABSENT = -1;
  const LEFT_OUT = -2;
  let index; // numbers of all answers, and the beginning of every prompt
  const unpacked = []; // by block: rows of prompt, id, texts, which text, where it passes its limit
  const found = []; // by prompt: all its text in lower case, once somebody searches
  let order = []; // the prompts that the filter shows
  let current = 0;
  let rowHeight = 64;

  const make = (tag, className, content) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (content !== undefined) element.textContent = content;
    return element;
  };
  const mark = (look) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", `mark ${look}`);
    svg.setAttribute("aria-hidden", "true");
    svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
    svg.firstChild.setAttribute("href", `#${look}`);
    return svg;
  };
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  // Blocks -------------------------------------------------------------------------------------
  async function unpack(template) {
    const packed = template.content.textContent;
    const bytes = Uint8Array.fromBase64?.(packed) ?? Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    // Written here, not read from a Blob, whose bytes would make a detour by another process.
    const inflate = new DecompressionStream("deflate-raw");
    const writer = inflate.writable.getWriter();
    writer.write(bytes);
    writer.close();
    return new Response(inflate.readable).json();
  }
  const parsed = new Promise((resolve) => {
    if (document.readyState !== "loading") resolve();
    document.addEventListener("DOMContentLoaded", resolve);
  });
  async function load(number) {
    if (unpacked[number]) return;
    if (!byId(`block-${number}`)) await parsed;
    const template = byId(`block-${number}`);
    unpacked[number] ??= await unpack(template);
    template.remove();
  }
  const texts = (prompt) => unpacked[Math.floor(prompt / index.perBlock)]?.[prompt % index.perBlock];

  // Numbers ------------------------------------------------------------------------------------
  const cell = (prompt, limit, slot) => (prompt * index.limits.length + limit) * index.slots.length + slot;
  const breaks = (words, limit) => limit !== null && (words > limit || words === 0);
  const scope = () => {
    const chosen = viewer.querySelector("input[name=limit]:checked").value;
    return chosen === "all" ? [...index.limits.keys()] : [Number(chosen)];
  };

  // What each answerer said to one prompt under one limit, over its seeds.
  function tally(prompt, limit) {
    const sums = index.answerers.map(() => ({ n: 0, words: 0, broken: 0, excess: 0, cut: 0, empty: 0 }));
    index.slots.forEach(([who], slot) => {
      const at = cell(prompt, limit, slot);
      const words = index.words[at];
      if (words === ABSENT) return;
      const sum = sums[who];
      const stated = index.limits[limit];
      sum.n += 1;
      sum.words += words;
      sum.broken += breaks(words, stated);
      sum.excess = Math.max(sum.excess, stated === null ? 0 : words - stated);
      sum.cut += index.ends[at] === "2";
      sum.empty += words === 0;
    });
    return sums;
  }
  const mostBreak = (sum) => sum.broken * 2 > sum.n;
  const mean = (sum) => sum.words / sum.n;
  const arms = (sums) => sums.slice(0, index.answerers.filter((each) => each.isArm).length);
  const compared = (sums) => arms(sums).slice(1).filter((sum) => sum.n && sums[0].n);
  const difference = (sums) => Math.max(0, ...compared(sums).map((sum) => Math.abs(mean(sum) - mean(sums[0]))));
  const excess = (sums) => Math.max(0, ...arms(sums).map((sum) => sum.excess));

  const wanted = {
    "": () => true,
    over: (sums) => arms(sums).some((sum) => sum.broken),
    changed: (sums) => compared(sums).some((sum) => mostBreak(sum) !== mostBreak(sums[0])),
    won: (sums, who) => sums[0].n && sums[who].n && mostBreak(sums[0]) && !mostBreak(sums[who]),
    lost: (sums, who) => sums[0].n && sums[who].n && !mostBreak(sums[0]) && mostBreak(sums[who]),
    cut: (sums) => arms(sums).some((sum) => sum.cut),
    empty: (sums) => arms(sums).some((sum) => sum.empty),
    left: (sums, who, prompt) => !index.compared[prompt],
  };

  // Filter and sort ------------------------------------------------------------------------------
  function holds(prompt, words) {
    if (!words) return true;
    if (!found[prompt]) {
      const row = texts(prompt);
      if (!row) return false;
      found[prompt] = [row[0], row[1], ...row[2]].join("\n").toLowerCase();
    }
    return found[prompt].includes(words);
  }
  function apply() {
    const words = text.value.trim().toLowerCase();
    const limits = scope();
    const [kind, who] = show.value.split(":");
    const matched = [];
    for (let prompt = 0; prompt < index.lead.length; prompt += 1) {
      if (lang?.value && index.langs[index.lang[prompt]] !== lang.value) continue;
      if (!holds(prompt, words)) continue;
      const sums = limits.map((limit) => tally(prompt, limit)).filter((each) => each.some((sum) => sum.n));
      const passing = sums.filter((each) => wanted[kind](each, Number(who), prompt) && excess(each) >= Number(least?.value ?? 0));
      if (!passing.length) continue;
      const by = { difference, excess }[sort.value];
      matched.push({ prompt, key: by ? Math.max(...passing.map(by)) : -prompt });
    }
    matched.sort((a, b) => b.key - a.key || a.prompt - b.prompt);
    order = matched.map((each) => each.prompt);
    const missing = words && unpacked.filter(Boolean).length < blocks;
    count.textContent = `${order.length.toLocaleString("en")} of ${plural(index.lead.length, "prompt")}${missing ? ", still searching" : ""}${words && "partial" in viewer.dataset ? ", by the texts on this page" : ""}`;
    byId("nothing").hidden = order.length > 0;
    detail.hidden = !order.length;
    rows.style.height = `${order.length * rowHeight}px`;
    if (!order.includes(current) && order.length) [current] = order;
    reveal();
    drawRows();
    drawDetail();
  }

  // The list: only rows in sight exist -----------------------------------------------------------
  function chip(answerer, sums) {
    const n = sums.reduce((sum, each) => sum + each.n, 0);
    const broken = sums.reduce((sum, each) => sum + each.broken, 0);
    const element = make("span", broken ? "chip broken" : "chip");
    element.append(mark(answerer.look), make("span", "hide", `${answerer.name}: `));
    if (!n) element.append("\u2013");
    else if (sums.length === 1) element.append(Math.round(mean(sums[0])).toLocaleString("en"));
    if (broken && n > 1) element.append(make("b", "", ` \u2191${broken}/${n}`), make("span", "hide", " over"));
    else if (broken) element.append(make("b", "", sums[0].excess > 0 ? ` +${sums[0].excess}` : " empty"));
    else if (sums.length > 1 && n) element.append(" \u2713");
    return element;
  }
  function drawRows() {
    const first = Math.max(0, Math.floor(list.scrollTop / rowHeight) - 4);
    const last = Math.min(order.length, Math.ceil((list.scrollTop + list.clientHeight) / rowHeight) + 4);
    const limits = scope();
    const made = [];
    for (let place = first; place < last; place += 1) {
      const prompt = order[place];
      const row = make("a", "row");
      row.href = link(prompt);
      row.id = `row-${prompt}`;
      row.tabIndex = -1;
      row.role = "option";
      row.ariaSelected = String(prompt === current);
      row.ariaSetSize = String(order.length);
      row.ariaPosInSet = String(place + 1);
      row.dataset.prompt = prompt;
      row.style.top = `${place * rowHeight}px`;
      const lead = make("span", "lead", index.lead[prompt] || "\u2013");
      lead.dir = "auto";
      const chips = make("span", "chips");
      const sums = limits.map((limit) => tally(prompt, limit));
      index.answerers.forEach((answerer, who) => {
        if (answerer.isListed) chips.append(chip(answerer, sums.map((each) => each[who]).filter((sum) => sum.n || limits.length === 1)));
      });
      row.append(make("span", "number", prompt + 1), lead, chips);
      made.push(row);
    }
    rows.replaceChildren(...made);
    if (order.length) list.setAttribute("aria-activedescendant", `row-${current}`);
    else list.removeAttribute("aria-activedescendant");
  }
  function reveal() {
    const top = order.indexOf(current) * rowHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + rowHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + rowHeight - list.clientHeight;
  }

  // One prompt with all its answers --------------------------------------------------------------
  const limitWord = (limit) => (limit === null ? "none" : String(limit));
  const link = (prompt) => {
    const limits = scope();
    return `#q${prompt + 1}-${limits.length > 1 ? "all" : limitWord(index.limits[limits[0]])}`;
  };
  function answer(row, prompt, limit, slot, longest, isOnly) {
    const at = cell(prompt, limit, slot);
    const words = index.words[at];
    const stated = index.limits[limit];
    const counts = make("p", "counts");
    counts.append(make("span", "n", plural(words, "word")));
    if (stated !== null && words > stated) counts.append(make("span", "over", `${(words - stated).toLocaleString("en")} over`));
    else if (stated !== null && !words) counts.append(make("span", "over", "empty"));
    else if (stated !== null) counts.append(make("span", "kept", "within"));
    if (index.ends[at] === "2") counts.append(make("span", "cut", "cut off"));
    const seed = index.slots[slot][1];
    if (seed !== null && !isOnly) counts.append(make("span", "", `seed ${seed}`));
    if (index.relevance && index.relevance[at] !== null) counts.append(make("span", "", `relevance ${index.relevance[at]}`));
    const length = make("span", "length");
    length.append(make("span", "given"));
    length.firstChild.style.width = `${(100 * words) / longest}%`;
    if (stated !== null) {
      length.append(make("span", "at"));
      length.lastChild.style.left = `${(100 * stated) / longest}%`;
    }
    const body = make("div", "text");
    body.dir = "auto";
    const which = row[3][limit * index.slots.length + slot];
    const cut = row[4][limit * index.slots.length + slot];
    if (which === LEFT_OUT) {
      body.className = "text soft";
      body.textContent = "Not on this page, for its size; it stands in the run\u2019s generations.parquet.";
    } else {
      const whole = row[2][which];
      body.append(cut ? whole.slice(0, cut) : whole);
      if (cut) body.append(make("mark", "", whole.slice(cut)));
    }
    return [counts, length, body];
  }
  function asked(row, prompt, limit) {
    const stated = index.limits[limit];
    const section = make("section", "asked");
    section.dataset.limit = limitWord(stated);
    section.append(make("h4", "", stated === null ? "No limit stated" : `At most ${stated} words`));
    const answers = make("div", "answers");
    const slots = [...index.slots.keys()];
    const longest = Math.max(1, stated ?? 0, ...slots.map((slot) => index.words[cell(prompt, limit, slot)]));
    index.answerers.forEach((answerer, who) => {
      const given = slots.filter((slot) => index.slots[slot][0] === who && index.words[cell(prompt, limit, slot)] !== ABSENT);
      if (!given.length) return;
      const element = make("div", `answer ${answerer.look}`);
      const name = make("p", "who");
      name.append(mark(answerer.look), " ", make("b", "", answerer.name));
      if (answerer.isBaseline) name.append(make("span", "soft", " baseline"));
      element.append(name, ...answer(row, prompt, limit, given[0], longest, given.length === 1));
      for (const slot of given.slice(1)) {
        const words = index.words[cell(prompt, limit, slot)];
        const more = make("details");
        const over = breaks(words, stated) ? (words ? `, ${words - stated} over` : ", empty") : "";
        more.append(make("summary", "", `seed ${index.slots[slot][1] ?? "\u2013"}: ${plural(words, "word")}${over}`));
        more.append(...answer(row, prompt, limit, slot, longest));
        element.append(more);
      }
      answers.append(element);
    });
    section.append(answers);
    return answers.children.length ? [section] : [];
  }
  function article(prompt) {
    const row = texts(prompt);
    if (!row) return [make("p", "soft", `Prompt ${prompt + 1} is still being unpacked.`)];
    const header = make("header");
    const number = make("a", "number", prompt + 1);
    number.href = link(prompt);
    number.append(make("span", "hide", ": link to this prompt"));
    const heading = make("h3", row[0].length > 400 ? "long" : "", row[0]);
    heading.dir = "auto";
    if (row[0].length > 400) heading.tabIndex = 0;
    const about = make("p", "soft");
    if (!index.compared[prompt]) about.append(make("b", "", "left out of the comparison"), " \u00b7 ");
    const language = index.langs[index.lang[prompt]];
    about.append([index.origins[index.origin[prompt]], ...(language ? [language] : []), ""].join(" \u00b7 "), make("span", "id", row[1]));
    header.append(number, heading, about);
    return [header, ...scope().flatMap((limit) => asked(row, prompt, limit))];
  }
  function drawDetail() {
    if (!order.length) return;
    const prompt = current;
    detail.replaceChildren(...article(prompt));
    detail.dataset.prompt = prompt;
    byId("place").textContent = `${(order.indexOf(prompt) + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}`;
    if (texts(prompt)) highlight();
    else load(Math.floor(prompt / index.perBlock)).then(() => current === prompt && drawDetail());
  }
  // What was searched for, shown without a change to the text.
  function highlight() {
    if (!CSS.highlights) return;
    const ranges = [];
    const words = text.value.trim().toLowerCase();
    const walker = document.createTreeWalker(detail, NodeFilter.SHOW_TEXT);
    while (words && walker.nextNode()) {
      const lower = walker.currentNode.data.toLowerCase();
      if (lower.length !== walker.currentNode.length) continue; // a letter that has no lower case of its length
      for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, at + words.length)) {
        const range = new Range();
        range.setStart(walker.currentNode, at);
        range.setEnd(walker.currentNode, at + words.length);
        ranges.push(range);
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  // Moving about -----------------------------------------------------------------------------------
  function choose(prompt, { scroll = true } = {}) {
    current = prompt;
    try {
      history.replaceState(null, "", link(prompt));
    } catch {
      // Some browsers refuse it to a page from a file, or so often a second: the link is lost, no more.
    }
    reveal();
    drawRows();
    drawDetail();
    const { top } = detail.getBoundingClientRect();
    if (scroll && (top < 0 || top > innerHeight / 2)) detail.scrollIntoView({ block: "start" });
  }
  function move(by) {
    const place = Math.min(order.length - 1, Math.max(0, order.indexOf(current) + by));
    if (order.length) choose(order[place]);
  }
  function otherLimit(by) {
    const inputs = [...viewer.querySelectorAll("input[name=limit]")];
    const place = inputs.findIndex((input) => input.checked);
    inputs[(place + by + inputs.length) % inputs.length].checked = true;
    apply();
  }
  function follow() {
    const [, number, limit] = /^#q(\d+)(?:-(\w+))?$/.exec(location.hash) ?? [];
    const prompt = Number(number) - 1;
    if (!(prompt in index.lead)) return false;
    const place = limit === "all" ? "all" : String(index.limits.map(limitWord).indexOf(limit));
    const input = viewer.querySelector(`input[name=limit][value="${place}"]`);
    if (input) input.checked = true;
    current = prompt;
    apply();
    if (current !== prompt) {
      // The filter hides what the link names.
      [text, show, lang, least].forEach((each) => each && (each.value = ""));
      current = prompt;
      apply();
    }
    viewer.scrollIntoView({ block: "start", behavior: "instant" });
    return true;
  }
  const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const typing = event.target.matches("input[type=search], input[type=number], select, textarea");
    if (event.key === "Escape" && typing) list.focus();
    if (typing) return;
    const inList = event.target === list || rows.contains(event.target);
    if (event.key in moves && (inList || "jk".includes(event.key))) move(moves[event.key]);
    else if (event.key === "/") text.focus();
    else if (event.key === "[" || event.key === "]") otherLimit(event.key === "]" ? 1 : -1);
    else if (event.key === "?") byId("keys").showModal();
    else return;
    event.preventDefault();
  }

  // Paper: what the filter shows, in full ----------------------------------------------------------
  function print() {
    const printed = order.slice(0, PRINTED).map((prompt) => {
      const element = make("article", "question");
      element.append(...article(prompt));
      return element;
    });
    const said = `${plural(printed.length, "prompt")} of the ${order.length.toLocaleString("en")} that the filter showed, of ${index.lead.length.toLocaleString("en")} in all.`;
    paper.replaceChildren(make("p", "note", said), ...printed);
  }

  async function start() {
    index = await unpack(byId("index"));
    viewer.hidden = false;
    rowHeight = 4 * parseFloat(getComputedStyle(root).fontSize);
    await load(0);
    if (!follow()) apply();
    let waiting;
    viewer.querySelector("#filter").addEventListener("input", (event) => {
      clearTimeout(waiting);
      if (event.target === text && index.lead.length > 500) waiting = setTimeout(apply, 150);
      else apply();
    });
    list.addEventListener("scroll", drawRows, { passive: true });
    new ResizeObserver(drawRows).observe(list);
    rows.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      list.focus({ preventScroll: true });
      choose(Number(row.dataset.prompt));
    });
    byId("before").addEventListener("click", () => move(-1));
    byId("after").addEventListener("click", () => move(1));
    byId("keys-open").addEventListener("click", () => byId("keys").showModal());
    byId("keys-close").addEventListener("click", () => byId("keys").close());
    addEventListener("hashchange", follow);
    addEventListener("keydown", press);
    addEventListener("beforeprint", print);
    addEventListener("afterprint", () => paper.replaceChildren());
    requestAnimationFrame(() => setTimeout(() => {
      performance.mark("first-row");
      root.dataset.first = "";
      rest();
    }));
  }
  // The other blocks one by one, so that the page stays responsive meanwhile.
  async function rest() {
    await parsed;
    for (let number = 1; number < blocks; number += 1) {
      await load(number);
      await new Promise((resolve) => setTimeout(resolve));
    }
    if (text.value) apply();
    performance.mark("unpacked");
    root.dataset.ready = "";
  }

  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => {
    const isDark = getComputedStyle(root).colorScheme === "dark" ||
      (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = isDark ? "light" : "dark";
  });
  const blocks = Number(viewer?.dataset.blocks ?? 0);
  if (blocks && "DecompressionStream" in window) start();
  else if (blocks) byId("old").hidden = false;
})();
