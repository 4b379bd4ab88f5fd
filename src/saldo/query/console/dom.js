// Elements, made without any HTML text: what comes from a server is never parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `on*` members are listeners, null children are left out. */
export function el(name, members = {}, ...children) {
  return filled(document.createElement(name), members, children);
}

/** The same for SVG. */
export function svg(name, members = {}, ...children) {
  return filled(document.createElementNS(SVG, name), members, children);
}

function filled(element, members, children) {
  for (const [name, value] of Object.entries(members)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Give `element` these children in place of the ones it has. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

let announced = null;

/** Have a screen reader say it, at most once a second: of many changes the last one counts. */
export function announce(text) {
  if (announced === null) {
    setTimeout(() => {
      document.getElementById("announcer").textContent = announced;
      announced = null;
    }, 1000);
  }
  announced = text;
}

/** A button that copies `text`, and says so. */
export function copyButton(label, done, text) {
  const button = el("button", { type: "button", class: "quiet" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = done;
      announce(done);
    } catch {
      // Without leave to copy, the text beside the button can be selected.
      getSelection().selectAllChildren(button.previousElementSibling ?? button);
    }
  });
  return button;
}
