// What is known of the samples, and which of them the filters show. A place is a position in the lists that the server gives.

export const SKIP = -1;
export const PENDING = -2;

export class Samples {
  constructor(told) {
    this.samples = told.samples;
    this.answers = told.answers;
    this.batch = told.batch;
    this.classes = told.classes;
    this.others = new Set(told.others);
    this.filter = { status: told.complete ? "batch" : "todo", label: -1, from: 0, to: 1 };
    // Answered in this tab under the filter of now: they stay where they are, so that ← goes back to them.
    this.kept = new Set();
    this.order();
  }

  key(place) { return this.samples[place][0]; }
  suggestion(place) { return this.samples[place][2]; }
  confidence(place) { return this.samples[place][3]; }
  answer(place) { return this.answers[place]; }
  name(label) { return label === SKIP ? "skipped" : label === PENDING ? "" : this.classes[label]; }

  suggested(place) {
    const label = this.suggestion(place);
    return label === null ? "" : `${this.classes[label]} (${Math.round(100 * this.confidence(place))} %)`;
  }

  get left() {
    let count = 0;
    for (let place = 0; place < this.batch; place++) count += this.answers[place] === PENDING;
    return count;
  }

  take(changes, others) {
    for (const [place, label] of changes) this.answers[place] = label;
    if (others) this.others = new Set(others);
  }

  choose(filter) {
    Object.assign(this.filter, filter);
    this.kept.clear();
    this.order();
  }

  keep(place) { this.kept.add(place); }

  order() {
    this.shown = [];
    for (let place = 0; place < this.samples.length; place++) if (this.matches(place)) this.shown.push(place);
  }

  matches(place) {
    if (this.kept.has(place)) return true;
    const { status, label, from, to } = this.filter;
    const answer = this.answers[place];
    const suggestion = this.suggestion(place);
    const confidence = this.confidence(place);
    if (status !== "all" && status !== "labeled" && status !== "skipped" && status !== "disagree" && place >= this.batch) return false;
    if (status === "todo" && answer !== PENDING) return false;
    if (status === "labeled" && answer < 0) return false;
    if (status === "skipped" && answer !== SKIP) return false;
    if (status === "disagree" && (answer < 0 || suggestion === null || answer === suggestion)) return false;
    if (label >= 0 && (answer >= 0 ? answer : suggestion) !== label) return false;
    return confidence === null ? from <= 0 : confidence >= from && confidence <= to;
  }

  // Places from a position of the shown ones on, then those before it: what may be shown next.
  after(position, onlyPending) {
    const turned = [...this.shown.slice(position), ...this.shown.slice(0, Math.max(0, position))];
    return onlyPending ? turned.filter((place) => this.answers[place] === PENDING) : turned;
  }
}
