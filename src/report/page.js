// Values under the pointer, links to show or hide, a zoom that all plots of a run share, and exports.
// The page is complete without it.
"use strict";
(() => {
  const WIDTH = 1000, HEIGHT = 100;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const number = value => Number(value.toPrecision(3)).toString();

  // --- plots: each has data-x and data-y, the ends of its axes, and lines and areas as paths ---

  const points = path => [...path.getAttribute("d").matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)].map(m => [+m[1], +m[2]]);
  const nearest = (line, x) => line.reduce((best, point) =>
    Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best, line[0]);

  /** Values of a plot at x (0 to 1000): the name of each series and its value. */
  const values = (plot, x) => {
    const to = y => (HEIGHT - y) / HEIGHT * plot.dataset.y, said = [];
    for (const path of all("svg > path.l:not(.change):not(.fault), svg > path.f", plot)) {
      const names = path.classList, line = points(path);
      if (line.length < 2 || getComputedStyle(path).display === "none" || names.contains("thin")) continue;
      const name = names.contains("a") ? "a" : names.contains("b") ? "b" : names.contains("dash") ? "a + b" : "";
      const area = names.contains("f"), half = line.length / 2;
      if (area && (line.length % 2 || path.getAttribute("d").includes("h"))) continue;
      const upper = nearest(area ? line.slice(0, half) : line, x);
      const value = to(upper[1]) - (area ? to(nearest(line.slice(half), x)[1]) : 0);
      said.push(`${name}${names.contains("dash") ? " rate" : ""} ${number(value)}`.trim());
    }
    return said;
  };

  const view = plot => plot.querySelector("svg").viewBox.baseVal;
  const together = plot => all(".plot[data-x]", plot.closest("details, section"));

  /** Round steps from `from` to `to`, about six of them. */
  const ticks = (from, to) => {
    const rough = (to - from) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(m => m * power).find(step => step >= rough), found = [];
    for (let tick = Math.ceil(from / step) * step; tick <= to + step / 1e6; tick += step) found.push(tick);
    return [found, step];
  };

  const zoom = (plot, from, to) => {
    plot.querySelector("svg").setAttribute("viewBox", `${from} 0 ${to - from} ${HEIGHT}`);
    all("i.x", plot).forEach(label => label.remove());
    const seconds = x => x / WIDTH * plot.dataset.x;
    const [found, step] = ticks(seconds(from), seconds(to)), digits = Math.max(0, Math.ceil(-Math.log10(step)));
    found.forEach((tick, index) => {
      const label = make("i", { className: "x", textContent: tick.toFixed(digits) + (index === found.length - 1 ? " s" : "") });
      label.style.left = `${(tick / plot.dataset.x * WIDTH - from) / (to - from) * 100}%`;
      plot.append(label);
    });
  };

  for (const plot of all(".plot[data-x]")) {
    const tip = make("output", { className: "tip", hidden: true }), cursor = make("span", { className: "cursor", hidden: true });
    let began = null;
    plot.append(tip, cursor);
    plot.title = "Drag to zoom; double-click for the whole run";
    const place = event => {
      const box = plot.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    };
    const at = share => view(plot).x + share * view(plot).width;
    plot.addEventListener("pointermove", event => {
      const share = place(event), x = at(share), said = values(plot, x);
      cursor.style.left = began === null ? `${share * 100}%` : `${Math.min(began, share) * 100}%`;
      cursor.style.width = began === null ? "0" : `${Math.abs(share - began) * 100}%`;
      tip.textContent = [`${number(x / WIDTH * plot.dataset.x)} s`, ...said].join(" · ");
      tip.style.left = share < 0.6 ? `${share * 100}%` : "auto";
      tip.style.right = share < 0.6 ? "auto" : `${(1 - share) * 100}%`;
      tip.hidden = cursor.hidden = false;
    });
    plot.addEventListener("pointerleave", () => { tip.hidden = cursor.hidden = true; began = null; });
    plot.addEventListener("pointerdown", event => { began = event.pointerType === "mouse" ? place(event) : null; });
    plot.addEventListener("pointerup", event => {
      const ended = place(event), from = began;
      began = null;
      if (from === null || Math.abs(ended - from) < 0.01) return;
      const [left, right] = [at(Math.min(from, ended)), at(Math.max(from, ended))];
      together(plot).forEach(other => zoom(other, left, right));
    });
    plot.addEventListener("dblclick", () => together(plot).forEach(other => zoom(other, 0, WIDTH)));
  }

  // --- the keys of links a and b show or hide them, in all plots of the run ---

  for (const key of all("figcaption .key.a, figcaption .key.b")) {
    const link = key.classList.contains("a") ? "a" : "b", root = key.closest("details, section");
    Object.assign(key, { role: "button", tabIndex: 0, title: `Show or hide link ${link}` });
    const toggle = () => {
      const hidden = root.classList.toggle(`without-${link}`);
      all(`figcaption .key.${link}`, root).forEach(other => other.setAttribute("aria-pressed", !hidden));
    };
    key.addEventListener("click", toggle);
    key.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
    });
  }

  // --- exports ---

  const save = (name, type, content) => {
    const link = make("a", { download: name, href: URL.createObjectURL(new Blob([content], { type })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const cells = table => all("tr", table).map(row => all("th, td", row).map(cell => cell.innerText.trim().replace(/\s+/g, " ")));
  const latex = text => text.replace(/[\\{}$&#^_%~]/g, sign =>
    ({ "\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}" })[sign] || `\\${sign}`);
  const FORMS = {
    md: rows => rows.map((row, index) => `| ${row.map(cell => cell.replace(/\|/g, "\\|")).join(" | ")} |\n` +
      (index ? "" : `|${row.map((_, column) => column ? "---:|" : "---|").join("")}\n`)).join(""),
    tex: rows => `\\begin{tabular}{l${"r".repeat(rows[0].length - 1)}}\n\\toprule\n` + rows.map((row, index) =>
      `${row.map(latex).join(" & ")} \\\\\n${index ? "" : "\\midrule\n"}`).join("") + "\\bottomrule\n\\end{tabular}\n",
    csv: rows => rows.map(row => row.map(cell => `"${cell.replace(/"/g, '""')}"`).join(",") + "\n").join(""),
  };
  const slug = element => (element.closest("section")?.querySelector("h2, h3")?.textContent || "twinlink")
    .toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  const buttons = (...list) => make("span", { className: "export" }, ...list.map(([text, title, click]) => {
    const button = make("button", { type: "button", textContent: text, title });
    button.addEventListener("click", click);
    return button;
  }));

  for (const table of all("table")) {
    const form = (text, kind) => [text, `Save this table as ${text}`, () => save(`${slug(table)}.${kind}`, "text/plain", FORMS[kind](cells(table)))];
    table.after(buttons(form("Markdown", "md"), form("LaTeX", "tex"), form("CSV", "csv")));
  }

  /** The plot with its caption and axes as one SVG, in the colours that are shown. */
  const drawn = plot => {
    const inner = plot.querySelector("svg").cloneNode(true), box = plot.getBoundingClientRect(), left = 70, top = 30;
    const style = getComputedStyle(document.body);
    all("path, rect", plot.querySelector("svg")).forEach((element, index) => {
      const shown = getComputedStyle(element), copy = all("path, rect", inner)[index];
      for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "fill-opacity", "display", "vector-effect"])
        copy.setAttribute(name, shown.getPropertyValue(name));
    });
    Object.entries({ x: left, y: top, width: box.width, height: box.height }).forEach(([name, value]) => inner.setAttribute(name, value));
    const svg = name => document.createElementNS(inner.namespaceURI, name);
    const text = (x, y, anchor, words) => {
      const element = svg("text");
      Object.entries({ x, y, "text-anchor": anchor, "font-size": 12, "font-family": "sans-serif", fill: style.color })
        .forEach(([name, value]) => element.setAttribute(name, value));
      element.textContent = words;
      return element;
    };
    const outer = svg("svg");
    outer.setAttribute("viewBox", `0 0 ${box.width + left + 40} ${box.height + top + 30}`);
    outer.setAttribute("width", box.width + left + 40);
    outer.setAttribute("height", box.height + top + 30);
    outer.append(inner, text(left, 18, "start", plot.closest("figure").querySelector("figcaption").innerText));
    for (const label of all("i", plot)) {
      const share = parseFloat(label.style.left || label.style.bottom) / 100, upright = label.classList.contains("y");
      outer.append(upright ? text(left - 6, top + box.height * (1 - share) + 4, "end", label.textContent)
        : text(left + box.width * share, top + box.height + 18, "middle", label.textContent));
    }
    return [new XMLSerializer().serializeToString(outer), box.width + left + 40, box.height + top + 30, style.backgroundColor];
  };
  const png = plot => {
    const [svg, width, height, background] = drawn(plot), image = new Image();
    image.onload = () => {
      const canvas = make("canvas", { width: width * 2, height: height * 2 }), context = canvas.getContext("2d");
      context.fillStyle = background;
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(blob => save(`${slug(plot)}.png`, "image/png", blob));
    };
    image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  };
  for (const plot of all(".plot[data-x]")) {
    plot.closest("figure").querySelector("figcaption").append(buttons(
      ["SVG", "Save this plot as SVG", () => save(`${slug(plot)}.svg`, "image/svg+xml", drawn(plot)[0])],
      ["PNG", "Save this plot as PNG", () => png(plot)]));
  }
})();
