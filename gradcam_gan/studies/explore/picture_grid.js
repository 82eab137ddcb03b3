// Pictures to choose from: a button each, so that the keyboard reaches them and a screen reader names them.

// JupyterLab's own arrow keys and Enter would move to another cell or edit it, whatever control here has the focus.
const keepKeys = ({ target }) => {
  if (target.closest(".explore")) target.dataset.lmSuppressShortcuts = "true";
};

function render({ model, el }) {
  document.addEventListener("focusin", keepKeys); // the same function again adds nothing
  el.classList.add("explore-grid");
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", model.get("label"));

  const pick = (index) => {
    model.set("value", index);
    model.save_changes();
  };
  const mark = () => {
    [...el.children].forEach((button, i) => button.setAttribute("aria-pressed", i === model.get("value")));
  };
  const fill = () => {
    const pictures = model.get("pictures");
    while (el.children.length > pictures.length) el.lastChild.remove();
    while (el.children.length < pictures.length) {
      const button = document.createElement("button");
      const index = el.children.length;
      button.append(document.createElement("img"));
      button.addEventListener("click", () => pick(index));
      el.append(button);
    }
    pictures.forEach((picture, i) => {
      const image = el.children[i].firstChild;
      URL.revokeObjectURL(image.src);
      image.src = URL.createObjectURL(new Blob([picture], { type: "image/png" }));
      image.alt = el.children[i].title = model.get("captions")[i];
    });
    mark();
  };
  model.on("change:pictures", fill);
  model.on("change:value", mark);
  fill();
  return () => [...el.children].forEach((button) => URL.revokeObjectURL(button.firstChild.src));
}

export default { render };
