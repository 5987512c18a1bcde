// A line of text with a button that copies it. Fills an element of the class "copy" of the page.

let count = 0;

/** Shows `text` in `place` under `label`; called again, only the text changes. */
export function showCopyable(place: HTMLElement, label: string, text: string): void {
  let input = place.querySelector("input");
  if (!input) {
    input = document.createElement("input");
    input.readOnly = true;
    input.id = `copy-${(count += 1)}`;
    const caption = document.createElement("label");
    caption.htmlFor = input.id;
    caption.textContent = label;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${label}`);
    button.addEventListener("click", () => void copy(place, button));
    place.append(caption, input, button);
  }
  if (input.value !== text) input.value = text;
}

async function copy(place: HTMLElement, button: HTMLButtonElement): Promise<void> {
  const input = place.querySelector("input");
  if (!input) return;
  input.select();
  try {
    await navigator.clipboard.writeText(input.value);
  } catch {
    // Browsers give the clipboard to secure origins only; the older way works where it is missing.
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  window.setTimeout(() => (button.textContent = "Copy"), 1500);
}
