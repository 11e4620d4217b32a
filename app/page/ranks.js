// The threshold rules, number for number those of worker/ranks/rules.py (tests compare the two).
// `s` holds the singular values s_1 >= ... >= s_r of an m x n matrix, in double precision.

const EPS = 2 ** -52;

export const RULES = ["entropy", "entropy_squared", "energy", "ratio"];

/** A spectrum made ready for one rule: `rank(tau)` then costs a binary search. */
export function prepare(rule, values, m, n, eps) {
  const r = values.length;
  if (!(values[0] > 0)) return { rank: () => 1 }; // all zeros
  if (rule === "ratio") return { rank: (tau) => ratioRank(m, n, tau) };
  const s = Float64Array.from(values, (v) => v / values[0]);
  const cumulative = cumulated(contributions(rule, s, eps));
  return {
    rank(tau) {
      if (tau === 1) return numericalRank(s, m, n, eps);
      const target = tau * cumulative[r - 1] * (1 - r * EPS);
      return clamp(firstAtLeast(cumulative, target) + 1, r);
    },
  };
}

export function breakEvenRank(m, n) {
  return Math.floor((m * n - 1) / (m + n));
}

/** `k` rounded up to a multiple, at most the full rank. */
export function applyMultiple(k, multiple, fullRank) {
  return Math.min(Math.ceil(k / multiple) * multiple, fullRank);
}

function contributions(rule, s, eps) {
  if (rule === "energy") return s.map((v) => v * v);
  const power = s.map((v) => (v > eps ? (rule === "entropy" ? v : v * v) : 0));
  const total = power.reduce((a, b) => a + b, 0);
  return power.map((v) => {
    const p = v / total;
    return p > 0 ? -p * Math.log(p) : 0;
  });
}

function cumulated(parts) {
  let sum = 0;
  return parts.map((v) => (sum += v));
}

/** The first index whose value is at least `target` in an ascending array. */
function firstAtLeast(ascending, target) {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < target) low = middle + 1;
    else high = middle;
  }
  return low;
}

function numericalRank(s, m, n, eps) {
  const floor = eps * Math.max(m, n);
  return clamp(s.reduce((count, v) => count + (v > floor ? 1 : 0), 0), s.length);
}

function ratioRank(m, n, ratio) {
  const exact = (ratio * (m * n)) / (m + n);
  return clamp(Math.floor(exact * (1 + 1e-12)), Math.min(m, n));
}

function clamp(k, r) {
  return Math.max(1, Math.min(k, r));
}
