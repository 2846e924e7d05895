"use strict";
// Takes a hostile text apart in a template, where nothing is loaded or run; leaves out what could
// reach outside; shows the rest; and tells the page around how high it is. It holds no secret.
(() => {
  const place = document.getElementById("rmi-place");
  const root = document.documentElement;
  const template = document.createElement("template");
  template.innerHTML = JSON.parse(document.getElementById("rmi-content").textContent);
  const outside =
    "link, meta, base, iframe, frame, frameset, object, embed, applet, portal, fencedframe";
  for (const element of template.content.querySelectorAll(outside)) element.remove();
  let scripts = 0;
  for (const element of template.content.querySelectorAll("script, noscript")) {
    scripts += 1;
    element.remove();
  }
  for (const element of template.content.querySelectorAll("a, area, animate, set, form, math, math *")) {
    for (const { name, value } of Array.from(element.attributes)) {
      const leads = /href$|^(action|ping|target|formaction)$/i.test(name);
      if (/^attributename$/i.test(name) && /href/i.test(value)) element.remove();
      if (!leads || value.startsWith("#")) continue;
      element.removeAttribute(name);
      if (/href$/i.test(name)) element.setAttribute("title", value.slice(0, 300));
    }
  }
  const note = document.createElement("p");
  note.className = "rmi-note";
  note.textContent = "This output has scripts, which are not run here.";
  // From here on names in the output may hide what `document` has.
  place.append(template.content);
  if (scripts) place.append(note);
  const tell = () => {
    const height = Math.max(place.scrollHeight, place.getBoundingClientRect().height);
    parent.postMessage({ rmiHeight: Math.ceil(height) + 6 }, "*");
  };
  new ResizeObserver(tell).observe(place);
  addEventListener("load", tell);
  root.classList.add("rmi-shown");
})();
