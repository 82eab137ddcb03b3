// A native range input: it has a name, and the keyboard moves it; and a play button where the steps are a film.
const STEP_MS = 400;

function render({ model, el }) {
  el.classList.add("explore-slider");
  const label = document.createElement("label");
  const text = document.createElement("span");
  const input = document.createElement("input");
  const readout = document.createElement("output");
  input.type = "range";
  input.min = 0;
  input.step = 1;
  text.textContent = model.get("label");
  label.append(text, input, readout);
  el.append(label);

  const show = () => {
    const options = model.get("options");
    input.max = options.length - 1;
    input.value = model.get("value");
    readout.textContent = options[model.get("value")];
    input.setAttribute("aria-valuetext", readout.textContent);
  };
  const move = (value) => {
    model.set("value", value);
    model.save_changes();
  };
  input.addEventListener("input", () => move(Number(input.value)));
  model.on("change:value change:options", show);
  show();
  if (!model.get("playable")) return;

  const button = document.createElement("button");
  button.className = "jupyter-button";
  el.prepend(button);
  let timer = null;
  const name = () => {
    button.textContent = timer ? "❚❚" : "▶";
    const each = model.get("label").toLowerCase();
    button.title = timer ? "Pause" : `Play: ${each} by ${each}`;
    button.setAttribute("aria-label", button.title);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    name();
  };
  const step = () => {
    if (model.get("shown") !== model.get("value")) return; // the last step is not drawn yet
    if (model.get("value") >= Number(input.max)) stop();
    else move(model.get("value") + 1);
  };
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (model.get("value") >= Number(input.max)) move(0);
    timer = setInterval(step, STEP_MS);
    name();
  });
  name();
  return () => clearInterval(timer);
}

export default { render };
