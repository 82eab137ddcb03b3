// White strokes on black, by mouse, finger or keyboard: arrow keys move a pen, the space bar lifts or lowers it.
const SIDE = 280; // pixels: ten for each of MNIST's 28
const STROKE = 22;
const KEY_STEP = 10;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function render({ model, el }) {
  el.classList.add("explore-pad");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", model.get("label"));
  const pen = document.createElement("div");
  pen.className = "explore-pen";
  const clear = document.createElement("button");
  clear.className = "jupyter-button";
  clear.textContent = "Clear";
  el.append(canvas, pen, clear);

  const context = canvas.getContext("2d", { willReadFrequently: true });
  const wipe = () => {
    context.fillStyle = "black";
    context.fillRect(0, 0, SIDE, SIDE);
    Object.assign(context, { strokeStyle: "white", lineWidth: STROKE, lineCap: "round", lineJoin: "round" });
  };
  const line = (from, to) => {
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  };
  const send = () => {
    const pixels = context.getImageData(0, 0, SIDE, SIDE).data;
    const grey = Uint8Array.from({ length: SIDE * SIDE }, (_, i) => pixels[4 * i]);
    model.set("strokes", new DataView(grey.buffer));
    model.save_changes();
  };

  let last = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIDE) / box.width, ((event.clientY - box.top) * SIDE) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    line(last, place(event));
    last = place(event);
  });
  const lift = () => {
    if (last) send();
    last = null;
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);

  let cursor = [SIDE / 2, SIDE / 4];
  let lowered = false;
  const showPen = () => {
    pen.style.left = `${(100 * cursor[0]) / SIDE}%`;
    pen.style.top = `${(cursor[1] * canvas.clientHeight) / SIDE}px`;
    pen.classList.toggle("explore-lowered", lowered);
  };
  canvas.addEventListener("focus", showPen);
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      lowered = !lowered;
      if (lowered) line(cursor, cursor);
    } else if (event.key in ARROWS) {
      const to = cursor.map((at, axis) => Math.min(Math.max(at + KEY_STEP * ARROWS[event.key][axis], 0), SIDE));
      if (lowered) line(cursor, to);
      cursor = to;
    } else return;
    event.preventDefault();
    showPen();
    if (lowered) send();
  });
  clear.addEventListener("click", () => {
    wipe();
    send();
  });
  wipe();
}

export default { render };
