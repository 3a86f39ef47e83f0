// The learning curve: labels to the right, the metric upwards.

const SVG = "http://www.w3.org/2000/svg";

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function drawCurve(figure, caption, curve) {
  const points = curve.points.filter(([labels, value]) => labels !== null && value !== null);
  figure.hidden = points.length === 0;
  figure.querySelector("svg")?.remove();
  if (!points.length) return;
  const unit = curve.unit ? ` ${curve.unit}` : "";
  const [most, values] = [Math.max(...points.map(([labels]) => labels)), points.map(([, value]) => value)];
  const [low, high] = curve.unit === "%" ? [0, 100] : [Math.min(...values), Math.max(...values)];
  const x = (labels) => 45 + (labels / most) * 400;
  const y = (value) => 170 - ((value - low) / (high - low || 1)) * 150;
  const svg = draw("svg", { viewBox: "0 0 470 205", role: "img", "aria-label": `${curve.metric} by labels` });
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(draw("line", { class: "axis", x1: 45, x2: 445, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: 40, y: y(value) + 4, "text-anchor": "end" }, Number(value.toPrecision(3))));
  }
  svg.append(draw("polyline", { class: "line", points: points.map(([labels, value]) => `${x(labels)},${y(value)}`).join(" ") }));
  for (const [labels, value] of points) {
    svg.append(draw("circle", { cx: x(labels), cy: y(value), r: 4 }));
    svg.append(draw("text", { x: x(labels), y: 188, "text-anchor": "middle" }, labels));
  }
  svg.append(draw("text", { x: 245, y: 202, "text-anchor": "middle" }, "labels"));
  figure.prepend(svg);
  const [labels, value] = points[points.length - 1];
  caption.textContent = `${curve.metric} ${value.toFixed(1)}${unit} with ${labels} labels`;
}
