// The image larger: by keys, wheel, buttons, or two fingers; moved by dragging.

export class Zoom {
  constructor(frame, image) {
    [this.frame, this.image] = [frame, image];
    this.pointers = new Map();
    this.reset();
    frame.addEventListener("wheel", (event) => { event.preventDefault(); this.by(event.deltaY < 0 ? 1.2 : 1 / 1.2); }, { passive: false });
    frame.addEventListener("pointerdown", (event) => { frame.setPointerCapture(event.pointerId); this.pointers.set(event.pointerId, event); });
    frame.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
  }

  reset() {
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.show();
  }

  by(factor) {
    this.scale = Math.min(20, Math.max(1, this.scale * factor));
    if (this.scale === 1) [this.x, this.y] = [0, 0];
    this.show();
  }

  // By so many pixels.
  pan(x, y) {
    [this.x, this.y] = [this.x + x, this.y + y];
    this.show();
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [other] = [...this.pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (other) {
      const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      this.by(distance(event) / Math.max(1, distance(before)));
    } else if (this.scale > 1) {
      this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    }
  }

  show() {
    this.frame.classList.toggle("zoomed", this.scale > 1);
    this.image.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
  }
}
