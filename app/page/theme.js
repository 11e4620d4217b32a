// Runs before the first paint (a classic script in the head), so that a chosen theme does not flash.
// The choice is kept in the browser; without one the system's preference holds.
(() => {
  const KEY = "rankpress-theme";
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function stored() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is blocked: the choice lasts as long as the page
    }
  }

  function current() {
    return root.dataset.theme ?? (dark.matches ? "dark" : "light");
  }

  function label(button) {
    const other = current() === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark theme" : "Light theme";
  }

  const chosen = stored();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    label(button);
    dark.addEventListener("change", () => label(button));
    button.addEventListener("click", () => {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {
        // see stored()
      }
      label(button);
    });
  });
})();
