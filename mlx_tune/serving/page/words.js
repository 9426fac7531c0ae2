// How numbers, times and sessions are written for a person.

/** Returns a share in whole percent: 100 only for all of them, 0 only for none. */
export function wholePercent({ right, asked }) {
  if (!right) return 0;
  return right === asked ? 100 : Math.min(Math.max(Math.round((100 * right) / asked), 1), 99);
}

/** Returns a share with what it is of, or a dash where nothing was measured. */
export function share(cell) {
  return cell?.asked ? `${wholePercent(cell)} % of ${cell.asked}` : "–";
}

/** Returns a number with one decimal, a true minus, and its sign where asked for. */
export function decimal(value, { signed = false, digits = 1 } = {}) {
  const rounded = Number(value.toFixed(digits));
  const sign = rounded < 0 ? "−" : signed && rounded > 0 ? "+" : "";
  return sign + Math.abs(rounded).toFixed(digits);
}

/** Returns a duration given in seconds, such as "3 min 34 s". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Returns a day and time as the browser's language writes them. */
export function moment(iso) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return String(iso);
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** Returns a count with its noun: "1 row", "60 rows". */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Returns "3 dining" for the folder name 0003-dining-7f3a9c12, anything else as it is. */
export function shortName(id) {
  const parts = /^0*(\d+)-(.+)-[0-9a-f]{6,}$/.exec(id ?? "");
  return parts ? `${parts[1]} ${parts[2]}` : String(id);
}
